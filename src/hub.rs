//! The shared state of message routing: which connections there are, and which of them read which channel. It uses no
//! socket.
//!
//! In reading order: [`Channel`] is one channel with its [`reader_set`], [`publish`] queues a message to its readers, [`flush_list`] collects the
//! outboxes to write, and [`flush`] writes them. [`compression`] compresses a message before that. [`history`] keeps a channel's last messages, as many as its [`retention`]
//! tells, [`resume`] delivers them
//! to a client that returns, and [`sweep`] drops the oldest, which it finds by the index in [`ages`]. [`connection`] is one
//! connection, [`enter`] changes its [`memberships`], which are the channels that it reads, [`places`] tells how far it has read
//! them, which [`explain`] looks up, and [`heartbeat`] decides whether
//! its client is alive. [`presence`] tells clients who reads a channel, by its [`watch`]. For a cluster, [`interest`] tells
//! which channels have readers here, [`log`] fills the histories from the cluster's log, and [`peers`] are the other nodes,
//! which tell their readers. [`feed`] has backends told who reads the channels that they select. [`image`] hands the histories
//! over to the next process.
//!
//! Locks are taken in the order connection, shard, channel, and then the index of ages, the feed or an outbox, at most one of each.
//! None is held across a system call or an await.

mod ages;
mod compression;
mod connection;
mod enter;
mod explain;
mod feed;
mod flush;
mod flush_list;
mod heartbeat;
mod history;
pub(crate) mod image;
mod interest;
mod log;
mod memberships;
mod peers;
mod places;
mod presence;
mod publish;
mod reader_set;
mod resume;
mod retention;
mod sweep;
mod told;
mod watch;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use uuid::Uuid;

use self::ages::Ages;
use self::compression::Compression;
pub use self::compression::CompressionFigures;
use self::connection::{ById, IdHasher};
pub use self::connection::{Connection, ConnectionStats, Transport};
pub use self::enter::EnterError;
pub use self::flush::{Flusher, Writing, yield_to_sockets};
pub use self::flush_list::FlushList;
pub(crate) use self::heartbeat::{Heartbeat, Pulse};
use self::history::{History, Keeping};
pub use self::image::{Boot, HandedOver, ImageError, TakenOver};
pub use self::interest::{Expected, Interest};
pub use self::log::Logged;
use self::memberships::Membership;
pub use self::peers::{Changes, Followed, MAX_FOLLOWED};
use self::places::{Joined, LeftPlace};
pub use self::places::{Kept, Place};
pub use self::presence::PresenceFigures;
use self::presence::Watched;
pub use self::publish::Queued;
use self::reader_set::ReaderSet;
pub use self::resume::Positions;
pub use self::retention::{Retention, Retentions};
pub use self::sweep::Outdated;
pub use self::told::{Peer, Told, ToldSubject};
pub use self::watch::PresenceLimits;
use self::watch::Watch;
use crate::close::CloseReason;
use crate::feed::Feed;
use crate::frame::Frame;
use crate::message::{ChannelName, Since};
use crate::outbox::{Budget, MAX_CHANNELS};
use crate::sync::{Sharded, Striped, lock};

/// The number of parts of each map, so that connections on different cores seldom wait for each other.
const SHARDS: usize = 64;

/// A channel that has readers or a history. The order in which its lock is taken is the order of its messages.
struct Channel {
    name: ChannelName,
    /// Messages since it was created. Changed under the lock, read without it.
    messages: AtomicU64,
    /// The lower half of `messages` at the last sample, and the messages per second before it as bits of an `f32`.
    sampled: AtomicU32,
    rate: AtomicU32,
    /// The number of that sample.
    round: AtomicU32,
    /// The number of `readers`. A list of channels reads it without waiting for a publish to a large channel.
    reader_count: AtomicU32,
    /// How many of them take compressed messages. A publish reads it without the lock.
    compressing: AtomicU32,
    readers: Mutex<Readers>,
}

impl Channel {
    fn new(name: ChannelName, retention: Retention) -> Arc<Channel> {
        Arc::new(Channel {
            name,
            messages: AtomicU64::new(0),
            sampled: AtomicU32::new(0),
            rate: AtomicU32::new(0),
            round: AtomicU32::new(0),
            reader_count: AtomicU32::new(0),
            compressing: AtomicU32::new(0),
            readers: Mutex::new(Readers {
                connections: ReaderSet::default(),
                history: None,
                watch: None,
                told: false,
                retention,
                gone: false,
            }),
        })
    }
}

