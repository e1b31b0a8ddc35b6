//! The network side: listeners, HTTP and the upgrade, one connection's life, and what watches all connections.
//!
//! In the order in which a client meets them: [`accept`], [`http`], [`session`]. [`heartbeat`] watches all connections,
//! [`limits`] and [`bans`] keep clients out, [`shutdown`] closes many connections in order, [`closed`] and [`events`] tell
//! administrators what happened, and [`ops`] is what administrators and backends can do. The file `cost.md` has the
//! cost of a message in instructions.

mod accept;
mod admission;
mod background;
mod bans;
mod closed;
mod events;
mod heartbeat;
mod http;
mod limits;
pub mod ops;
mod rejection;
mod session;
mod shutdown;
mod slot;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, Guard};
use uuid::Uuid;

pub use self::accept::{accept_loop, listener};
pub use self::bans::file::{BanFile, BanFileError};
pub use self::bans::{BanError, Bans, MAX_BANS};
pub use self::closed::{ClosedRing, ReasonCount};
pub use self::events::{Connected, Event, Events, Following, MAX_FOLLOWERS, Messages, Published, Reloaded};
use self::heartbeat::Heartbeats;
use self::rejection::Rejected;
pub use self::rejection::Rejection;
pub use self::shutdown::drain::SHORTEST_DRAIN;
use crate::close::CloseReason;
use crate::config::Settings;
use crate::hub::{Connection, Flusher, Hub};
use crate::log::{ClosedRecord, ConnectionLog};
use crate::outbox::{Budget, Seconds};
use crate::token::{Keys, Policy, UnixSeconds};

/// What may change while the server runs, replaced as a whole by a reload.
#[derive(Debug)]
pub struct Live {
    /// The settings in force.
    pub settings: Settings,
    /// The keys that tokens may be signed with.
    pub keys: Keys,
    /// What else is asked of a token.
    pub policy: Policy,
    /// The most connections: the setting, or what the descriptor limit leaves.
    pub max_connections: usize,
    /// The limit on open files, where that and not the setting bounds the connections.
    pub descriptor_limit: Option<usize>,
}

impl Live {
    /// What follows from `settings`, where `max_descriptors` is the process's limit.
    pub fn new(settings: Settings, max_descriptors: usize) -> Live {
        let policy = Policy {
            leeway: settings.auth.leeway.as_secs(),
            require_expiry: settings.auth.require_expiry,
            issuer: settings.auth.issuer.clone(),
            audience: settings.auth.audience.clone(),
            channels: settings.limits.channels_per_token,
            channel_name_bytes: settings.limits.channel_name_bytes,
        };
        let mut keys = Keys::new(settings.auth.secrets.iter().map(|secret| secret.as_bytes()));
        for key in
            settings.auth.public_keys.iter().chain(&settings.auth.jwks_file).flat_map(|file| &file.keys)
        {
            keys.add_public(&key.decoding, &key.algorithms, &key.material, key.kid.as_deref(), &key.name);
        }
        let left = max_descriptors.saturating_sub(SPARE_DESCRIPTORS);
        Live {
            keys,
            policy,
            max_connections: settings.max_connections.min(left),
            descriptor_limit: (left < settings.max_connections).then_some(max_descriptors),
            settings,
        }
    }
}

impl Live {
    /// Why nobody more is let in where [`Live::max_connections`] are.
    fn full(&self) -> Rejection {
        match self.descriptor_limit {
            None => Rejection::Full(self.max_connections),
            Some(limit) => Rejection::OutOfDescriptors { limit, max: self.max_connections },
        }
    }
}

/// Descriptors that are never given to connections: listeners, the admin socket, the log, files.
pub const SPARE_DESCRIPTORS: usize = 64;

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Handshakes answered with 101.
    pub accepted: AtomicU64,
    /// Requests refused.
    pub refused: AtomicU64,
    /// Connections that ended.
    pub closed: AtomicU64,
    /// Messages published.
    pub messages_in: AtomicU64,
    /// Messages to channels that their publisher's token may not write to.
    pub forbidden: AtomicU64,
    /// Messages that were no message.
    pub bad_messages: AtomicU64,
    /// Messages, pings and pongs over a connection's rate, which were not handled.
    pub rate_limited: AtomicU64,
    /// Reloads that were applied.
    pub reloads: AtomicU64,
    /// Reloads that changed nothing because something was wrong.
    pub reloads_refused: AtomicU64,
    /// Bytes from and to connections that have ended.
    received: AtomicU64,
    sent: AtomicU64,
    /// Panics that cost one connection its life.
    pub panics: Arc<AtomicU64>,
}

