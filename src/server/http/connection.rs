//! Speaks HTTP on a new connection: an upgrade to a WebSocket, or answers of the API. hyper serves the connections whose
//! first request [`direct`](super::direct) does not answer.
//!
//! A connection has `[websocket] handshake_timeout` for each request, and `[http] keep_alive_timeout` until the next
//! one. An upgraded connection becomes a session.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Version};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::answer::{Answer, whole};
use super::begin::begin;
use super::lines::Lines;
use super::upgrade::{Head, Upgraded, upgrade};
use super::watched::{Watch, Watched};
use super::{api, dev, forwarded, visit};
use crate::feed::Following;
use crate::http::{self, Turn, Wire, write, write_within};
use crate::server::accept::listener::Protocols;
use crate::server::accept::pending::{Waiting, address_key};
use crate::server::accept::stream::Stream;
use crate::server::rejection::{Rejected, Rejection};
use crate::server::session::task::Session;
use crate::server::sse::{self, Asked, Opening};
use crate::server::{Server, admission, record};

/// The longest request head, in bytes.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Added to the keep-alive timeout that the client was given, because a request may be on its way.
const KEEP_ALIVE_SLACK: Duration = Duration::from_secs(2);

/// The most header lines of a request.
const MAX_HEADERS: usize = 100;

/// How long a client may take for what was unsent when its time was over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long the client of an endless answer may take nothing of it before it is cut. More often than that, there is something to
/// take.
const STREAM_PATIENCE: Duration = Duration::from_secs(2 * api::KEEP_ALIVE.as_secs());

/// The state that the requests of one connection share.
struct Exchange {
    server: Arc<Server>,
    /// The address of the peer, which may be a proxy that names the client in each request.
    peer: SocketAddr,
    protocols: Protocols,
    /// The time for each request.
    timeout: Duration,
    turn: Arc<Turn>,
    waiting: Arc<Waiting>,
    progress: Mutex<Progress>,
    /// Notified when the deadline has come nearer.
    hurry: Notify,
    /// Notified when the connection becomes a stream of events, whose answer hyper does not send.
    leaves: Notify,
}

/// The progress of a connection.
struct Progress {
    /// When the current request must be done, or the next one begin.
    deadline: Instant,
    /// The last answer is not written yet.
    unwritten: bool,
    /// No request has come since the last answer.
    idle: bool,
    /// What follows the last answer, such as the upgrade that was answered with 101.
    upgraded: Option<Upgraded>,
    /// The events that are being sent.
    events: Option<Arc<Following>>,
    /// The address of the client that sent the last request.
    client: SocketAddr,
    /// Why the first request is rejected, if that was found out before.
    rejected: Option<Rejected>,
}

/// What hyper needs to know of the first read.
#[derive(Default)]
pub(crate) struct Undecided {
    pub(crate) read: Vec<u8>,
    /// Why the request is rejected.
    pub(crate) rejected: Option<Rejected>,
}

/// The end of HTTP on a connection.
enum Outcome {
    /// Everything is sent; the connection may have been upgraded.
    Done,
    /// The connection is rejected, and its client has not been told yet.
    Rejected(Rejection),
    /// The connection must make room for others, and no request of it is being answered.
    SentAway {
        rejection: Rejection,
        /// No answer is partly sent, so that the client can be told.
        tell: bool,
    },
    /// Nobody is left to tell.
    Gone,
}