/// Removes a channel that has no readers and no history, or only a history that may go because all readers left before
/// `until`. The caller holds both locks.
fn forget_unused(
    shard: &mut HashMap<ChannelName, Arc<Channel>>,
    channel: &Channel,
    readers: &mut Readers,
    until: Option<Instant>,
) {
    let kept = readers.history.as_ref().is_some_and(|history| !history.may_go(until));
    if !readers.connections.is_empty() || kept || readers.gone {
        return;
    }
    readers.history = None;
    readers.gone = true;
    shard.remove(&channel.name);
    if shard.len() < shard.capacity() / 8 {
        let room = shard.len() * 2;
        shard.shrink_to(room);
    }
}

/// Counters of a channel that has readers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChannelStats {
    /// Connections that read it.
    pub readers: u64,
    /// Messages since it was created.
    pub messages: u64,
    /// Messages per second before the last sample.
    pub messages_per_second: f32,
}

/// A channel's readers and its history.
struct Readers {
    connections: ReaderSet,
    /// The channel's last messages, if there is a history.
    history: Option<Box<History>>,
    /// Who reads it, while somebody follows that.
    watch: Option<Box<Watch>>,
    /// Backends are told who reads it.
    told: bool,
    /// What the history keeps, by the channel's name.
    retention: Retention,
    /// The channel was removed from the map. A task that still holds it must look up its name again.
    gone: bool,
}

impl Readers {
    fn remove(&mut self, connection: &Arc<Connection>) {
        self.connections.remove(connection);
        if self.connections.is_empty()
            && let Some(history) = &mut self.history
        {
            history.left(Instant::now());
        }
    }

    /// Returns the history, and begins it if there is none. Returns `None` if the channel must not have one, or, with a
    /// retention, if the histories are handed over. This alone decides, because that begins without a lock.
    fn history_from(
        &mut self,
        keeping: &Arc<Keeping>,
        name: &ChannelName,
        now: Instant,
    ) -> Option<&mut History> {
        let retention = self.retention;
        (retention.is_on() && !keeping.is_sealed()).then(|| {
            &mut **self.history.get_or_insert_with(|| Box::new(History::new(keeping, retention, name, now)))
        })
    }

    /// Returns whether a reader gets no new message yet, because those that were promised to it come first.
    fn holds_back(&self, reader: &Connection) -> bool {
        self.history.as_ref().is_some_and(|history| history.is_held_back(reader))
    }

    /// Ends the history, because a message that is not kept would leave a gap in it. If a client was promised its messages,
    /// this message is kept, too, with this number if a log has given it one. Returns the frame for the readers.
    #[cold]
    fn end_history(&mut self, frame: &Frame, number: Option<u64>) -> Frame {
        match &mut self.history {
            Some(history) if history.is_pinned() => {
                let (number, now) = (number.unwrap_or(history.last() + 1), Instant::now());
                return history.record_at(frame, number, now, now);
            }
            // The sweep finds it, and removes the channel.
            Some(history) if self.connections.is_empty() => history.restart(),
            _ => self.history = None,
        }
        frame.clone()
    }
}

/// All connections, and all channels that have readers or a history.
pub struct Hub {
    channels: Sharded<ChannelName, Arc<Channel>, SHARDS>,
    connections: Sharded<ById, (), SHARDS, BuildHasherDefault<IdHasher>>,
    budget: Arc<Budget>,
    deliveries: Striped<SHARDS>,
    /// Channels that have a reader. Many more may have a history only.
    read_channels: AtomicUsize,
    /// The number of samples of the channels' rates so far.
    samples: AtomicU32,
    keeping: Arc<Keeping>,
    /// The channels whose presence is followed.
    watched: Watched,
    /// The events for backends.
    feed: Arc<Feed>,
    /// The channels with a history, by the age of their oldest message.
    ages: Ages<Arc<Channel>>,
    compression: Compression,
    /// Learns which channels got their first reader or lost their last one.
    interest: OnceLock<Arc<Interest>>,
}