impl Counters {
    /// Bytes from and to connections that have ended.
    pub fn bytes_of_the_gone(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }
}

/// The server: shared by all its tasks.
pub struct Server {
    /// Who is connected and who reads what.
    pub hub: Hub,
    /// What it has done.
    pub counters: Counters,
    /// The lines about connections.
    pub log: ConnectionLog,
    /// Who has left or was refused, and why.
    pub closed: ClosedRing,
    /// Those who follow what happens.
    pub events: Arc<Events>,
    /// Who is kept out by name.
    pub bans: Bans,
    id: Uuid,
    started: Instant,
    live: ArcSwap<Live>,
    max_descriptors: usize,
    drain: shutdown::drain::Drain,
    pending: Arc<accept::pending::Pending>,
    limits: Arc<limits::Limits>,
    accept_loops: accept::accept_loop::AcceptLoops,
    /// Writes what publishes have queued.
    flusher: Arc<Flusher>,
    cleanup: Arc<session::cleanup::Cleanup>,
    tls: Option<accept::tls::Acceptor>,
    heartbeats: Heartbeats,
    background: background::Background,
    port: OnceLock<u16>,
}

impl Server {
    /// A server with these settings and the process's descriptor limit. It serves once it is given listeners.
    pub fn new(settings: Settings, max_descriptors: usize) -> Arc<Server> {
        let live = Live::new(settings, max_descriptors);
        let limits = &live.settings.limits;
        let budget = Budget::new(
            limits.queue_messages,
            limits.queue_bytes,
            limits.total_queue_bytes,
            live.settings.websocket.write_buffer_size,
        );
        let hub = Hub::new(Arc::new(budget));
        let history = &live.settings.history;
        hub.keep(history.messages, history.ttl, history.bytes);
        // Made with or without a certificate: the listeners that speak TLS are settled at the start.
        let acceptor =
            accept::tls::Acceptor::new().inspect_err(|error| tracing::error!("no TLS: {error}")).ok();
        if let Some(acceptor) = &acceptor {
            acceptor.set(live.settings.tls.as_ref());
        }
        let counters = Counters::default();
        Arc::new(Server {
            hub,
            flusher: Arc::new(Flusher::new(counters.panics.clone())),
            counters,
            log: ConnectionLog::default(),
            closed: ClosedRing::default(),
            events: Arc::default(),
            bans: Bans::default(),
            accept_loops: accept::accept_loop::AcceptLoops::default(),
            cleanup: Arc::default(),
            tls: acceptor,
            id: Uuid::new_v4(),
            started: Instant::now(),
            live: ArcSwap::from_pointee(live),
            max_descriptors,
            drain: shutdown::drain::Drain::default(),
            pending: Arc::default(),
            limits: Arc::default(),
            heartbeats: Heartbeats::default(),
            background: background::Background::default(),
            port: OnceLock::new(),
        })
    }

    /// Starts what looks after all connections: heartbeats, expiry, memory. Ends when dropped or aborted.
    pub async fn look_after(self: Arc<Self>) {
        heartbeat::run(self).await;
    }

    /// The id that stands as issuer in what HTTP and the administrator publish.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// When it was made.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Seconds since it was made, by the monotonic clock.
    pub fn now(&self) -> Seconds {
        self.started.elapsed().as_secs() as Seconds
    }

    /// What is in force at this moment.
    pub fn live(&self) -> Guard<Arc<Live>> {
        self.live.load()
    }

    /// Puts new settings in force; connections whose key is gone are closed, spread over `spread`.
    ///
    /// Returns how many are to close.
    pub fn reload(self: &Arc<Self>, settings: Settings, spread: Duration) -> usize {
        let live = Arc::new(Live::new(settings, self.max_descriptors));
        let limits = &live.settings.limits;
        let budget = self.hub.budget();
        budget.queue_messages.store(limits.queue_messages, Relaxed);
        budget.queue_bytes.store(limits.queue_bytes, Relaxed);
        budget.total_bytes.store(limits.total_queue_bytes, Relaxed);
        budget.kept_bytes.store(live.settings.websocket.write_buffer_size, Relaxed);
        let history = &live.settings.history;
        self.hub.keep(history.messages, history.ttl, history.bytes);
        if let Some(acceptor) = &self.tls {
            acceptor.set(live.settings.tls.as_ref());
        }
        self.live.store(live.clone());
        let withdrawn = self.withdrawn(&live.keys);
        let count = withdrawn.len();
        if count > 0 {
            let server = self.clone();
            tokio::spawn(
                async move { server.close_spread(withdrawn, CloseReason::KeyWithdrawn, spread).await },
            );
        }
        count
    }

