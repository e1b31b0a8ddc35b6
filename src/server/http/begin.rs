//! Begins the session of a connection whose upgrade was accepted: the rest of the answer, and the token if it follows in a
//! frame.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::upgrade::Upgraded;
use crate::server::accept::pending::Waiting;
use crate::server::accept::stream::Stream;
use crate::server::rejection::Rejection;
use crate::server::session::first_frame;
use crate::server::session::task::Session;
use crate::server::{Server, record, sse};

/// Sends what is left of the answer to a request that was accepted, and then does what [`begin`] does.
pub(super) async fn accepted(
    server: Arc<Server>,
    mut stream: Stream,
    upgraded: Upgraded,
    client: SocketAddr,
    unsent: &[u8],
    read_ahead: &[u8],
    waiting: Waiting,
) -> Option<Session> {
    server.joined().await;
    waiting.go_on();
    let deadline = Instant::now() + server.live().settings.websocket.handshake_timeout;
    let sent = async {
        stream.write_all(unsent).await?;
        stream.flush().await
    };
    match waiting.within(deadline, sent).await {
        Ok(Ok(())) => return begin(&server, stream, upgraded, client, read_ahead, &waiting).await,
        Err(rejection @ (Rejection::Pending(_) | Rejection::Kept(_))) => {
            record::rejected(&server, client, rejection.into());
            server.pending.send_away(&mut stream, &[]).await;
        }
        _ => waiting.linger(&mut stream).await,
    }
    None
}

/// Returns the session of a connection whose request was answered with 101, after its token if that follows in a frame.
/// `read_ahead` are the bytes after the request.
pub(super) async fn begin(
    server: &Arc<Server>,
    mut stream: Stream,
    upgraded: Upgraded,
    client: SocketAddr,
    read_ahead: &[u8],
    waiting: &Waiting,
) -> Option<Session> {
    // In boxes, so that a client that showed a token with its request does not pay for their size.
    let refused = match upgraded {
        Upgraded::Admitted(guard) => return Some(Session::new(guard, stream, read_ahead)),
        Upgraded::Events(opened) => {
            Box::pin(sse::begin(server, stream, opened, waiting)).await;
            return None;
        }
        Upgraded::TokenFollows(window) => {
            let entered = first_frame::enter(server, &mut stream, client, window, read_ahead, waiting);
            match Box::pin(entered).await {
                Ok((guard, rest)) => return Some(Session::new(guard, stream, &rest)),
                Err(refused) => refused,
            }
        }
        Upgraded::Rejected(refused) => Some(refused),
    };
    if let Some(refused) = refused {
        Box::pin(first_frame::refuse(server, &mut stream, client, refused)).await;
    }
    Box::pin(waiting.linger(&mut stream)).await;
    None
}
