//! The upgrade request: the requirements of RFC 6455, and the client's admission.

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{PAD, STANDARD};
use bytes::Bytes;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Response, StatusCode};

use super::answer::{Answer, whole};
use super::credentials::Credentials;
use super::lines::{Lines, visible};
use super::origin::check_origin;
use crate::deflate::{Agreement, Window, negotiate};
use crate::server::accept::listener::Protocols;
use crate::server::admission::Shown;
use crate::server::rejection::{Rejected, Rejection};
use crate::server::session::guard::ConnectionGuard;
use crate::server::sse::Opened;
use crate::server::{Live, Server, admission};

/// What a connection becomes whose HTTP has ended.
pub(crate) enum Upgraded {
    /// It was admitted.
    Admitted(ConnectionGuard),
    /// On philote.v1: its token comes in the first frame, which may be compressed if there is a window.
    TokenFollows(Option<Window>),
    /// On philote.v1: it is rejected, and a Close tells why.
    Rejected(Rejected),
    /// It was admitted to a stream of events, which is answered with 200.
    Events(Box<Opened>),
}

/// The subprotocol that gives browsers what the classic protocol lacks.
const V1: &str = "philote.v1";

/// The length of `Sec-WebSocket-Accept`: a SHA-1 digest in base64.
const ACCEPT_BYTES: usize = 28;

/// The head of a request, as far as an upgrade depends on it.
pub(crate) struct Head<'a, L: ?Sized> {
    pub(crate) is_http_11: bool,
    pub(crate) method: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) lines: &'a L,
}

/// A request that is answered with 101.
pub(crate) struct Accepted {
    pub(crate) upgraded: Upgraded,
    accept: [u8; ACCEPT_BYTES],
    v1: bool,
    deflate: Option<Agreement>,
}

impl Accepted {
    /// Returns the answer for hyper.
    pub(crate) fn answer(&self) -> Result<Answer, Rejection> {
        let mut answer = Response::new(whole(Bytes::new()));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if self.v1 {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(V1));
        }
        if let Some(agreement) = self.deflate {
            let extensions = HeaderValue::from_str(&agreement.answer()).map_err(|_| Rejection::Internal)?;
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, extensions);
        }
        let accept = HeaderValue::from_bytes(&self.accept).map_err(|_| Rejection::Internal)?;
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        Ok(answer)
    }

    /// Returns the same answer as bytes. It has no `Date`, which an answer of this class need not have.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        const BEFORE: &[u8] =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: ";
        let protocol: &[u8] = if self.v1 { b"\r\nsec-websocket-protocol: philote.v1" } else { b"" };
        let extensions =
            |agreement: Agreement| format!("\r\nsec-websocket-extensions: {}", agreement.answer());
        let extensions = self.deflate.map(extensions).unwrap_or_default();
        [BEFORE, &self.accept, protocol, extensions.as_bytes(), b"\r\n\r\n"].concat()
    }
}

/// Checks an upgrade request and admits its client.
///
/// The order of the checks is documented: first the request (400, 405 and 426), then the rate of the address (429), then
/// those of [`admission`]. On philote.v1 every rejection from 429 on is sent in a Close, which
/// a page can read; only the origin is checked before, and a page of another origin gets 403.
pub(crate) fn upgrade<L: Lines + ?Sized>(
    server: &Arc<Server>,
    address: SocketAddr,
    protocols: Protocols,
    head: &Head<'_, L>,
) -> Result<Accepted, Rejected> {
    let key = check_upgrade(head, protocols)?;
    let tokens = Credentials::of(head.query, head.lines)?;
    let live = server.live();
    let v1 = head.lines.has_exactly(&SEC_WEBSOCKET_PROTOCOL, V1);
    let is_offered = live.settings.websocket.compression.is_some();
    let deflate = is_offered.then(|| negotiate(head.lines.all(&SEC_WEBSOCKET_EXTENSIONS))).flatten();
    let window = deflate.map(|agreement| agreement.window);
    let origin = check_origin(head.lines, &live);
    let upgraded = if v1 {
        origin?;
        let entered = if let Err(rejection) = admission::count_handshake(server, &live, address.ip()) {
            Err(rejection.into())
        } else if tokens.is_empty() {
            let room = admission::check_room(server, &live);
            room.map(|()| Upgraded::TokenFollows(window)).map_err(Rejected::from)
        } else {
            enter(server, &live, address, &tokens, Ok(()), (true, window))
        };
        entered.unwrap_or_else(Upgraded::Rejected)
    } else {
        admission::count_handshake(server, &live, address.ip())?;
        enter(server, &live, address, &tokens, origin, (false, window))?
    };
    Ok(Accepted { upgraded, accept: accept_of(key), v1, deflate })
}