    /// The connections whose key is none of these.
    fn withdrawn(&self, keys: &Keys) -> Vec<Uuid> {
        let mut withdrawn = Vec::new();
        self.hub.each_connection(|connection| {
            if is_withdrawn(connection, keys) {
                withdrawn.push(connection.id());
            }
        });
        withdrawn
    }

    /// How many connections a reload with these settings would close.
    pub fn would_close(&self, settings: &Settings) -> usize {
        self.withdrawn(&Live::new(settings.clone(), self.max_descriptors).keys).len()
    }

    /// What is in force, to be kept across an await.
    pub fn live_full(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// The port that clients reach, once it listens on one.
    pub fn port(&self) -> Option<u16> {
        self.port.get().copied()
    }

    /// Says on which port it listens; the first word counts.
    pub fn set_port(&self, port: u16) {
        let _ = self.port.set(port);
    }

    /// Counts, logs and remembers a refused request.
    fn refused(&self, address: SocketAddr, refused: Rejected) {
        self.counters.refused.fetch_add(1, Relaxed);
        let code = refused.code();
        let Rejected { rejection, subject, .. } = refused;
        let verified = !matches!(rejection, Rejection::Token(_));
        self.remember(ClosedRecord {
            at: SystemTime::now(),
            connection: None,
            address,
            subject,
            verified,
            reason: rejection.name(),
            code,
            sentence: rejection.to_string().into(),
            duration: Duration::ZERO,
            messages_in: 0,
            messages_out: 0,
            bytes_in: 0,
            bytes_out: 0,
            greatest_queue: 0,
        });
    }

    /// Counts, logs and remembers a connection that has ended for this reason.
    fn closed(&self, connection: &Connection, reason: CloseReason) {
        self.counters.closed.fetch_add(1, Relaxed);
        let (access, stats) = (connection.access(), connection.stats());
        self.counters.received.fetch_add(stats.bytes_in, Relaxed);
        self.counters.sent.fetch_add(stats.out.bytes, Relaxed);
        let duration = connection.opened().elapsed();
        self.remember(ClosedRecord {
            at: SystemTime::now(),
            connection: Some(connection.id()),
            address: connection.address(),
            subject: access.subject.clone(),
            verified: true,
            reason: reason.name(),
            code: reason.code(),
            sentence: reason.sentence().into(),
            duration,
            messages_in: stats.messages_in,
            messages_out: stats.out.messages,
            bytes_in: stats.bytes_in,
            bytes_out: stats.out.bytes,
            greatest_queue: stats.out.greatest_queue as u64,
        });
    }

    /// Logs a record, remembers it, and passes it to those who follow events.
    fn remember(&self, mut record: ClosedRecord) {
        self.log.closed(&record, Instant::now());
        record.sentence = closed::sentence(record.sentence);
        let record = Arc::new(record);
        self.events.tell(|| Event::Closed(record.clone()));
        self.closed.add(record, self.live().settings.admin.closed_ring);
    }

    /// Whose places a connection from this address counts among, where it is known.
    fn origin(&self, peer: SocketAddr) -> Option<limits::Origin> {
        accept::pending::origin(peer, &self.live().settings.limits.trusted_proxies)
    }

    /// Waits until every accept loop has shown that it still runs.
    pub async fn accept_loops_answer(&self) {
        self.accept_loops.answer().await;
    }

    /// How many connections have shown a token and not ended.
    pub fn connected(&self) -> usize {
        self.limits.connections()
    }

    /// How many connections have not shown a token yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many addresses and how many subjects the limits count connections of.
    pub fn counted(&self) -> (usize, usize) {
        self.limits.len()
    }
}

/// Whether the key of a connection's token is none of these.
fn is_withdrawn(connection: &Connection, keys: &Keys) -> bool {
    connection.access().key.as_ref().is_some_and(|key| !keys.contains(key))
}

/// Seconds since 1970 by the wall clock, which tokens follow.
pub(crate) fn unix_now() -> UnixSeconds {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
