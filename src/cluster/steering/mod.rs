//! Steering: what one node asks of all others, by request and reply.
//!
//! A request goes to every node at once, and the answers are awaited for [`DEADLINE`]. Both are sealed with the cluster's
//! secret ([`message`]), so that other users of the same NATS can neither give orders nor invent answers; a request that is
//! sent again is refused ([`nonces`]). They are not encrypted.
//!
//! This folder knows neither the orders nor how they are carried out: [`Orders`] is what the daemon gives it.

mod gather;
pub mod message;
mod nonces;

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use async_nats::Client;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::{timeout, timeout_at};

use self::message::{MAX_HEADER, Message, Nonce, Rejected, Seal};
use self::nonces::Nonces;
use crate::sync::lock;

pub use self::gather::{Gathered, Rows, reply};

/// How long answers are awaited. A node without problems answers from memory.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// Requests of this node that are in progress at once, each with up to [`MAX_ANSWER_BYTES`]. More wait for their turn.
const MAX_ASKED: usize = 8;

/// Requests of other nodes that are carried out at once. Each may visit every connection.
const MAX_SERVED: usize = 4;

/// Requests of other nodes that wait for their turn. More are answered with [`BUSY`].
const MAX_WAITING: usize = 64;

/// The most answers to one request.
const MAX_ANSWERS: usize = 1024;

/// The most bytes of all answers to one request.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// The kind of an announcement.
const ANNOUNCES: &str = "announces";

/// The kinds of answers: with a body, of a node with too much to do, and of one that does not know the kind.
const ANSWER: &str = "answer";
const BUSY: &str = "busy";
const UNKNOWN: &str = "unknown";

/// What other nodes may ask of this one.
pub trait Orders: Send + Sync {
    /// Carries out what node `from` asks, and returns the body of the answer, at most `room` bytes. Returns `None` for a
    /// kind that this version does not know. May block.
    fn carry_out(&self, from: &str, kind: &str, body: &[u8], room: usize) -> Option<Vec<u8>>;

    /// Returns what to do when a link is up. It is dropped when the link ends.
    fn linked(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AskError {
    /// [`MAX_ASKED`] requests are in progress.
    Busy,
    /// The request exceeds a message of NATS; the limit in bytes.
    TooLarge(usize),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::Busy => {
                write!(f, "{MAX_ASKED} requests to the other nodes are in progress already: try again")
            }
            AskError::TooLarge(max) => {
                write!(f, "the request to the other nodes exceeds a message of NATS, {max} bytes")
            }
        }
    }
}

impl std::error::Error for AskError {}

/// How long to wait for answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until all known nodes have answered, and at most for [`DEADLINE`].
    ForKnown,
    /// For [`DEADLINE`], because there may be nodes that are not known yet.
    ForUnknown,
}

/// What one node answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    /// `NAME@START`.
    node: String,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Body(Bytes),
    Busy,
    Unknown,
    /// Its answer is beyond [`MAX_ANSWER_BYTES`].
    TooMuch,
}

/// This node's part in steering.
pub struct Steering {
    /// `NAME@START`.
    node: String,
    subject: String,
    seal: Seal,
    /// Requests from before are refused, because their nonces are not known.
    started_ms: u64,
    nonces: Mutex<Nonces>,
    rejected: [AtomicU64; Rejected::ALL.len()],
    asked: Semaphore,
    served: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    orders: OnceLock<Arc<dyn Orders>>,
}

