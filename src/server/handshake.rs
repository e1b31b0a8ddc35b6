//! HTTP on a new connection: the upgrade to a WebSocket, or an answer of the API.
//!
//! A connection has `[websocket] handshake_timeout` for each request; one that is upgraded is handed to a session.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::listener::{How, MAX_PENDING, Waiting};
use super::presence::{Place, Presence};
use super::refusal::{Answer, Refused};
use super::session::Session;
use super::stream::Stream;
use super::tokens::Tokens;
use super::{Live, Refusal, Server, api, dev, first_frame, forwarded, origin};
use crate::access_key::AccessKey;
use crate::http::{self, Turn, Wire, linger, write, write_within};

/// The longest request head, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The most header lines of a request.
const MAX_HEADERS: usize = 100;

/// How long a client may take for what was unsent when its time was over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the requests of one connection share.
struct Exchange {
    server: Arc<Server>,
    /// Who is at the other end: perhaps a proxy, whose requests tell for whom they are.
    peer: SocketAddr,
    how: How,
    /// For each request.
    timeout: Duration,
    turn: Arc<Turn>,
    progress: Mutex<Progress>,
}

/// How far a connection has come.
struct Progress {
    /// When the current request is to be done.
    deadline: Instant,
    /// The upgrade that was answered with 101.
    upgraded: Option<Upgraded>,
    /// Who sent the last request.
    client: SocketAddr,
}

/// What became of a connection that was answered with 101.
enum Upgraded {
    /// It is in.
    Present(Presence),
    /// philote.v1: its token comes in the first frame.
    TokenFollows,
    /// philote.v1: it is refused, and reads why in a Close.
    Refused(Refused),
}

/// The subprotocol that gives a browser what the classic protocol lacks.
const V1: &str = "philote.v1";

/// What became of a connection that HTTP was spoken on.
enum Outcome {
    /// All is said; perhaps it was upgraded.
    Done,
    /// It is refused, and has not been told yet.
    Refused(Refusal),
    /// There is nobody to tell.
    Gone,
}

/// Speaks HTTP with a new connection, whose first request has until `deadline`. Returns the session if it was upgraded.
pub(super) async fn serve(
    server: Arc<Server>,
    stream: Stream,
    peer: SocketAddr,
    how: How,
    deadline: Instant,
    waiting: &Waiting,
) -> Option<Session> {
    let timeout = server.live().settings.websocket.handshake_timeout;
    let progress = Mutex::new(Progress { deadline, upgraded: None, client: peer });
    let exchange = Arc::new(Exchange { server, peer, how, timeout, turn: Arc::default(), progress });
    let (mut stream, read_ahead, outcome) = speak(&exchange, stream, waiting).await;
    let (upgraded, client) = {
        let mut progress = exchange.lock();
        (progress.upgraded.take(), progress.client)
    };
    let server = &exchange.server;
    match (outcome, upgraded) {
        (Outcome::Done, Some(Upgraded::Present(presence))) => {
            return Some(Session::new(presence, stream, &read_ahead));
        }
        // In boxes, so that who showed a token with the request does not pay for their size.
        (Outcome::Done, Some(Upgraded::TokenFollows)) => {
            match Box::pin(first_frame::enter(server, &mut stream, client, &read_ahead, timeout, waiting))
                .await
            {
                Ok((presence, rest)) => return Some(Session::new(presence, stream, &rest)),
                Err(Some(refused)) => {
                    Box::pin(first_frame::refuse(server, &mut stream, client, refused)).await;
                }
                Err(None) => {}
            }
        }
        (Outcome::Done, Some(Upgraded::Refused(refused))) => {
            Box::pin(first_frame::refuse(server, &mut stream, client, refused)).await;
        }
        (Outcome::Refused(refusal), _) => {
            write(&mut stream, &refusal.bytes()).await;
            server.refused(peer, refusal.into());
        }
        (Outcome::Done, None) | (Outcome::Gone, _) => {}
    }
    linger(&mut stream).await;
    None
}

