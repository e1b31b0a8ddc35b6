//! The upgrade request: the requirements of RFC 6455, and the client's admission.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::answer::{Answer, whole};
use super::credentials::Credentials;
use super::origin;
use crate::server::accept::listener::Protocols;
use crate::server::admission::Shown;
use crate::server::rejection::{Rejected, Rejection};
use crate::server::session::guard::ConnectionGuard;
use crate::server::{Live, Server, admission};

/// What a connection becomes that was answered with 101.
pub(crate) enum Upgraded {
    /// It was admitted.
    Admitted(ConnectionGuard),
    /// On philote.v1: its token comes in the first frame.
    TokenFollows,
    /// On philote.v1: it is rejected, and a Close tells why.
    Rejected(Rejected),
}

/// The subprotocol that gives browsers what the classic protocol lacks.
const V1: &str = "philote.v1";

/// Checks an upgrade request and admits its client.
///
/// The order of the checks is documented: first the request (400, 405 and 426), then the rate of the address (429), then
/// those of [`admission`]. On philote.v1 every rejection from 429 on is sent in a Close, which
/// a page can read; only the origin is checked before, and a page of another origin gets 403.
pub(crate) fn upgrade(
    server: &Arc<Server>,
    address: SocketAddr,
    protocols: Protocols,
    request: &Request<Incoming>,
) -> Result<(Answer, Upgraded), Rejected> {
    let key = check_upgrade(request, protocols)?;
    let tokens = Credentials::of(request)?;
    let live = server.live();
    let v1 = has_word(request.headers(), SEC_WEBSOCKET_PROTOCOL, V1);
    let origin = check_origin(request.headers(), &live);
    let upgraded = if v1 {
        origin?;
        let entered = if let Err(rejection) = admission::count_handshake(server, &live, address.ip()) {
            Err(rejection.into())
        } else if tokens.is_empty() {
            admission::check_room(server, &live).map(|()| Upgraded::TokenFollows).map_err(Rejected::from)
        } else {
            enter(server, &live, address, &tokens, Ok(()), true)
        };
        entered.unwrap_or_else(Upgraded::Rejected)
    } else {
        admission::count_handshake(server, &live, address.ip())?;
        enter(server, &live, address, &tokens, origin, false)?
    };
    let mut answer = Response::new(whole(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if v1 {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(V1));
    }
    let accept = derive_accept_key(key.as_bytes());
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).map_err(|_| Rejection::Internal)?);
    Ok((answer, upgraded))
}

/// Admits a client whose token came with its request.
fn enter(
    server: &Arc<Server>,
    live: &Live,
    address: SocketAddr,
    tokens: &Credentials,
    origin: Result<(), Rejection>,
    v1: bool,
) -> Result<Upgraded, Rejected> {
    let admitted = admission::admit(server, live, address.ip(), &Shown::InRequest(tokens), origin)?;
    Ok(Upgraded::Admitted(ConnectionGuard::enter(admitted, address, v1, &[])))
}

/// Checks what RFC 6455 section 4.2.1 requires of a request. Returns the key.
fn check_upgrade(request: &Request<Incoming>, protocols: Protocols) -> Result<&str, Rejection> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11 {
        return Err(Rejection::BadRequest("a WebSocket needs HTTP/1.1"));
    }
    if request.method() != Method::GET {
        return Err(Rejection::Method("GET"));
    }
    if !headers.contains_key(HOST) {
        return Err(Rejection::BadRequest("the header Host is missing"));
    }
    if headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
        return Err(Rejection::BadRequest("an upgrade request has no body"));
    }
    if !headers.contains_key(UPGRADE) && !headers.contains_key(SEC_WEBSOCKET_KEY) {
        return Err(Rejection::UpgradeRequired(if protocols.tls { "wss://" } else { "ws://" }));
    }
    if !has_word(headers, UPGRADE, "websocket") {
        return Err(Rejection::BadRequest("the header Upgrade must be websocket"));
    }
    if !has_word(headers, CONNECTION, "upgrade") {
        return Err(Rejection::BadRequest("the header Connection must name Upgrade"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Rejection::Version);
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().and_then(|key| key.to_str().ok()).filter(|key| is_key(key));
    match (key, keys.next()) {
        (Some(key), None) => Ok(key),
        _ => Err(Rejection::BadRequest("the header Sec-WebSocket-Key must be 16 bytes in base64")),
    }
}

/// Returns whether a header that is a list of words contains this one, in any case.
pub(crate) fn has_word(headers: &HeaderMap, name: hyper::header::HeaderName, word: &str) -> bool {
    let words =
        headers.get_all(name).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    words.into_iter().any(|one| one.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// Returns whether the key is 16 bytes in base64. The sample key of RFC 6455 sets bits that no byte uses.
fn is_key(key: &str) -> bool {
    use base64::Engine;
    use base64::engine::{GeneralPurpose, general_purpose::PAD};
    static LENIENT: GeneralPurpose =
        GeneralPurpose::new(&base64::alphabet::STANDARD, PAD.with_decode_allow_trailing_bits(true));
    LENIENT.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

fn check_origin(headers: &HeaderMap, live: &Live) -> Result<(), Rejection> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let origin = String::from_utf8_lossy(origin.as_bytes());
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let websocket = &live.settings.websocket;
    if origin::allowed(&origin, host, websocket.check_origin, &websocket.allowed_origins) {
        Ok(())
    } else {
        Err(Rejection::Origin(origin.into_owned()))
    }
}