impl Hub {
    /// Makes an empty hub whose outboxes share `budget`.
    pub fn new(budget: Arc<Budget>) -> Hub {
        Hub {
            channels: Sharded::default(),
            connections: Sharded::default(),
            budget,
            deliveries: Striped::default(),
            read_channels: AtomicUsize::new(0),
            samples: AtomicU32::new(0),
            keeping: Arc::new(Keeping::off()),
            ages: Ages::new(),
            watched: Watched::default(),
            feed: Arc::default(),
            compression: Compression::default(),
            interest: OnceLock::new(),
        }
    }

    /// Returns the budget that all outboxes share.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Registers a connection and joins it to the channels that it may read. Its outbox may still be held back.
    pub fn enter(&self, connection: &Arc<Connection>) {
        lock(self.connections.shard(&connection.id())).insert(ById(connection.clone()), ());
        let claims = connection.claims();
        let wanted = claims.read().to_vec();
        self.change(connection, |_, _| true, (wanted, false), &[], |_, _| None);
    }

    /// Registers a connection as [`Hub::enter`] does. Calls `announce` with its positions before anything is queued.
    pub fn enter_since(
        &self,
        connection: &Arc<Connection>,
        since: &[Since<'_>],
        announce: impl FnOnce(&Positions),
    ) {
        lock(self.connections.shard(&connection.id())).insert(ById(connection.clone()), ());
        let claims = connection.claims();
        let wanted = claims.read().to_vec();
        self.resume(connection, |_, _| true, (wanted, false), since, |positions, _| announce(positions));
    }

    /// Removes a connection from its channels and from the hub.
    pub fn leave(&self, connection: &Arc<Connection>) {
        self.subscribe(connection, &[]);
        lock(self.connections.shard(&connection.id())).remove(&connection.id());
    }

    /// Returns a channel of a shard, and creates it if there is none.
    fn channel_in(&self, shard: &mut HashMap<ChannelName, Arc<Channel>>, name: &str) -> Arc<Channel> {
        if let Some(channel) = shard.get(name) {
            return channel.clone();
        }
        let channel = Channel::new(ChannelName::checked(name), self.keeping.retention(name));
        shard.insert(channel.name.clone(), channel.clone());
        channel
    }

    /// Joins a channel. Queues the history after the message `after` in the same step, so that no message is missing or
    /// delivered twice. Returns the channel, and after which message the connection is queued all.
    fn join(&self, connection: &Arc<Connection>, name: &str, after: Option<u64>) -> (Arc<Channel>, Joined) {
        let mut shard = lock(self.channels.shard(name));
        let channel = self.channel_in(&mut shard, name);
        // Locked while the shard is locked, so that nobody removes the channel in between.
        let mut readers = lock(&channel.readers);
        if let (Some(after), Some(history)) = (after, &readers.history) {
            resume::deliver(history, after, connection);
        }
        if readers.connections.is_empty() {
            self.read_channels.fetch_add(1, Relaxed);
            self.interest_changed(&channel);
            readers.told = self.feed.selects(&channel.name);
            // Messages that were published while it had no reader belong to no sample.
            channel.sampled.store(channel.messages.load(Relaxed) as u32, Relaxed);
        }
        readers.connections.insert(connection.clone());
        channel.compressing.fetch_add(connection.compresses().into(), Relaxed);
        self.change_watch(&channel, &mut readers, |watch, now| watch.join(connection, now));
        if readers.connections.len() == 1 {
            self.watch_for_others(&channel, &mut readers);
        }
        if readers.told {
            self.feed.joined(&channel.name, connection.id(), connection.claims().subject());
        }
        channel.reader_count.store(readers.connections.len() as u32, Relaxed);
        let joined = readers.history.as_ref().map_or(Joined::default(), |history| {
            Joined::after(history.id_of(after.unwrap_or(history.complete_to())))
        });
        drop(readers);
        (channel, joined)
    }

    fn part(&self, connection: &Arc<Connection>, membership: &Membership, left: &mut Vec<LeftPlace>) {
        let channel = &membership.channel;
        let mut shard = lock(self.channels.shard(channel.name.as_str()));
        let mut readers = lock(&channel.readers);
        if left.len() < MAX_CHANNELS {
            let last = readers.history.as_ref().map(|history| history.id_of(history.complete_to()));
            left.extend(last.and_then(|last| LeftPlace::of(channel, last, membership.joined)));
        }
        readers.remove(connection);
        channel.compressing.fetch_sub(connection.compresses().into(), Relaxed);
        self.change_watch(channel, &mut readers, |watch, now| watch.part(connection, now));
        if readers.told {
            self.feed.left(&channel.name, connection.id());
        }
        if readers.connections.is_empty() {
            self.read_channels.fetch_sub(1, Relaxed);
            self.interest_changed(channel);
        }
        channel.reader_count.store(readers.connections.len() as u32, Relaxed);
        forget_unused(&mut shard, channel, &mut readers, None);
        if readers.connections.is_empty()
            && let Some(history) = &mut readers.history
        {
            history.file(&self.ages, channel, true, Instant::now());
        }
    }

    /// Returns the connection with this id.
    pub fn connection(&self, id: &Uuid) -> Option<Arc<Connection>> {
        lock(self.connections.shard(id)).get_key_value(id).map(|(ById(connection), ())| connection.clone())
    }

    /// Calls `visit` for each connection, with one shard locked at a time.
    pub fn each_connection(&self, mut visit: impl FnMut(&Arc<Connection>)) {
        for shard in self.connections.shards() {
            lock(shard).keys().for_each(|ById(connection)| visit(connection));
        }
    }

    /// Delivers nothing more to a connection that is about to be closed, because what it got next would follow a gap. It
    /// cannot join a channel again.
    pub fn detach(&self, connection: &Arc<Connection>) {
        connection.detached.store(true, Relaxed);
        self.subscribe(connection, &[]);
    }

    /// Returns whether a connection reads a channel of clients.
    pub fn reads_any(connection: &Connection) -> bool {
        lock(&connection.memberships).channels().any(|channel| !channel.name.is_internal())
    }

    /// Returns how many connections read a channel.
    pub fn readers_of(&self, channel: &str) -> usize {
        let channel = lock(self.channels.shard(channel)).get(channel).cloned();
        channel.map_or(0, |channel| channel.reader_count.load(Relaxed) as usize)
    }

    /// Returns the number of channels that have a reader.
    pub fn channel_count(&self) -> usize {
        self.read_channels.load(Relaxed)
    }

    /// Calls `visit` for each channel of clients that has a reader, with one shard and no channel locked at a time.
    pub fn each_channel(&self, mut visit: impl FnMut(&ChannelName, ChannelStats)) {
        for shard in self.channels.shards() {
            let shown = |channel: &&Arc<Channel>| {
                !channel.name.is_internal() && channel.reader_count.load(Relaxed) > 0
            };
            for channel in lock(shard).values().filter(shown) {
                let stats = ChannelStats {
                    readers: channel.reader_count.load(Relaxed).into(),
                    messages: channel.messages.load(Relaxed),
                    messages_per_second: f32::from_bits(channel.rate.load(Relaxed)),
                };
                visit(&channel.name, stats);
            }
        }
    }

    /// Samples the rate of each channel that has a reader. `since` is the time since the last sample. Finds the channels
    /// by their readers, because many more channels may have a history only.
    pub fn sample_channels(&self, since: Duration) {
        let seconds = since.as_secs_f32().max(f32::EPSILON);
        let round = self.samples.fetch_add(1, Relaxed).wrapping_add(1);
        self.each_connection(|connection| {
            for channel in lock(&connection.memberships).channels() {
                if channel.round.swap(round, Relaxed) == round {
                    continue;
                }
                let now = channel.messages.load(Relaxed) as u32;
                let messages = now.wrapping_sub(channel.sampled.swap(now, Relaxed));
                channel.rate.store((messages as f32 / seconds).to_bits(), Relaxed);
            }
        });
    }

    /// Returns the number of messages queued to readers since the start.
    pub fn deliveries(&self) -> u64 {
        self.deliveries.sum()
    }

    /// Closes the connections with the most refused bytes until all queues together are within their limit.
    ///
    /// Returns how many were closed.
    pub fn relieve(&self) -> usize {
        let mut waiting: Vec<(usize, Arc<Connection>)> = Vec::new();
        self.each_connection(|connection| {
            let refused = connection.outbox.refused_bytes();
            if refused > 0 {
                waiting.push((refused, connection.clone()));
            }
        });
        waiting.sort_unstable_by_key(|(refused, _)| std::cmp::Reverse(*refused));
        let within = |_: &&(usize, Arc<Connection>)| self.budget.excess() > 0;
        let closed = waiting.iter().take_while(within);
        closed.filter(|(_, connection)| connection.outbox.close(CloseReason::QueueMemory)).count()
    }
}

#[cfg(test)]
mod tests;