/// Answers requests until one is the last. Returns the stream, with nothing unsent, and what was read ahead.
async fn speak(exchange: &Arc<Exchange>, stream: Stream, waiting: &Waiting) -> (Stream, Bytes, Outcome) {
    let service = {
        let exchange = exchange.clone();
        // hyper wants a future that may be moved when it gives back the stream.
        service_fn(move |request| -> Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>> {
            let exchange = exchange.clone();
            Box::pin(async move { Ok(exchange.answer(request).await) })
        })
    };
    let turn = &exchange.turn;
    let mut http = http1::Builder::new()
        // A client that only stopped sending gets its answer.
        .half_close(true)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Wire::new(stream, turn.clone())), service);
    let told_to_go = async {
        waiting.told_to_go().await;
        turn.not_answering().await;
    };
    let (ended, cut) = {
        let done = std::future::poll_fn(|context| http.poll_without_shutdown(context));
        tokio::select! {
            biased;
            result = done => (result, None),
            () = exchange.timed_out() => (Ok(()), Some(Refusal::Timeout)),
            () = told_to_go => (Ok(()), Some(Refusal::Pending(MAX_PENDING))),
        }
    };
    let parts = http.into_parts();
    let (mut stream, unsent) = parts.io.into_inner().into_parts();
    // What was not taken until now hardly will be where the time is over.
    let time = if cut.is_some() { LAST_WORDS } else { exchange.timeout };
    let outcome = if !unsent.is_empty() && !write_within(&mut stream, &unsent, time).await {
        Outcome::Gone
    } else {
        match (ended, cut) {
            (Err(error), _) => malformed(&error).map_or(Outcome::Gone, Outcome::Refused),
            // A request was begun. One that never said a word asked for nothing.
            (Ok(()), Some(refusal)) if !parts.read_buf.is_empty() => Outcome::Refused(refusal),
            (Ok(()), Some(_)) => Outcome::Gone,
            (Ok(()), None) => Outcome::Done,
        }
    };
    (stream, parts.read_buf, outcome)
}

/// Why hyper could not read a request; `None` where the connection broke.
fn malformed(error: &hyper::Error) -> Option<Refusal> {
    if error.is_parse_too_large() {
        Some(Refusal::HeadTooLarge)
    } else if error.is_parse() {
        // hyper tells its kinds of errors apart by words only.
        let error = error.to_string();
        Some(if error.contains("URI") {
            Refusal::BadRequest(
                "the request's target is malformed: characters such as \" < > and bytes that are no UTF-8 must be \
                 percent-encoded",
            )
        } else if error.contains("version") {
            Refusal::BadRequest(
                "the request line must end with HTTP/1.1, and spaces in its target must be percent-encoded",
            )
        } else {
            Refusal::BadParameter(format!("this is not HTTP/1.1: {error}"))
        })
    } else if error.is_incomplete_message() {
        Some(Refusal::BadRequest("the request ended before its head did"))
    } else {
        None
    }
}

impl Exchange {
    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        crate::sync::lock(&self.progress)
    }

    /// Waits until a request has taken too long to arrive, or its answer to be taken. Each request has its own time;
    /// one that arrived is answered, however long that takes.
    async fn timed_out(&self) {
        loop {
            let deadline = self.lock().deadline;
            if Instant::now() >= deadline && !self.turn.is_answering() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
            self.turn.not_answering().await;
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let hidden = self.turn.begin(request.headers()).await;
        let trusted = &self.server.live_full().settings.limits.trusted_proxies;
        let address = forwarded::client(self.peer, request.headers(), trusted);
        let result = self.route(request, address, hidden).await;
        let mut progress = self.lock();
        progress.client = address;
        progress.deadline = Instant::now() + self.timeout;
        self.turn.answered();
        match result {
            Ok((answer, upgraded)) => {
                progress.upgraded = upgraded;
                answer
            }
            Err(refused) => {
                let answer = refused.refusal.answer();
                self.server.refused(address, refused);
                answer
            }
        }
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        address: SocketAddr,
        hidden: usize,
    ) -> Result<(Answer, Option<Upgraded>), Refused> {
        let headers = request.headers();
        let chunked = http::check_framing(headers, hidden).map_err(Refusal::BadRequest)?;
        if self.server.live().settings.dev {
            dev::check(headers, &self.server.live().settings.websocket.allowed_origins)?;
        }
        let path = request.uri().path();
        let api = path == "/api" || path.starts_with("/api/");
        if chunked && !(api && request.method() == Method::POST) {
            return Err(
                Refusal::BadRequest("a request like this has no body, so no Transfer-Encoding").into()
            );
        }
        let health = path == "/health" || path.starts_with("/health/");
        if (api || health) && headers.contains_key(SEC_WEBSOCKET_KEY) {
            return Err(Refusal::NotHere.into());
        }
        if api && !self.how.api {
            return Err(Refusal::NotFound.into());
        }
        if health || api {
            let deadline = self.lock().deadline;
            return match api::answer(&self.server, address, deadline, request).await {
                Ok(answer) => Ok((answer, None)),
                // Who guesses tokens here tries to come in as well.
                Err(refusal @ Refusal::Token(_)) => {
                    Err(self.server.count_handshake(address.ip()).err().unwrap_or(refusal).into())
                }
                Err(refusal) => Err(refusal.into()),
            };
        }
        if self.server.live().settings.dev
            && let Some(page) = dev::answer(&request)
        {
            return Ok((page, None));
        }
        let (answer, upgraded) = upgrade(&self.server, address, self.how, &request)?;
        Ok((answer, Some(upgraded)))
    }
}

