//! The network side: listeners, HTTP and the upgrade, one connection's life, and what watches all connections.
//!
//! In the order in which a client meets them: [`accept`], [`http`], [`admission`], [`session`], or [`sse`] without a WebSocket. [`limits`] and [`bans`]
//! keep clients out, and [`rejection`] tells them why. [`heartbeat`] watches all connections, [`presence`] tells who reads a
//! channel, and [`shutdown`] closes many connections. [`publishing`] passes messages to the hub and to a cluster, and
//! [`steering`] answers its other nodes. [`live`] is what a reload replaces. [`counters`], [`closed`] (of [`record`]s) and
//! [`events`] tell administrators what happened, and [`feed`] tells backends. [`ops`] is what administrators and backends can
//! do, [`background`] their long work. [`faults`] are what a developer asks a server of `--dev` to do to its clients.
//! The file `cost.md` has the cost of a message in instructions.
//!
//! A connection without a token holds a *place*, which others may take from it. An admitted connection holds a [`slot`],
//! one of the `max_connections`, and with it a *seat*, its counts per address and per subject.

mod accept;
mod admission;
mod background;
mod bans;
mod closed;
mod counters;
mod events;
mod faults;
mod feed;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod heartbeat;
mod http;
mod limits;
mod live;
pub mod ops;
mod presence;
mod publishing;
mod record;
mod rejection;
mod session;
mod shutdown;
mod slot;
mod sse;
pub mod steering;

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, Guard};
use tokio::task::JoinHandle;
use uuid::Uuid;

pub use self::accept::{accept_loop, listener};
pub use self::bans::file::{BanFile, BanFileError};
pub use self::bans::{BanError, BanRecord, Bans, MAX_BANS};
pub use self::closed::{ClosedRing, ReasonCount};
pub use self::counters::Counters;
pub use self::events::{Connected, Event, Events, Following, MAX_FOLLOWERS, Messages, Published, Reloaded};
use self::heartbeat::Heartbeats;
pub use self::live::{Live, SPARE_DESCRIPTORS};
pub use self::rejection::Rejection;
pub use self::shutdown::drain::SHORTEST_DRAIN;
use self::shutdown::drain::close_spread;
use self::shutdown::withdrawn::withdrawn;
use crate::close::CloseReason;
use crate::cluster::Cluster;
use crate::config::{HistorySettings, Settings};
use crate::hub::{Flusher, Hub, Retention, Retentions};
use crate::log::ConnectionLog;
use crate::outbox::{Budget, Seconds};
use crate::sync::lock;
use crate::token::UnixSeconds;

/// The server, which all its tasks share. It is the composition of its parts.
pub struct Server {
    /// The connections, and which channels they read.
    pub hub: Arc<Hub>,
    /// This node's part in a cluster, if it is in one.
    pub cluster: Option<Arc<Cluster>>,
    /// Its counts.
    pub counters: Counters,
    /// The log lines about connections.
    pub log: ConnectionLog,
    /// Connections that have ended and requests that were rejected, with the reason.
    pub closed: ClosedRing,
    /// Those who follow events.
    pub events: Arc<Events>,
    /// The banned subjects.
    pub bans: Bans,
    faults: faults::Faults,
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
    /// Closes the connections whose key a reload has withdrawn. There is one such task, however many reloads there are.
    closing_withdrawn: Mutex<Option<JoinHandle<()>>>,
    port: OnceLock<u16>,
}

impl Server {
    /// Makes a server with these settings and the descriptor limit of the process. It serves when it is given
    /// listeners.
    pub fn new(settings: Settings, max_descriptors: usize) -> Arc<Server> {
        let live = Live::new(settings, max_descriptors);
        let limits = &live.settings.limits;
        let budget = Budget::new(
            limits.queue_messages,
            limits.queue_bytes,
            limits.total_queue_bytes,
            live.settings.websocket.write_buffer_size,
        );
        let hub = Arc::new(Hub::new(Arc::new(budget)));
        let history = &live.settings.history;
        hub.keep_by_name(retentions(history), history.bytes);
        hub.compress_from(live.settings.websocket.compression);
        if let Some(cluster) = &live.settings.cluster {
            hub.feed().set_node(&cluster.name);
        }
        let counters = Counters::default();
        let flusher = Arc::new(Flusher::new(counters.panics.clone()));
        let cluster = live.settings.cluster.clone();
        let cluster = cluster.map(|settings| Cluster::new(settings, history, hub.clone(), flusher.clone()));
        // It is made even without a certificate: which listeners speak TLS is settled at the start.
        let acceptor =
            accept::tls::Acceptor::new().inspect_err(|error| tracing::error!("no TLS: {error}")).ok();
        if let Some(acceptor) = &acceptor {
            acceptor.set(live.settings.tls.as_ref());
        }
        Arc::new(Server {
            hub,
            cluster,
            flusher,
            counters,
            log: ConnectionLog::default(),
            closed: ClosedRing::default(),
            events: Arc::default(),
            bans: Bans::default(),
            faults: faults::Faults::default(),
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
            closing_withdrawn: Mutex::default(),
            port: OnceLock::new(),
        })
    }