/// Returns the proof that a server has read this key (RFC 6455 section 4.2.2).
fn accept_of(key: &str) -> [u8; ACCEPT_BYTES] {
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let mut accept = [0; ACCEPT_BYTES];
    // It fits, because a digest of 20 bytes has 28 characters.
    let _ = STANDARD.encode_slice(digest.finish(), &mut accept);
    accept
}

/// Admits a client whose token came with its request.
fn enter(
    server: &Arc<Server>,
    live: &Live,
    address: SocketAddr,
    tokens: &Credentials<'_>,
    origin: Result<(), Rejection>,
    (v1, window): (bool, Option<Window>),
) -> Result<Upgraded, Rejected> {
    let admitted = admission::admit(server, live, address.ip(), &Shown::InRequest(tokens), origin)?;
    Ok(Upgraded::Admitted(ConnectionGuard::enter(admitted, address, v1, window, &[])))
}

/// Checks what RFC 6455 section 4.2.1 requires of a request. Returns the key.
fn check_upgrade<'a, L: Lines + ?Sized>(
    head: &Head<'a, L>,
    protocols: Protocols,
) -> Result<&'a str, Rejection> {
    let lines = head.lines;
    if !head.is_http_11 {
        return Err(Rejection::BadRequest("a WebSocket needs HTTP/1.1"));
    }
    if head.method != "GET" {
        return Err(Rejection::Method("GET, POST"));
    }
    if !lines.has(&HOST) {
        return Err(Rejection::BadRequest("the header Host is missing"));
    }
    if lines.first(&CONTENT_LENGTH).is_some_and(|length| length != b"0") {
        return Err(Rejection::BadRequest("an upgrade request has no body"));
    }
    if !lines.has(&UPGRADE) && !lines.has(&SEC_WEBSOCKET_KEY) {
        return Err(Rejection::UpgradeRequired(if protocols.tls { "wss://" } else { "ws://" }));
    }
    if !lines.has_word(&UPGRADE, "websocket") {
        return Err(Rejection::BadRequest("the header Upgrade must be websocket"));
    }
    if !lines.has_word(&CONNECTION, "upgrade") {
        return Err(Rejection::BadRequest("the header Connection must name Upgrade"));
    }
    if lines.first(&SEC_WEBSOCKET_VERSION).is_none_or(|version| version != b"13") {
        return Err(Rejection::Version);
    }
    let name = SEC_WEBSOCKET_KEY;
    let mut keys = lines.all(&name);
    let key = keys.next().and_then(visible).filter(|key| is_key(key));
    match (key, keys.next()) {
        (Some(key), None) => Ok(key),
        _ => Err(Rejection::BadRequest("the header Sec-WebSocket-Key must be 16 bytes in base64")),
    }
}

/// Returns whether the key is 16 bytes in base64. The sample key of RFC 6455 sets bits that no byte uses.
fn is_key(key: &str) -> bool {
    static LENIENT: GeneralPurpose =
        GeneralPurpose::new(&base64::alphabet::STANDARD, PAD.with_decode_allow_trailing_bits(true));
    let mut bytes = [0; 18];
    key.len() == 24 && LENIENT.decode_slice(key, &mut bytes).is_ok_and(|count| count == 16)
}