/// Speaks HTTP with a new connection by hyper. Its first request has until `deadline`; some of it may have been read already.
/// Returns the session if it was upgraded.
pub(crate) async fn serve(
    server: Arc<Server>,
    stream: Stream,
    peer: SocketAddr,
    protocols: Protocols,
    deadline: Instant,
    waiting: Arc<Waiting>,
    Undecided { read, rejected }: Undecided,
) -> Option<Session> {
    let timeout = server.live().settings.websocket.handshake_timeout;
    let progress = Progress {
        deadline,
        upgraded: None,
        unwritten: false,
        idle: false,
        events: None,
        client: peer,
        rejected,
    };
    let exchange = Arc::new(Exchange {
        server,
        peer,
        protocols,
        timeout,
        turn: Arc::default(),
        waiting: waiting.clone(),
        progress: Mutex::new(progress),
        hurry: Notify::new(),
        leaves: Notify::new(),
    });
    let (mut stream, read_ahead, outcome) = Box::pin(speak(&exchange, stream, read, &waiting)).await;
    let (upgraded, client) = {
        let mut progress = exchange.lock();
        // Everything is sent, so a daemon that stops need not wait for them any more.
        drop(progress.events.take());
        (progress.upgraded.take(), progress.client)
    };
    let server = &exchange.server;
    match (outcome, upgraded) {
        (Outcome::Done, Some(upgraded)) => {
            return begin(server, stream, upgraded, client, &read_ahead, &waiting).await;
        }
        (Outcome::Rejected(rejection), _) => {
            write(&mut stream, &rejection.bytes()).await;
            record::rejected(server, peer, rejection.into());
        }
        (Outcome::SentAway { rejection, tell }, _) => {
            let answer = if tell { rejection.bytes() } else { Vec::new() };
            record::rejected(server, client, rejection.into());
            Box::pin(server.pending.send_away(&mut stream, &answer)).await;
            return None;
        }
        (Outcome::Done, None) | (Outcome::Gone, _) => {}
    }
    waiting.linger(&mut stream).await;
    None
}

/// Answers requests until one is the last. Returns the stream, with nothing unsent, and the bytes that were read
/// ahead.
async fn speak(
    exchange: &Arc<Exchange>,
    stream: Stream,
    read: Vec<u8>,
    waiting: &Waiting,
) -> (Stream, Vec<u8>, Outcome) {
    let service = {
        let exchange = exchange.clone();
        // hyper gives the stream back only with a future that can be moved.
        service_fn(move |request| -> Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>> {
            let exchange = exchange.clone();
            Box::pin(async move { Ok(exchange.answer(request).await) })
        })
    };
    let turn = &exchange.turn;
    let mut http = http1::Builder::new()
        // A client that has only stopped sending gets its answer.
        .half_close(true)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(
            TokioIo::new(Wire::new(Watched::new(stream, read, exchange.clone()), turn.clone())),
            service,
        );
    let (ended, cut) = {
        let done = std::future::poll_fn(|context| http.poll_without_shutdown(context));
        tokio::select! {
            biased;
            result = done => (result, None),
            () = exchange.timed_out() => (Ok(()), Some(Rejection::Timeout)),
            rejection = waiting.told_to_go() => (Ok(()), Some(rejection)),
            () = exchange.leaves.notified() => (Ok(()), None),
        }
    };
    let parts = http.into_parts();
    let (stream, unsent) = parts.io.into_inner().into_parts();
    let mut stream = stream.into_inner();
    // When the time is over, the client will hardly take what it has not taken until now.
    let time = if cut.is_some() { LAST_WORDS } else { exchange.timeout };
    let sent = unsent.is_empty() || write_within(&mut stream, &unsent, time).await;
    let outcome = match (ended, cut) {
        (_, Some(rejection @ (Rejection::Pending(_) | Rejection::Kept(_)))) => {
            Outcome::SentAway { rejection, tell: sent }
        }
        _ if !sent || turn.is_streaming() => Outcome::Gone,
        (Err(error), _) => malformed(&error, turn).map_or(Outcome::Gone, Outcome::Rejected),
        // A request was begun. A client that has sent nothing gets no answer.
        (Ok(()), Some(rejection)) if !parts.read_buf.is_empty() => Outcome::Rejected(rejection),
        (Ok(()), Some(_)) => Outcome::Gone,
        (Ok(()), None) => Outcome::Done,
    };
    // A copy: even an empty slice keeps hyper's buffer of 8 KiB.
    (stream, parts.read_buf.to_vec(), outcome)
}

/// Returns why hyper could not read a request; `None` if the connection broke.
fn malformed(error: &hyper::Error, turn: &Turn) -> Option<Rejection> {
    if error.is_parse_too_large() {
        let body = turn.promises_too_much();
        Some(if body { Rejection::BodyTooLarge(api::LONGEST_BODY) } else { Rejection::HeadTooLarge })
    } else if error.is_parse() {
        // hyper distinguishes its errors by text only.
        let error = error.to_string();
        Some(if error.contains("URI") {
            Rejection::BadRequest(
                "the request's target is malformed: characters such as \" < > and bytes that are not UTF-8 must be \
                 percent-encoded",
            )
        } else if error.contains("version") {
            Rejection::BadRequest(
                "the request line must end with HTTP/1.1, and spaces in its target must be percent-encoded",
            )
        } else {
            Rejection::BadParameter(format!("this is not HTTP/1.1: {error}"))
        })
    } else if error.is_incomplete_message() {
        Some(Rejection::BadRequest("the request ended before its head was complete"))
    } else {
        None
    }
}

