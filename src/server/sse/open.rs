//! Admits the client of a stream of events, and begins the stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};
use hyper::{Request, Response, StatusCode, Version};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::asked::MEDIA_TYPE;
use super::cors::Page;
use super::event::{Encoder, Framing};
use super::query::Wanted;
use super::reading::Reading;
use crate::frame;
use crate::hub::Transport;
use crate::message::Since;
use crate::server::accept::pending::Waiting;
use crate::server::accept::stream::Stream;
use crate::server::admission::{Shown, admit, count_handshake};
use crate::server::http::answer::{Answer, whole};
use crate::server::http::credentials::Credentials;
use crate::server::http::origin::check_origin;
use crate::server::rejection::{Rejected, Rejection};
use crate::server::session::guard::ConnectionGuard;
use crate::server::{Server, record};

/// Tells nginx to pass on each event at once.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A stream of events whose client was admitted.
pub(crate) struct Opened {
    guard: ConnectionGuard,
    framing: Framing,
    /// The head of the answer.
    head: Vec<u8>,
}

/// What becomes of a request for a stream of events.
pub(crate) enum Opening {
    /// It begins.
    Opened(Box<Opened>),
    /// It is answered at once: the client is told by a close event, or must not come back.
    Answered(Answer),
}

/// Checks a request and admits its client.
///
/// The order is that of an upgrade. A rejection that is temporary is told by a close event: a browser gives up at every
/// other status than 200, and shows its page neither status nor body.
pub(crate) async fn open<B>(
    server: &Arc<Server>,
    address: SocketAddr,
    request: &Request<B>,
) -> Result<Opening, Rejected> {
    let (headers, query) = (request.headers(), request.uri().query());
    let live = server.live_owned();
    if headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
        return Err(Rejection::BadRequest("a request for events has no body").into());
    }
    check_host(request)?;
    let tokens = Credentials::of(query, headers)?;
    let names = live.settings.limits.channel_name_bytes;
    let wanted = Wanted::parse(query.unwrap_or_default(), headers, names)?;
    let page = Page::of(request, &live);
    if wanted.is_closed {
        let mut answer = Response::new(whole(""));
        *answer.status_mut() = StatusCode::NO_CONTENT;
        return Ok(Opening::Answered(answer));
    }
    reach(server, &wanted.since).await;
    let admitted = count_handshake(server, &live, address.ip()).map_err(Rejected::from).and_then(|()| {
        let origin = check_origin(headers, &live);
        let admitted = admit(server, &live, address.ip(), &Shown::InRequest(&tokens), origin)?;
        admitted.reading(|claims| wanted.channels(claims))
    });
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err(rejected) if rejected.rejection.is_temporary() => {
            return Ok(Opening::Answered(told(server, address, rejected)));
        }
        Err(rejected) => return Err(rejected),
    };
    let guard = ConnectionGuard::enter_over(Transport::Events, admitted, address, true, None, &wanted.since);
    server.joined().await;
    let framing = if request.version() == Version::HTTP_11 { Framing::Chunked } else { Framing::UntilEnd };
    let mut head = HeaderMap::new();
    add_headers(&mut head);
    head.insert(CONNECTION, HeaderValue::from_static("close"));
    if framing == Framing::Chunked {
        head.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now())) {
        head.insert(DATE, date);
    }
    page.allow(&mut head);
    Ok(Opening::Opened(Box::new(Opened { guard, framing, head: head_bytes(&head) })))
}

/// # Errors
/// The header that HTTP/1.1 requires is missing.
pub(super) fn check_host<B>(request: &Request<B>) -> Result<(), Rejection> {
    if request.version() == Version::HTTP_11 && !request.headers().contains_key(HOST) {
        return Err(Rejection::BadRequest("the header Host is missing"));
    }
    Ok(())
}

/// Waits until this node has the messages of the cluster's log that the client has got already from another node.
async fn reach(server: &Server, since: &[Since<'_>]) {
    let Some(cluster) = server.cluster.as_ref().filter(|cluster| cluster.has_log()) else { return };
    if let Some(behind) = cluster.before_join(&[], since) {
        behind.await;
    }
}

/// Returns the answer that tells a temporary rejection.
fn told(server: &Server, address: SocketAddr, rejected: Rejected) -> Answer {
    let mut event = Vec::new();
    let close = rejected.rejection.close();
    if let Some((part, _)) = frame::split(&close) {
        Encoder::new(Framing::UntilEnd, rand()).append(&part, &mut event);
    }
    record::rejected(server, address, Rejected { by_close: true, ..rejected });
    let mut answer = Response::new(whole(event));
    add_headers(answer.headers_mut());
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Returns a number that differs from stream to stream.
fn rand() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}

fn add_headers(headers: &mut HeaderMap) {
    for (name, value) in [(CONTENT_TYPE, MEDIA_TYPE), (CACHE_CONTROL, "no-store"), (X_ACCEL_BUFFERING, "no")]
    {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn head_bytes(headers: &HeaderMap) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Sends the head of the answer and starts the task of a stream.
pub(crate) async fn begin(server: &Server, mut stream: Stream, opened: Box<Opened>, waiting: &Waiting) {
    let Opened { guard, framing, head } = *opened;
    waiting.go_on();
    let deadline = Instant::now() + server.live().settings.websocket.handshake_timeout;
    let sent = async {
        stream.write_all(&head).await?;
        stream.flush().await
    };
    if let Ok(Ok(())) = waiting.within(deadline, sent).await {
        let random = guard.connection.id().as_u64_pair().1;
        tokio::spawn(Reading::new(guard, stream, Encoder::new(framing, random)));
    } else {
        drop(guard);
        waiting.linger(&mut stream).await;
    }
}