/// Checks an upgrade request and lets its connection in.
///
/// In the documented order: 400, 405 and 426, then 429, 503, 401, 403. With philote.v1 all from 429 on are told by a Close, which a page can read, but for a page of another origin: it has nothing to read here.
fn upgrade(
    server: &Arc<Server>,
    address: SocketAddr,
    how: How,
    request: &Request<Incoming>,
) -> Result<(Answer, Upgraded), Refused> {
    let key = check_upgrade(request, how)?;
    let tokens = Tokens::of(request)?;
    let live = server.live();
    let v1 = has_word(request.headers(), SEC_WEBSOCKET_PROTOCOL, V1);
    let upgraded = if v1 {
        check_origin(request.headers(), &live)?;
        let entered = if let Err(refusal) = server.count_handshake(address.ip()) {
            Err(refusal.into())
        } else if tokens.is_empty() {
            Place::free(server, &live).map(|()| Upgraded::TokenFollows).map_err(Refused::from)
        } else {
            enter(server, address, &tokens, &live, |_| Ok(()), true)
        };
        entered.unwrap_or_else(Upgraded::Refused)
    } else {
        let origin = |access: &AccessKey| {
            check_origin(request.headers(), &live).map_err(|refusal| refusal.of(access.subject.clone()))
        };
        server.count_handshake(address.ip())?;
        enter(server, address, &tokens, &live, origin, false)?
    };

    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if v1 {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(V1));
    }
    let accept = derive_accept_key(key.as_bytes());
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).map_err(|_| Refusal::Internal)?);
    Ok((answer, upgraded))
}

/// Lets in who has shown a token with the request.
fn enter(
    server: &Arc<Server>,
    address: SocketAddr,
    tokens: &Tokens,
    live: &Live,
    check: impl FnOnce(&AccessKey) -> Result<(), Refused>,
    v1: bool,
) -> Result<Upgraded, Refused> {
    let mut place = Place::take(server, live, address.ip())?;
    let access = tokens.verify(live).map_err(|refusal| refusal.of(tokens.claimed_subject()))?;
    check(&access)?;
    server.check_subject(&access).map_err(|refusal| refusal.of(access.subject.clone()))?;
    place.set_subject(&access, live)?;
    Ok(Upgraded::Present(Presence::enter(place, address, access, v1, &[])))
}

/// What RFC 6455 section 4.2.1 asks of a request. Returns the key.
fn check_upgrade(request: &Request<Incoming>, how: How) -> Result<&str, Refusal> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::BadRequest("a WebSocket needs HTTP/1.1"));
    }
    if request.method() != Method::GET {
        return Err(Refusal::Method("GET"));
    }
    if !headers.contains_key(HOST) {
        return Err(Refusal::BadRequest("the header Host is missing"));
    }
    if headers.get_all(ORIGIN).iter().nth(1).is_some() {
        return Err(Refusal::BadRequest("the header Origin is there twice"));
    }
    if headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
        return Err(Refusal::BadRequest("an upgrade request has no body"));
    }
    if !headers.contains_key(UPGRADE) && !headers.contains_key(SEC_WEBSOCKET_KEY) {
        return Err(Refusal::UpgradeRequired(if how.tls { "wss://" } else { "ws://" }));
    }
    if !has_word(headers, UPGRADE, "websocket") {
        return Err(Refusal::BadRequest("the header Upgrade must be websocket"));
    }
    if !has_word(headers, CONNECTION, "upgrade") {
        return Err(Refusal::BadRequest("the header Connection must name Upgrade"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::Version);
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().and_then(|key| key.to_str().ok()).filter(|key| is_key(key));
    match (key, keys.next()) {
        (Some(key), None) => Ok(key),
        _ => Err(Refusal::BadRequest("the header Sec-WebSocket-Key must be 16 bytes in base64")),
    }
}

/// Whether a header that is a list of words has this one, in any case.
fn has_word(headers: &HeaderMap, name: hyper::header::HeaderName, word: &str) -> bool {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|one| one.trim().eq_ignore_ascii_case(word))
}

/// Whether it is 16 bytes in base64. The sample key of RFC 6455 has bits set that no byte needs.
fn is_key(key: &str) -> bool {
    use base64::Engine;
    use base64::engine::{GeneralPurpose, general_purpose::PAD};
    const LENIENT: GeneralPurpose =
        GeneralPurpose::new(&base64::alphabet::STANDARD, PAD.with_decode_allow_trailing_bits(true));
    LENIENT.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

fn check_origin(headers: &HeaderMap, live: &Live) -> Result<(), Refusal> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let origin = String::from_utf8_lossy(origin.as_bytes());
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let websocket = &live.settings.websocket;
    if origin::allowed(&origin, host, websocket.check_origin, &websocket.allowed_origins) {
        Ok(())
    } else {
        Err(Refusal::Origin(origin.into_owned()))
    }
}