    /// Watches all connections until dropped: heartbeats, expiry, memory.
    pub async fn look_after(self: Arc<Self>) {
        tokio::join!(heartbeat::run(self.clone()), presence::run(self.clone()), feed::run(self));
    }

    /// Waits until the messages of other nodes reach the channels that a connection has joined, before its client is told
    /// that it has.
    async fn joined(&self) {
        if let Some(cluster) = &self.cluster {
            // Boxed, because every connection would pay for its room.
            Box::pin(cluster.settled()).await;
        }
    }

    /// Returns its id, which is the `issuer` of what HTTP and administrators publish.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Returns when it was made.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Returns the seconds since it was made, by the monotonic clock.
    pub fn now(&self) -> Seconds {
        self.started.elapsed().as_secs() as Seconds
    }

    /// Returns the settings and keys in force.
    pub fn live(&self) -> Guard<Arc<Live>> {
        self.live.load()
    }

    /// Puts new settings in force, and closes connections whose key is gone, spread over `spread`.
    ///
    /// Returns how many connections will be closed.
    pub fn reload(self: &Arc<Self>, settings: Settings, spread: Duration) -> usize {
        let live = Arc::new(Live::new(settings, self.max_descriptors));
        let limits = &live.settings.limits;
        let budget = self.hub.budget();
        budget.queue_messages.store(limits.queue_messages, Relaxed);
        budget.queue_bytes.store(limits.queue_bytes, Relaxed);
        budget.total_bytes.store(limits.total_queue_bytes, Relaxed);
        budget.kept_bytes.store(live.settings.websocket.write_buffer_size, Relaxed);
        let history = &live.settings.history;
        self.hub.keep_by_name(retentions(history), history.bytes);
        self.hub.compress_from(live.settings.websocket.compression);
        if let (Some(cluster), Some(settings)) = (&self.cluster, &live.settings.cluster) {
            cluster.reload(settings.clone(), history);
        }
        if let Some(acceptor) = &self.tls {
            acceptor.set(live.settings.tls.as_ref());
        }
        self.live.store(live.clone());
        let withdrawn = withdrawn(&self.hub, &live.keys);
        let count = withdrawn.len();
        let closing = (count > 0).then(|| {
            let server = self.clone();
            tokio::spawn(async move {
                close_spread(&server, withdrawn, CloseReason::KeyWithdrawn, spread).await;
            })
        });
        // It also closes the connections that an earlier reload has not closed yet.
        if let Some(earlier) = std::mem::replace(&mut *lock(&self.closing_withdrawn), closing) {
            earlier.abort();
        }
        count
    }

    /// Returns how many connections a reload with these settings would close.
    pub fn would_close(&self, settings: &Settings) -> usize {
        withdrawn(&self.hub, &Live::new(settings.clone(), self.max_descriptors).keys).len()
    }

    /// Returns the settings and keys in force, for use across an await.
    pub fn live_owned(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Returns the port that clients reach, if it listens on one.
    pub fn port(&self) -> Option<u16> {
        self.port.get().copied()
    }

    /// Notes the port that it listens on. The first one is kept.
    pub fn set_port(&self, port: u16) {
        let _ = self.port.set(port);
    }

    /// Returns the address that a connection counts for, if it is known.
    fn address_key(&self, peer: SocketAddr) -> Option<limits::AddressKey> {
        accept::pending::address_key(peer, &self.live().settings.limits.trusted_proxies)
    }

    /// Returns whether a drain has begun.
    pub fn draining(&self) -> bool {
        self.drain.reason().is_some()
    }

    /// Drains gracefully, within `within` or [`SHORTEST_DRAIN`]. With [`CloseReason::Restarting`] no client is rejected:
    /// one that was accepted already is admitted, and then asked to reconnect as all others.
    pub async fn drain(&self, reason: CloseReason, within: Duration) {
        shutdown::drain::drain(self, reason, within).await;
    }

    /// Waits until every accept loop has shown that it still runs.
    pub async fn accept_loops_answer(&self) {
        self.accept_loops.answer().await;
    }

    /// Returns the number of connections that have shown a token and not ended.
    pub fn connected(&self) -> usize {
        self.limits.connections()
    }

    /// Returns the number of connections that have not shown a token yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Returns how many addresses and how many subjects the limits count.
    pub fn counted(&self) -> (usize, usize) {
        self.limits.len()
    }
}

/// Returns what each channel keeps.
fn retentions(history: &HistorySettings) -> Retentions {
    let by_prefix = history.channels.iter().map(|channel| {
        (&*channel.prefix, Retention::new(channel.messages, channel.ttl.unwrap_or(history.ttl)))
    });
    Retentions::new(Retention::new(history.messages, history.ttl), by_prefix)
}

/// Returns the seconds since 1970 by the wall clock, which tokens use.
pub(crate) fn unix_now() -> UnixSeconds {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
