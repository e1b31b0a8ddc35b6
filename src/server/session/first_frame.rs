//! philote.v1 before its token: the first frame brings it, within `[websocket] handshake_timeout`.
//!
//! A client that has shown no token holds no slot among the `max_connections`, only a place among the strangers (see
//! [`crate::server::accept::pending`]). It may send a few pings, and the first messages of all strangers share a
//! bound on memory. A Close tells why it is rejected.

use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::frames::{FrameLimits, FrameReader, Received};
use super::guard::ConnectionGuard;
use crate::deflate::Window;
use crate::frame::Frame;
use crate::http::write;
use crate::message::FromClient;
use crate::server::accept::pending::Waiting;
use crate::server::accept::stream::Stream;
use crate::server::admission::{Shown, admit};
use crate::server::rejection::{Rejected, Rejection};
use crate::server::{Server, record};

/// The most pings and pongs before the token. A client may test the path, and has nothing to keep alive yet.
pub(crate) const MAX_PINGS: usize = 16;

/// The most that one read takes, in bytes: a usual token whole.
const READ_BYTES: usize = 4 * 1024;

/// Waits for the token and admits its client. Returns the bytes that were read after it, too.
///
/// # Errors
/// Why the client is rejected; `None` if it closed the connection.
pub(crate) async fn enter(
    server: &Arc<Server>,
    stream: &mut Stream,
    address: SocketAddr,
    window: Option<Window>,
    read_ahead: &[u8],
    waiting: &Waiting,
) -> Result<(ConnectionGuard, Vec<u8>), Option<Rejected>> {
    let deadline = Instant::now() + server.live().settings.websocket.handshake_timeout;
    let key = server.address_key(address);
    waiting.belong(key).map_err(Rejected::from)?;
    waiting.go_on();
    let first = async {
        // Until the first byte of the message the client is as silent as one that has only connected.
        if read_ahead.is_empty() && waiting.fall_silent(key) {
            stream.readable().await;
            waiting.speak(key).await.map_err(Rejected::from)?;
        }
        first_message(server, stream, window.is_some(), read_ahead, waiting).await
    };
    let (message, rest) = match waiting.within(deadline, first).await {
        Ok(first) => first?,
        Err(Rejection::Timeout) => return Err(Some(Rejection::TokenTimeout.into())),
        Err(rejection) => return Err(Some(rejection.into())),
    };
    // The message is there, so its place is not judged by silence.
    waiting.begin().map_err(Rejected::from)?;
    reach(server, &message).await;
    let guard = let_in(server, address, window, &message)?;
    server.joined().await;
    Ok((guard, rest))
}

/// Tells a rejection by a Close.
pub(crate) async fn refuse(server: &Server, stream: &mut Stream, address: SocketAddr, refused: Rejected) {
    write(stream, &refused.rejection.close()).await;
    record::rejected(server, address, Rejected { by_close: true, ..refused });
}

/// Reads to the end of the first message, and answers the pings before it.
async fn first_message(
    server: &Server,
    stream: &mut Stream,
    deflate: bool,
    read_ahead: &[u8],
    waiting: &Waiting,
) -> Result<(String, Vec<u8>), Option<Rejected>> {
    let mut frames = FrameReader::default();
    let mut bytes = read_ahead.to_vec();
    let mut memory = waiting.first_message();
    let mut pings = 0;
    loop {
        let limits = {
            let live = server.live();
            let read_buffer = live.settings.websocket.read_buffer_size;
            FrameLimits { message: live.policy.longest_auth(), read_buffer, deflate }
        };
        memory.hold(bytes.len()).map_err(Rejected::from)?;
        let mut first = None;
        let mut closed = false;
        let mut replies: Vec<Frame> = Vec::new();
        let mut rest = &bytes[..];
        let read = frames.read(&mut rest, limits, server.now(), |received| {
            match received {
                // Bytes that are no text are no token, and nor is an empty text.
                Received::Message(message) => first = Some(message.text().unwrap_or_default().to_owned()),
                Received::Ping(pong) => {
                    pings += 1;
                    replies.push(pong);
                }
                Received::Pong => pings += 1,
                Received::Close(_, answer) => {
                    closed = true;
                    replies.push(answer);
                }
            }
            first.is_none() && !closed && pings <= MAX_PINGS
        });
        let rest = rest.to_vec();
        for reply in &replies {
            stream.write_all(reply).await.map_err(|_| None)?;
        }
        read.map_err(|reason| Some(Rejection::Frames(reason).into()))?;
        if closed {
            return Err(None);
        }
        if let Some(first) = first {
            return Ok((first, rest));
        }
        if pings > MAX_PINGS {
            return Err(Some(Rejection::Pings(MAX_PINGS).into()));
        }
        bytes = rest;
        if bytes.is_empty() {
            // No buffer is allocated before there is something to read.
            stream.readable().await;
            bytes.reserve_exact(READ_BYTES);
            if stream.read_buf(&mut bytes).await.map_err(|_| None)? == 0 {
                return Err(None);
            }
            waiting.heard();
        }
    }
}

/// Waits until this node has the messages of the cluster's log that the client has got already from another node.
async fn reach(server: &Server, message: &str) {
    let Some(cluster) = server.cluster.as_ref().filter(|cluster| cluster.has_log()) else { return };
    let behind = {
        let names = server.live().settings.limits.channel_name_bytes;
        let Ok(FromClient::Auth(auth)) = FromClient::parse(message, names, true) else { return };
        cluster.before_join(&[], &auth.since)
    };
    if let Some(behind) = behind {
        behind.await;
    }
}

/// Admits the client if the first message has a good token.
fn let_in(
    server: &Arc<Server>,
    address: SocketAddr,
    window: Option<Window>,
    message: &str,
) -> Result<ConnectionGuard, Rejected> {
    let live = server.live();
    let first = FromClient::parse(message, live.settings.limits.channel_name_bytes, true);
    let Ok(FromClient::Auth(auth)) = first else { return Err(Rejection::TokenFirst.into()) };
    if auth.token.is_empty() {
        return Err(Rejection::TokenFirst.into());
    }
    let admitted = admit(server, &live, address.ip(), &Shown::InFrame(&auth.token), Ok(()))?;
    Ok(ConnectionGuard::enter(admitted, address, true, window, &auth.since))
}
