//! With a history: one log, a JetStream stream, which every node reads whole and in its order.
//!
//! In reading order: [`append`] publishes to the log, [`follow`] delivers what it has to the readers on this node and fills
//! their channels' histories, and [`epoch`] is the log's name for itself. A message's place in the log is its id.

mod append;
mod delivered;
mod epoch;
mod follow;
mod place;
mod refusals;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::client::RequestErrorKind;
use async_nats::jetstream;
use async_nats::jetstream::stream::{DiscardPolicy, StorageType};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::{oneshot, watch};

use self::append::{Append, Appends, Told};
pub use self::append::{Appended, Waiter};
pub(super) use self::follow::Follower;
use self::place::Place;
pub use self::refusals::Refusing;
use super::limit::Limit;
use super::link::{Reason, SILENCE};
use super::subject::Subjects;
use super::wire::{self, NodeId};
use crate::config::{ClusterSettings, ClusterStorage, HistorySettings};
use crate::frame::Frame;
use crate::hub::{Connection, FlushList, Flusher, Hub};
use crate::message::{ErrorReply, MessageId, ack_reply};
use crate::sync::lock;

/// How often a node writes the epoch again, in parts of the time to live of messages.
const RESTATED: u32 = 3;

/// JetStream removes repetitions within this time at most.
const REPETITIONS: Duration = Duration::from_secs(120);

/// The log, as one node follows it.
pub(super) struct Log {
    /// `NAME@START`.
    name: String,
    subjects: Subjects,
    /// The stream, but for the time to live of messages.
    stream: jetstream::stream::Config,
    ttl: Mutex<Duration>,
    /// The stream has another time to live than `ttl`.
    is_outdated: AtomicBool,
    /// The last attempt to change that has failed, and was logged.
    has_failed: AtomicBool,
    patience: Duration,
    hub: Arc<Hub>,
    flusher: Arc<Flusher>,
    /// Lines in the log that others cause.
    lines: Arc<Limit>,
    number: AtomicU64,
    appends: Appends,
    /// Held from taking outcomes until they are told, so that no other thread tells later ones first.
    telling: Mutex<()>,
    place: Mutex<Option<Place>>,
    /// The number up to which the log had been delivered here when [`Log::restate`] last looked.
    looked: AtomicU64,
    /// The number up to which the log was delivered here.
    applied: watch::Sender<u64>,
    /// Why this node cannot use the log, however often it tries.
    unusable: Mutex<Option<Reason>>,
    pub(super) counters: Counters,
}

/// The counts of the log.
#[derive(Default)]
pub(super) struct Counters {
    /// Messages of this node that the log has stored.
    pub(super) stored: AtomicU64,
    /// Messages that were not published, and that may not have been.
    pub(super) unavailable: AtomicU64,
    pub(super) unanswered: AtomicU64,
    /// Messages of other nodes.
    pub(super) received: AtomicU64,
    /// Messages of the log that no node of this version can have published.
    pub(super) dropped: AtomicU64,
    /// How often the log could not prove that nothing is missing.
    pub(super) gaps: AtomicU64,
}