impl Exchange {
    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        crate::sync::lock(&self.progress)
    }

    /// Waits until the deadline passes for the request to arrive, for the client to read the answer, or for the next request
    /// to begin. Each request has its own time. A request that has arrived is answered, however long that takes.
    async fn timed_out(&self) {
        loop {
            let deadline = self.lock().deadline;
            if Instant::now() >= deadline && !self.turn.is_answering() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => self.turn.not_answering().await,
                () = self.hurry.notified() => {}
            }
        }
    }

    /// Begins a request. Its time begins now, unless one was in progress.
    fn busy(&self, progress: &mut Progress) {
        if std::mem::take(&mut progress.idle) {
            progress.deadline = Instant::now() + self.timeout;
            self.hurry.notify_one();
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let hidden = self.turn.begin(request.headers()).await;
        if self.waiting.begin().is_err() {
            // It must make room, and serve() tells its client.
            return std::future::pending().await;
        }
        let rejected = {
            let mut progress = self.lock();
            self.busy(&mut progress);
            progress.rejected.take()
        };
        let keeps = keeps_alive(&request);
        let trusted = &self.server.live_owned().settings.limits.trusted_proxies;
        let address = forwarded::client(self.peer, request.headers(), trusted);
        self.waiting.requested_by(address_key(address, trusted));
        if forwarded::is_unbelieved(self.peer, request.headers(), trusted) {
            self.server.counters.unbelieved.note(self.peer);
        }
        let prefers_html = visit::prefers_html(request.headers());
        let page = sse::Page::of(&request, &self.server.live());
        let mut result = match rejected {
            Some(rejected) => Err(rejected),
            None => self.route(request, address, hidden).await,
        };
        if let Ok((_, upgraded @ Some(Upgraded::Events(_)))) = &mut result {
            {
                let mut progress = self.lock();
                (progress.client, progress.upgraded) = (address, upgraded.take());
            }
            self.leaves.notify_one();
            return std::future::pending().await;
        }
        let mut progress = self.lock();
        progress.client = address;
        progress.unwritten = true;
        if let Ok((answer, _)) = &mut result
            && let Some(events) = answer.extensions_mut().remove()
        {
            progress.events = Some(events);
            progress.deadline = Instant::now() + STREAM_PATIENCE;
            self.turn.streams();
        } else {
            // A client that does not take its answer is as silent as one that sends no request.
            self.waiting.go_on();
            progress.deadline = Instant::now() + self.timeout;
            self.turn.answered();
        }
        match result {
            Ok((mut answer, upgraded)) => {
                if keeps && upgraded.is_none() && progress.events.is_none() {
                    let seconds = self.server.live().settings.http.keep_alive_timeout.as_secs();
                    if let Ok(value) = HeaderValue::from_str(&format!("timeout={seconds}")) {
                        answer.headers_mut().insert("Keep-Alive", value);
                    }
                }
                progress.upgraded = upgraded;
                page.allow(answer.headers_mut());
                answer
            }
            Err(refused) => {
                let mut answer = visit::answer(&refused.rejection, prefers_html);
                page.allow(answer.headers_mut());
                record::rejected(&self.server, address, refused);
                answer
            }
        }
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        address: SocketAddr,
        hidden: usize,
    ) -> Result<(Answer, Option<Upgraded>), Rejected> {
        let headers = request.headers();
        let chunked = http::check_framing(headers, hidden).map_err(Rejection::BadRequest)?;
        check_repeated(headers)?;
        let is_dev = self.server.live().settings.dev;
        if is_dev {
            dev::check(headers, &self.server.live().settings.websocket.allowed_origins)?;
        }
        let is_fault = is_dev && dev::fault::is_wanted(&request);
        let path = request.uri().path();
        let api = path == "/api" || path.starts_with("/api/");
        let health = path == "/health" || path.starts_with("/health/");
        let asked = Asked::of(&request);
        let takes_body =
            !health && asked == Some(Asked::Publish) || api && request.method() == Method::POST || is_fault;
        if chunked && !takes_body {
            return Err(Rejection::BadRequest(
                "a request like this has no body, so it must not have Transfer-Encoding",
            )
            .into());
        }
        if (api || health) && headers.contains_key(SEC_WEBSOCKET_KEY) {
            return Err(Rejection::NotHere.into());
        }
        if api && !self.protocols.api {
            return Err(Rejection::NotFound.into());
        }
        if health || api {
            let deadline = self.lock().deadline;
            // Boxed, because every upgrade would pay for its room.
            let answer = Box::pin(api::answer(&self.server, &self.waiting, address, deadline, request));
            return match answer.await {
                Ok(answer) => Ok((answer, None)),
                // A client that guesses tokens here counts like one that tries to connect.
                Err(rejection @ Rejection::Token(_)) => {
                    Err(admission::count_handshake(&self.server, &self.server.live(), address.ip())
                        .err()
                        .unwrap_or(rejection)
                        .into())
                }
                Err(rejection) => Err(rejection.into()),
            };
        }
        if is_fault {
            let deadline = self.lock().deadline;
            // Boxed as above.
            let answer = Box::pin(dev::fault::answer(&self.server, &self.waiting, deadline, request));
            return Ok((answer.await?, None));
        }
        if let Some(asked) = asked {
            let deadline = self.lock().deadline;
            let served = sse::serve(&self.server, &self.waiting, asked, address, deadline, request);
            return Ok(match Box::pin(served).await? {
                Opening::Opened(opened) => (Response::new(whole("")), Some(Upgraded::Events(opened))),
                Opening::Answered(answer) => (answer, None),
            });
        }
        if is_dev && let Some(page) = dev::answer(&request) {
            return Ok((page, None));
        }
        let head = Head {
            is_http_11: request.version() == Version::HTTP_11,
            method: request.method().as_str(),
            query: request.uri().query(),
            lines: request.headers(),
        };
        let accepted = upgrade(&self.server, address, self.protocols, &head)?;
        self.server.joined().await;
        Ok((accepted.answer()?, Some(accepted.upgraded)))
    }
}