impl Steering {
    /// Makes the part of this node, `NAME@START`, in the cluster with this secret and subject prefix.
    pub fn new(node: &str, prefix: &str, secret: &[u8]) -> Arc<Steering> {
        Arc::new(Steering {
            node: node.to_owned(),
            subject: format!("{prefix}.1.s"),
            seal: Seal::new(secret, prefix),
            started_ms: unix_ms(),
            nonces: Mutex::default(),
            rejected: Default::default(),
            asked: Semaphore::new(MAX_ASKED),
            served: Arc::new(Semaphore::new(MAX_SERVED)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            orders: OnceLock::new(),
        })
    }

    /// Says who carries out what is asked. Until then every request is answered as of an unknown kind.
    pub fn give_to(&self, orders: Arc<dyn Orders>) {
        let _ = self.orders.set(orders);
    }

    /// Returns when this node started, in milliseconds since 1970.
    pub(super) fn started_ms(&self) -> u64 {
        self.started_ms
    }

    /// Returns the dropped messages by reason.
    pub fn rejected(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Rejected::ALL.iter().zip(&self.rejected).map(|(reason, count)| (reason.name(), count.load(Relaxed)))
    }

    fn reject(&self, reason: Rejected) {
        let index = Rejected::ALL.iter().position(|known| *known == reason).unwrap_or_default();
        self.rejected[index].fetch_add(1, Relaxed);
        tracing::debug!("cluster: a steering message was dropped: {}", reason.name());
    }

    /// Seals this node's announcement, which can have readers of other nodes closed.
    pub(super) fn seal_announcement(&self, announcement: &[u8]) -> Vec<u8> {
        self.seal.seal(&self.message(None, ANNOUNCES, announcement))
    }

    /// Returns the announcement of another node, and when it was sealed, in milliseconds since 1970. Drops and counts one that is
    /// not sealed with the cluster's secret.
    ///
    /// # Errors
    /// The reason to drop it.
    pub(super) fn open_announcement<'a>(&self, sealed: &'a [u8]) -> Result<(&'a [u8], u64), Rejected> {
        let opened = match self.seal.open(sealed, unix_ms()) {
            Ok(message) if message.kind == ANNOUNCES => Ok((message.body, message.sent_ms)),
            Ok(_) => Err(Rejected::Malformed),
            Err(reason) => Err(reason),
        };
        opened.inspect_err(|reason| self.reject(*reason))
    }

    /// Serves requests on this link until its subscription ends. Returns why.
    pub async fn serve(self: Arc<Self>, client: Client) -> String {
        let mut requests = match client.subscribe(self.subject.clone()).await {
            Ok(requests) => requests,
            Err(error) => return format!("NATS takes no subscription: {error}"),
        };
        let linked = self.orders.get().map(|orders| orders.linked());
        let beside = async {
            if let Some(linked) = linked {
                linked.await;
            }
            std::future::pending().await
        };
        tokio::select! {
            () = self.serve_all(&client, &mut requests) => "the subscription to steering has ended".to_owned(),
            never = beside => never,
        }
    }

    async fn serve_all(self: &Arc<Self>, client: &Client, requests: &mut async_nats::Subscriber) {
        while let Some(request) = requests.next().await {
            let Some(reply) = request.reply else {
                self.reject(Rejected::Malformed);
                continue;
            };
            match self.open(&request.payload) {
                Ok(Some(message)) => {
                    let nonce = message.nonce;
                    self.clone().answer(client, reply, nonce, &message);
                }
                Ok(None) => {}
                Err(reason) => self.reject(reason),
            }
        }
    }