impl Log {
    pub(super) fn new(
        settings: &ClusterSettings,
        history: &HistorySettings,
        node: &NodeId,
        subjects: &Subjects,
        (hub, flusher): (Arc<Hub>, Arc<Flusher>),
        lines: Arc<Limit>,
    ) -> Log {
        let stream = jetstream::stream::Config {
            name: settings.subject_prefix.replace('.', "-"),
            description: Some("messages of Philote, kept for [history] ttl".to_owned()),
            subjects: vec![subjects.log()],
            max_bytes: i64::try_from(settings.log_bytes).unwrap_or(i64::MAX),
            discard: DiscardPolicy::Old,
            storage: match settings.storage {
                ClusterStorage::File => StorageType::File,
                ClusterStorage::Memory => StorageType::Memory,
            },
            num_replicas: settings.replicas,
            ..jetstream::stream::Config::default()
        };
        Log {
            name: node.to_string(),
            subjects: subjects.clone(),
            stream,
            ttl: Mutex::new(history.longest_ttl()),
            is_outdated: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            patience: settings.patience,
            hub,
            flusher,
            lines,
            number: AtomicU64::new(0),
            appends: Appends::default(),
            telling: Mutex::default(),
            place: Mutex::default(),
            looked: AtomicU64::new(0),
            applied: watch::Sender::new(0),
            unusable: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Changes the time to live of messages.
    pub(super) fn keep(&self, ttl: Duration) {
        let before = std::mem::replace(&mut *lock(&self.ttl), ttl);
        if before != ttl {
            self.is_outdated.store(true, Relaxed);
        }
    }

    fn ttl(&self) -> Duration {
        *lock(&self.ttl)
    }

    /// Publishes one message, and has `waiter` told what became of it. Does not wait.
    pub(super) fn append(
        &self,
        channel: &str,
        frame: &Frame,
        excluded: &[uuid::Uuid],
        key: Option<&str>,
        waiter: Waiter,
    ) {
        let number = self.number.fetch_add(1, Relaxed) + 1;
        let payload = wire::encode(&self.name, number, excluded, frame.payloads());
        let subject = self.subjects.logged(channel);
        let id = key.map(|key| message_id(&subject, key));
        let append = Append { subject, payload: Bytes::from(payload), id, waiter };
        if let Err(Append { subject, waiter, .. }) = self.appends.push(append, Instant::now()) {
            self.tell(|| vec![Told { subject, waiter, appended: Appended::Unavailable }]);
        }
    }

    /// Returns a receiver that ends when all messages that wait now were handed to NATS or given up.
    pub(super) fn ticket(&self) -> Option<oneshot::Receiver<()>> {
        self.appends.ticket()
    }

    /// Gives up messages that have waited too long, as long as the daemon runs.
    pub(super) async fn watch_overdue(&self) {
        let mut tick = tokio::time::interval(append::LOOK);
        loop {
            tick.tick().await;
            self.tell(|| self.appends.overdue(self.patience, Instant::now()));
        }
    }

    /// Tells what became of the messages that `take` returns.
    fn tell(&self, take: impl FnOnce() -> Vec<Told>) {
        let _telling = lock(&self.telling);
        let mut flush_list = FlushList::new();
        for Told { subject, waiter, appended } in take() {
            let counter = match appended {
                Appended::Stored { .. } => &self.counters.stored,
                Appended::Unavailable => &self.counters.unavailable,
                Appended::Unanswered => &self.counters.unanswered,
            };
            counter.fetch_add(1, Relaxed);
            let (connection, ack) = match waiter {
                Waiter::Client { connection, ack } => (connection, ack),
                Waiter::Caller(sender) => {
                    let _ = sender.send(appended);
                    continue;
                }
            };
            let channel = || self.subjects.channel_of(&subject).unwrap_or_default();
            let reply = match (appended, ack.as_deref()) {
                (Appended::Stored { .. }, None) => continue,
                (Appended::Stored { number, .. }, Some(ack)) => {
                    let channel = channel();
                    let number = number.filter(|_| self.has_everything(&connection));
                    let id = number.and_then(|number| self.hub.log_id(&channel, number));
                    ack_reply(ack, self.hub.readers_of(&channel), id)
                }
                (Appended::Unavailable, ack) => ErrorReply::Unavailable { channel: &channel(), ack }.encode(),
                (Appended::Unanswered, ack) => ErrorReply::Unanswered { channel: &channel(), ack }.encode(),
            };
            let _ = flush_list.push(&connection, &reply);
        }
        // Answers go to few connections each; the rest is for the connections' own tasks.
        let _ = self.flusher.flush(&mut flush_list);
    }

    /// Returns whether a client has got all messages of the log up to now, so that it can go on from its own. One that came
    /// before the log was read has not, and will be closed.
    fn has_everything(&self, connection: &Connection) -> bool {
        !connection.is_detached() && lock(&self.place).as_ref().is_some_and(|place| place.caught_up)
    }

    /// Waits until the log was delivered here up to this place, if it is one of the present epoch, and at most for the
    /// patience of a publisher. A client may come from a node that is a little ahead.
    pub(super) async fn reached(&self, id: MessageId) {
        if !self.is_behind(id) {
            return;
        }
        let mut applied = self.applied.subscribe();
        let _ = tokio::time::timeout(self.patience, applied.wait_for(|applied| *applied >= id.number)).await;
    }

    /// Returns whether this is a place of the present epoch that was not delivered here yet.
    pub(super) fn is_behind(&self, id: MessageId) -> bool {
        self.hub.log_position().is_some_and(|position| position.epoch == id.epoch)
            && *self.applied.borrow() < id.number
    }

    /// The link has ended.
    pub(super) fn down(&self) {
        self.tell(|| self.appends.cut());
    }

    /// Hands messages to NATS until the link ends.
    pub(super) async fn run_appends(&self, client: Client) -> Reason {
        self.appends.run(client, |take| self.tell(take)).await
    }

    /// Returns the epoch that this node follows, for its announcement.
    pub(super) fn epoch(&self) -> Option<u64> {
        lock(&self.place).as_ref().filter(|place| place.caught_up).map(|place| place.epoch)
    }

    /// Returns the messages that wait to be handed to NATS, and those that await a confirmation.
    pub(super) fn waiting(&self) -> (usize, usize) {
        self.appends.len()
    }

    /// Returns since when and why, if the log refuses messages or does not confirm them.
    pub(super) fn refusing(&self) -> Option<Refusing> {
        self.appends.refusals.refusing()
    }

    /// Returns why this node cannot use the log, however often it tries.
    pub(super) fn unusable(&self) -> Option<Reason> {
        lock(&self.unusable).clone()
    }

    /// Writes the epoch again if its record is about to leave the log, because of its age or because the log is full.
    pub(super) async fn restate(&self, client: &Client) -> Result<(), Reason> {
        let Some(place) = lock(&self.place).clone() else { return Ok(()) };
        let aging = place.recorded.elapsed() >= self.ttl() / RESTATED;
        let grown = self.looked.swap(place.number, Relaxed) != place.number;
        let is_outdated = self.is_outdated.load(Relaxed);
        if !aging && !grown && !is_outdated {
            return Ok(());
        }
        let mut context = jetstream::new(client.clone());
        context.set_timeout(SILENCE);
        // Whether the log still speaks is judged where it is followed.
        let Ok(stream) = context.get_stream(&self.stream.name).await else { return Ok(()) };
        let state = &stream.cached_info().state;
        let older_half = place.record < state.first_sequence.midpoint(state.last_sequence);
        let leaving = older_half && state.bytes >= self.stream.max_bytes.unsigned_abs() / 2;
        if aging || leaving {
            let expected = if place.record < state.first_sequence { 0 } else { place.record };
            // Another node may have been faster, and this one reads its record in the log.
            epoch::write(client, &self.subjects.epoch(), expected, place.epoch, place.replaces).await?;
        }
        // After the epoch was written, which may be older than messages may be from now on.
        if is_outdated
            && let Err(error) = self.limit(&context, &stream.cached_info().config).await
            && !self.has_failed.swap(true, Relaxed)
        {
            tracing::warn!("cluster: the log {} keeps its limits for now: {error}", self.stream.name);
        }
        Ok(())
    }

    /// Gives the stream its limits, if it has others.
    async fn limit(
        &self,
        context: &jetstream::Context,
        found: &jetstream::stream::Config,
    ) -> Result<(), jetstream::context::UpdateStreamError> {
        let ttl = self.ttl();
        if (found.max_age, found.max_bytes) != (ttl, self.stream.max_bytes) {
            let config = jetstream::stream::Config {
                max_age: ttl,
                max_bytes: self.stream.max_bytes,
                duplicate_window: ttl.min(REPETITIONS),
                ..found.clone()
            };
            context.update_stream(&config).await?;
            tracing::info!("cluster: the log {} has other limits now", self.stream.name);
        }
        self.has_failed.store(false, Relaxed);
        // It may have changed meanwhile.
        self.is_outdated.store(ttl != self.ttl(), Relaxed);
        Ok(())
    }

    /// Returns the stream, and makes it if there is none.
    async fn stream(&self, client: &Client) -> Result<jetstream::stream::Stream, Reason> {
        let mut unusable = None;
        let stream = self.find_stream(client, &mut unusable).await;
        // In one step: a node that starts looks at this at any time.
        *lock(&self.unusable) = unusable;
        stream
    }

    /// The same. Gives the reason why it can never be used, if that is known.
    async fn find_stream(
        &self,
        client: &Client,
        unusable: &mut Option<Reason>,
    ) -> Result<jetstream::stream::Stream, Reason> {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(SILENCE);
        if let Some(lack) = lack_of_jetstream(client).await? {
            let reason = format!(
                "[history] needs JetStream, which NATS does not offer here ({lack}): enable it there, or set [history] \
                 messages = 0"
            );
            *unusable = Some(reason.clone());
            return Err(reason);
        }
        let ttl = self.ttl();
        let wanted = jetstream::stream::Config {
            max_age: ttl,
            duplicate_window: ttl.min(REPETITIONS),
            ..self.stream.clone()
        };
        let refused =
            |error: &dyn std::fmt::Display| format!("the log {} cannot be used: {error}", self.stream.name);
        let stream = context.get_or_create_stream(wanted).await.map_err(|error| refused(&error))?;
        let found = &stream.cached_info().config;
        if found.subjects != self.stream.subjects {
            let reason =
                refused(&"a stream of this name has other subjects: choose another [cluster] subject_prefix");
            *unusable = Some(reason.clone());
            return Err(reason);
        }
        self.limit(&context, found).await.map_err(|error| refused(&error))?;
        Ok(stream)
    }
}

/// Returns the id by which JetStream knows a repetition. A key counts within its channel: the subject names the channel and has
/// no blank, so no other channel and key have this id.
fn message_id(subject: &str, key: &str) -> Box<str> {
    format!("{subject} {key}").into()
}

/// JetStream's errors of a server or an account without it.
const NOT_ENABLED: [u64; 2] = [10039, 10076];

/// Asks NATS whether it has JetStream. Returns its words if it has not.
///
/// # Errors
/// JetStream does not answer now, but may later: its servers may have no leader yet, or be behind a route that is not there
/// yet.
async fn lack_of_jetstream(client: &Client) -> Result<Option<String>, Reason> {
    #[derive(Deserialize)]
    struct Answer {
        error: Option<Failure>,
    }
    #[derive(Deserialize)]
    struct Failure {
        #[serde(default)]
        err_code: u64,
        #[serde(default)]
        description: String,
    }
    let request = client.request("$JS.API.INFO", Bytes::new());
    let answer = match tokio::time::timeout(SILENCE, request).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            let server = client.server_info();
            return if server.jetstream {
                Err("JetStream does not answer".to_owned())
            } else {
                Ok(Some(format!("the server {} has none", server.server_name)))
            };
        }
        Ok(Err(error)) => return Err(format!("JetStream does not answer: {error}")),
        Err(_) => return Err(format!("JetStream does not answer for {} s", SILENCE.as_secs())),
    };
    let answer: Answer = serde_json::from_slice(&answer.payload)
        .map_err(|error| format!("JetStream answers something else than expected: {error}"))?;
    match answer.error {
        None => Ok(None),
        Some(error) if NOT_ENABLED.contains(&error.err_code) => Ok(Some(error.description)),
        Some(error) => Err(format!("JetStream is not ready: {}", error.description)),
    }
}