impl Watch for Arc<Exchange> {
    fn heard(&self) {
        self.waiting.heard();
        self.busy(&mut self.lock());
    }

    fn flushed(&self, stream: &Stream) {
        let mut progress = self.lock();
        if progress.events.is_some() {
            progress.deadline = Instant::now() + STREAM_PATIENCE;
            if std::mem::take(&mut progress.unwritten) {
                stream.set_user_timeout(STREAM_PATIENCE);
            }
            return;
        }
        if !std::mem::take(&mut progress.unwritten) {
            return;
        }
        // A client that was let in leaves these places, or goes on to the first frame.
        if progress.upgraded.is_none() {
            let idle = self.server.live().settings.http.keep_alive_timeout + KEEP_ALIVE_SLACK;
            progress.idle = true;
            progress.deadline = Instant::now() + idle;
            self.waiting.answered();
        }
    }
}

/// Refuses a header that appears twice and that a request may have only once (RFC 9110 section 5.3): a proxy in front
/// may read the other one.
pub(super) fn check_repeated<L: Lines + ?Sized>(lines: &L) -> Result<(), Rejection> {
    const ONCE: [(HeaderName, &str); 4] = [
        (HOST, "the header Host appears twice"),
        (AUTHORIZATION, "the header Authorization appears twice"),
        (ORIGIN, "the header Origin appears twice"),
        (SEC_WEBSOCKET_VERSION, "the header Sec-WebSocket-Version appears twice"),
    ];
    for (name, message) in ONCE {
        if lines.all(&name).nth(1).is_some() {
            return Err(Rejection::BadRequest(message));
        }
    }
    Ok(())
}

/// Whether the client of this request may send another one on the connection (RFC 9112 section 9.3).
fn keeps_alive(request: &Request<Incoming>) -> bool {
    let says = |word| request.headers().has_word(&CONNECTION, word);
    if request.version() == Version::HTTP_11 { !says("close") } else { says("keep-alive") }
}