    /// Checks a request. Returns `None` for one of this node's own.
    fn open<'a>(&self, payload: &'a [u8]) -> Result<Option<Message<'a>>, Rejected> {
        let message = self.seal.open(payload, unix_ms())?;
        if message.answered.is_some() {
            return Err(Rejected::Malformed);
        }
        if message.node == self.node {
            return Ok(None);
        }
        if message.sent_ms < self.started_ms {
            return Err(Rejected::Stale);
        }
        lock(&self.nonces).insert(message.nonce, Instant::now())?;
        Ok(Some(message))
    }

    /// Has a request carried out on a thread that may block, and sends the answer.
    fn answer(
        self: Arc<Self>,
        client: &Client,
        reply: async_nats::Subject,
        nonce: Nonce,
        message: &Message<'_>,
    ) {
        let (from, kind, body) = (message.node.to_owned(), message.kind.to_owned(), message.body.to_vec());
        let client = client.clone();
        let waits = self.waiting.clone().try_acquire_owned();
        tokio::spawn(async move {
            let (kind, body) = match waits {
                Err(_) => (BUSY, Vec::new()),
                Ok(_waits) => {
                    let Ok(place) = self.served.clone().acquire_owned().await else { return };
                    let room = client.max_payload().saturating_sub(MAX_HEADER);
                    let orders = self.orders.get().cloned();
                    let work = tokio::task::spawn_blocking(move || {
                        let _place = place;
                        orders.and_then(|orders| orders.carry_out(name_of(&from), &kind, &body, room))
                    });
                    match work.await {
                        Ok(Some(body)) => (ANSWER, body),
                        Ok(None) => (UNKNOWN, Vec::new()),
                        Err(_) => return,
                    }
                }
            };
            let sealed = self.seal.seal(&self.message(Some(nonce), kind, &body));
            let _ = timeout(DEADLINE, client.publish(reply, sealed.into())).await;
        });
    }

    fn message<'a>(&'a self, answered: Option<Nonce>, kind: &'a str, body: &'a [u8]) -> Message<'a> {
        Message { node: &self.node, sent_ms: unix_ms(), nonce: Nonce::random(), answered, kind, body }
    }

    /// Asks all other nodes on this link, and returns what arrived until all that are `known` have answered, or until
    /// [`DEADLINE`].
    ///
    /// # Errors
    /// The request cannot be sent to any node. Without a link, none answers.
    async fn ask(
        &self,
        client: Option<Client>,
        kind: &str,
        body: &[u8],
        known: &BTreeSet<String>,
        wait: Wait,
    ) -> Result<Vec<Answer>, AskError> {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let Ok(Ok(_place)) = timeout_at(deadline, self.asked.acquire()).await else {
            return Err(AskError::Busy);
        };
        let mut answers = Vec::new();
        let Some(client) = client else { return Ok(answers) };
        let request = self.message(None, kind, body);
        let sealed = self.seal.seal(&request);
        if sealed.len() > client.max_payload() {
            return Err(AskError::TooLarge(client.max_payload()));
        }
        let exchange = async {
            let inbox = client.new_inbox();
            // A link that has died answers nothing, and the deadline ends the wait.
            let Ok(replies) = client.subscribe(inbox.clone()).await else { return };
            if client.publish_with_reply(self.subject.clone(), inbox, sealed.into()).await.is_err() {
                return;
            }
            let mut replies = replies.map(|reply| reply.payload);
            self.collect(&mut replies, request.nonce, known, wait, &mut answers).await;
        };
        let _ = timeout_at(deadline, exchange).await;
        Ok(answers)
    }

    /// Collects the answers to the request with this nonce, until all that are `known` have answered if it waits for these only.
    async fn collect(
        &self,
        replies: &mut (impl Stream<Item = Bytes> + Unpin),
        nonce: Nonce,
        known: &BTreeSet<String>,
        wait: Wait,
        answers: &mut Vec<Answer>,
    ) {
        let mut bytes = 0;
        let mut seen = BTreeSet::new();
        while !(wait == Wait::ForKnown && known.is_subset(&seen))
            && answers.len() < MAX_ANSWERS
            && let Some(reply) = replies.next().await
        {
            match self.open_answer(&reply, nonce) {
                Ok(message) if seen.insert(message.node.to_owned()) => {
                    bytes += message.body.len();
                    let outcome = match message.kind {
                        ANSWER if bytes > MAX_ANSWER_BYTES => Outcome::TooMuch,
                        ANSWER => Outcome::Body(reply.slice_ref(message.body)),
                        BUSY => Outcome::Busy,
                        _ => Outcome::Unknown,
                    };
                    answers.push(Answer { node: message.node.to_owned(), outcome });
                }
                Ok(_) => self.reject(Rejected::Replayed),
                Err(reason) => self.reject(reason),
            }
        }
    }

    /// Checks an answer to the request with this nonce.
    fn open_answer<'a>(&self, payload: &'a [u8], request: Nonce) -> Result<Message<'a>, Rejected> {
        let message = self.seal.open(payload, unix_ms())?;
        if message.answered != Some(request) || message.node == self.node {
            return Err(Rejected::Malformed);
        }
        Ok(message)
    }
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steering").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Returns the name in `NAME@START`.
fn name_of(node: &str) -> &str {
    node.split_once('@').map_or(node, |(name, _)| name)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steering(node: &str) -> Arc<Steering> {
        Steering::new(node, "philote", b"0123456789abcdef0123456789abcdef")
    }

    #[test]
    fn a_request_is_accepted_once_and_never_by_its_sender() {
        let (a, b) = (steering("a@1"), steering("b@1"));
        let bytes = a.seal.seal(&a.message(None, "channels", b"{}"));
        let opened = b.open(&bytes).unwrap().unwrap();
        assert_eq!((opened.node, opened.kind, opened.body), ("a@1", "channels", &b"{}"[..]));
        assert_eq!(b.open(&bytes), Err(Rejected::Replayed));
        assert_eq!(a.open(&bytes), Ok(None));
        let answer = b.seal.seal(&b.message(Some(Nonce::random()), ANSWER, b""));
        assert_eq!(a.open(&answer), Err(Rejected::Malformed), "an answer is no request");
    }

    #[test]
    fn a_request_from_before_the_start_is_refused_because_it_may_be_a_replay() {
        let (a, mut b) = (steering("a@1"), steering("b@1"));
        let bytes = a.seal.seal(&a.message(None, "channels", b"{}"));
        Arc::get_mut(&mut b).unwrap().started_ms = unix_ms() + 1;
        assert_eq!(b.open(&bytes), Err(Rejected::Stale));
    }

    #[test]
    fn an_answer_belongs_to_its_request() {
        let (a, b) = (steering("a@1"), steering("b@1"));
        let request = Nonce::random();
        let answer = b.seal.seal(&b.message(Some(request), ANSWER, b"x"));
        assert_eq!(a.open_answer(&answer, request).unwrap().body, b"x");
        assert_eq!(a.open_answer(&answer, Nonce::random()), Err(Rejected::Malformed));
        let other = Steering::new("b@1", "philote", b"another secret of the same length");
        let forged = other.seal.seal(&other.message(Some(request), ANSWER, b"x"));
        assert_eq!(a.open_answer(&forged, request), Err(Rejected::Forged));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_in_progress_are_bounded_and_without_a_link_none_answers() {
        let a = steering("a@1");
        let known = BTreeSet::new();
        let ask = || a.ask(None, "channels", b"", &known, Wait::ForUnknown);
        assert_eq!(ask().await, Ok(Vec::new()));
        let _all = a.asked.acquire_many(u32::try_from(MAX_ASKED).unwrap()).await.unwrap();
        assert_eq!(ask().await, Err(AskError::Busy));
    }

    #[test]
    fn what_is_dropped_is_counted_by_reason() {
        let a = steering("a@1");
        a.reject(Rejected::Forged);
        a.reject(Rejected::Forged);
        a.reject(Rejected::Full);
        let counts: Vec<_> = a.rejected().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counts, [("forged", 2), ("full", 1)]);
    }

    /// Collects the answers of so many nodes, each with a body of this length.
    async fn collected(nodes: usize, body: usize) -> Vec<Answer> {
        let (a, request, body) = (steering("a@1"), Nonce::random(), vec![b'x'; body]);
        let answer = |number| {
            let other = steering(&format!("n{number}@1"));
            Bytes::from(other.seal.seal(&other.message(Some(request), ANSWER, &body)))
        };
        let mut answers = Vec::new();
        let mut replies = futures_util::stream::iter((0..nodes).map(answer));
        a.collect(&mut replies, request, &BTreeSet::new(), Wait::ForUnknown, &mut answers).await;
        answers
    }

    #[tokio::test]
    async fn the_answers_to_a_request_are_bounded_in_number_and_size() {
        assert_eq!(collected(MAX_ANSWERS + 10, 1).await.len(), MAX_ANSWERS);
        let answers = collected(34, 1 << 20).await;
        let too_much = answers.iter().filter(|answer| answer.outcome == Outcome::TooMuch).count();
        assert_eq!((answers.len(), too_much), (34, 2), "those beyond 32 MiB are named and not kept");
    }
}
