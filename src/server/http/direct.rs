//! Answers the request that nearly every client sends, one upgrade that arrives whole with the first read, without hyper.
//!
//! hyper is made for many requests on a connection and keeps buffers, a map of headers and a state for them. This way
//! takes a request only if nothing in it needs hyper, and decides with the same functions. Everything else goes to
//! [`connection`] with the bytes that were read: a request that is incomplete, malformed, for the API or
//! with a body, and one that is rejected, together with the reason, so that every rejection has one form.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::header::{CONNECTION, CONTENT_LENGTH, EXPECT, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::begin::accepted;
use super::connection::{self, MAX_HEAD_BYTES, Undecided, check_repeated};
use super::forwarded;
use super::lines::Lines;
use super::upgrade::{Accepted, Head, Upgraded, upgrade};
use crate::server::Server;
use crate::server::accept::listener::Protocols;
use crate::server::accept::pending::Waiting;
use crate::server::accept::stream::Stream;
use crate::server::session::task::{Session, with_read_buffer};

/// The most header lines of a request that is answered here. Browsers send about fifteen.
const MAX_LINES: usize = 32;

/// What became of the first read.
enum First {
    /// The client is let in, or told on philote.v1 why not.
    Upgraded {
        upgraded: Upgraded,
        client: SocketAddr,
        /// What is left to write of the answer, or to flush.
        unsent: Option<Vec<u8>>,
        /// The bytes after the request.
        read_ahead: Vec<u8>,
    },
    /// hyper must serve this connection.
    Undecided(Undecided),
}

/// Speaks HTTP with a new connection, whose first request has until `deadline`. Returns the session if it was upgraded.
pub(crate) async fn serve(
    server: Arc<Server>,
    mut stream: Stream,
    peer: SocketAddr,
    protocols: Protocols,
    deadline: Instant,
    waiting: Waiting,
) -> Option<Session> {
    let look = |context: &mut Context<'_>| {
        Poll::Ready(first(context, &server, &mut stream, peer, protocols, &waiting))
    };
    // In boxes, so that most connections do not pay for their size.
    match std::future::poll_fn(look).await {
        First::Upgraded { upgraded: Upgraded::Admitted(guard), unsent: None, read_ahead, .. } => {
            Some(Session::new(guard, stream, &read_ahead))
        }
        First::Upgraded { upgraded, client, unsent, read_ahead } => {
            let unsent = unsent.unwrap_or_default();
            Box::pin(accepted(server, stream, upgraded, client, &unsent, &read_ahead, waiting)).await
        }
        First::Undecided(undecided) => {
            let waiting = Arc::new(waiting);
            Box::pin(connection::serve(server, stream, peer, protocols, deadline, waiting, undecided)).await
        }
    }
}

/// Reads once, and answers the request if it is one for this way.
fn first(
    context: &mut Context<'_>,
    server: &Arc<Server>,
    stream: &mut Stream,
    peer: SocketAddr,
    protocols: Protocols,
    waiting: &Waiting,
) -> First {
    with_read_buffer(|buffer| {
        let mut target = ReadBuf::new(&mut buffer[..MAX_HEAD_BYTES]);
        // hyper finds an end or an error once more.
        let _ = Pin::new(&mut *stream).poll_read(context, &mut target);
        let read = target.filled();
        let undecided = |rejected| First::Undecided(Undecided { read: read.to_vec(), rejected });
        let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
        let Some((head, length)) = parse(read, &mut lines) else { return undecided(None) };
        let live = server.live();
        // The settings of --dev are checked by hyper's way only.
        if live.settings.dev || check_repeated(head.lines).is_err() || waiting.begin().is_err() {
            return undecided(None);
        }
        let client = forwarded::client(peer, head.lines, &live.settings.limits.trusted_proxies);
        let unbelieved = forwarded::is_unbelieved(peer, head.lines, &live.settings.limits.trusted_proxies);
        drop(live);
        match upgrade(server, client, protocols, &head) {
            Ok(accepted) => {
                if unbelieved {
                    server.counters.unbelieved.note(peer);
                }
                let unsent = send(context, server, stream, &accepted);
                let read_ahead = read[length..].to_vec();
                First::Upgraded { upgraded: accepted.upgraded, client, unsent, read_ahead }
            }
            Err(rejected) => undecided(Some(rejected)),
        }
    })
}

/// Returns the head of the request and its length if it is complete and nothing in it needs hyper.
fn parse<'a, 'h>(
    bytes: &'a [u8],
    lines: &'h mut [httparse::Header<'a>],
) -> Option<(Head<'h, [httparse::Header<'a>]>, usize)> {
    let mut request = httparse::Request::new(lines);
    let Ok(httparse::Status::Complete(length)) = request.parse(bytes) else { return None };
    let (Some("GET"), Some(1), Some(target)) = (request.method, request.version, request.path) else {
        return None;
    };
    let lines = &*request.headers;
    // Those of RFC 3986 section 3.3, about which no two parsers of targets disagree.
    let is_usual = |byte| matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'Z' | b'_' | b'a'..=b'z' | b'~');
    if !target.starts_with('/') || !target.bytes().all(is_usual) {
        return None;
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let is_below =
        |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if is_below("/api") || is_below("/health") {
        return None;
    }
    let needs_hyper = [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT].iter().any(|name| lines.has(name));
    // hyper repeats `close` in its answer.
    if needs_hyper || lines.has_word(&CONNECTION, "close") || !lines.has(&SEC_WEBSOCKET_KEY) {
        return None;
    }
    Some((Head { is_http_11: true, method: "GET", query, lines }, length))
}

/// Sends the answer, and returns what is left of it. In a cluster it must not be sent before this node is ready.
fn send(
    context: &mut Context<'_>,
    server: &Server,
    stream: &mut Stream,
    accepted: &Accepted,
) -> Option<Vec<u8>> {
    let mut answer = accepted.bytes();
    if server.cluster.is_none()
        && let Poll::Ready(Ok(count)) = Pin::new(&mut *stream).poll_write(context, &answer)
    {
        answer.drain(..count);
        if answer.is_empty() && Pin::new(stream).poll_flush(context).is_ready() {
            return None;
        }
    }
    Some(answer)
}
