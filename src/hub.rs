//! The only shared state: which connections there are and who reads which channel. Knows no socket.
//!
//! Locks are taken in the order connection, shard, channel, outbox, at most one of each, and none is held across a
//! system call or an await.

mod ages;
mod connection;
mod flush_list;
mod heartbeat;
mod history;
mod recovery;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indexmap::IndexSet;
use uuid::Uuid;

use self::ages::Ages;
pub use self::connection::{Connection, ConnectionStats};
pub use self::flush_list::FlushList;
pub(crate) use self::heartbeat::{Heartbeat, Pulse};
use self::history::{History, Keeping};
use self::recovery::Recovery;
pub use self::recovery::{Outdated, Places};
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::message::{Batch, ChannelName, Delivery, MessageId, Since};
use crate::outbox::{Budget, Pushed};
use crate::sync::lock;
use crate::token::Claims;

/// Parts that a map is divided into, so that connections on different cores seldom wait for each other.
const SHARDS: usize = 64;

/// A map divided by its keys' hash.
struct Sharded<K, V> {
    hasher: RandomState,
    shards: [Mutex<HashMap<K, V>>; SHARDS],
}

impl<K, V> Sharded<K, V> {
    fn new() -> Self {
        Sharded { hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::new(HashMap::new())) }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> &Mutex<HashMap<K, V>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }
}

/// A channel while someone reads it. Its lock is the one order in which all readers see its messages.
struct Channel {
    name: ChannelName,
    /// Messages since it came to be; changed under the lock, read without it.
    messages: AtomicU64,
    /// The lower half of `messages` at the last sample, and the messages a second before it, as bits of an `f32`.
    sampled: AtomicU32,
    rate: AtomicU32,
    /// Which sample that was.
    round: AtomicU32,
    /// Of `readers`, for those who list channels: they must not wait for a publish to a large one.
    reader_count: AtomicU32,
    readers: Mutex<Readers>,
}

impl Channel {
    fn new(name: &ChannelName) -> Arc<Channel> {
        Arc::new(Channel {
            name: name.clone(),
            messages: AtomicU64::new(0),
            sampled: AtomicU32::new(0),
            rate: AtomicU32::new(0),
            round: AtomicU32::new(0),
            reader_count: AtomicU32::new(0),
            readers: Mutex::default(),
        })
    }
}

/// Forgets a channel that nobody reads and that keeps nothing, not even the place of those who left it after `until`.
/// Both locks are held.
fn forget_unused(
    shard: &mut HashMap<ChannelName, Arc<Channel>>,
    channel: &Channel,
    readers: &mut Readers,
    until: Option<Instant>,
) {
    let kept = readers.1.history.as_ref().is_some_and(|history| !history.may_go(until));
    if !readers.0.is_empty() || kept || readers.1.gone {
        return;
    }
    readers.1 = Kept { history: None, gone: true };
    shard.remove(&channel.name);
    if shard.len() < shard.capacity() / 8 {
        let room = shard.len() * 2;
        shard.shrink_to(room);
    }
}

/// Whether a reader is the publisher.
fn is(publisher: Option<&Arc<Connection>>) -> impl Fn(&Arc<Connection>) -> bool {
    move |reader| publisher.is_some_and(|publisher| Arc::ptr_eq(publisher, reader))
}

/// What is known of a channel that somebody reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChannelStats {
    /// Connections that read it.
    pub readers: u64,
    /// Messages since somebody began to read it.
    pub messages: u64,
    /// Messages a second before the last sample.
    pub messages_per_second: f32,
}

/// A channel's readers, and what it keeps for those who come back: dense for those who walk over all of them, found by hash by those who leave.
#[derive(Default)]
struct Readers(IndexSet<Arc<Connection>>, Kept);

/// What a channel keeps besides its readers.
#[derive(Default)]
struct Kept {
    /// Its last messages, while there is a history.
    history: Option<Box<History>>,
    /// It was forgotten: whoever still holds it has to look for another of its name.
    gone: bool,
}

impl Readers {
    fn remove(&mut self, connection: &Arc<Connection>) {
        self.0.swap_remove(connection);
        if self.0.is_empty()
            && let Some(history) = &mut self.1.history
        {
            history.left(Instant::now());
        }
        if self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(self.0.len() * 2);
        }
    }
}

/// What became of messages on their way to a channel.
#[derive(Default)]
struct Queued {
    /// Readers that they were queued to.
    readers: usize,
    /// The place of the last of them, where they are kept.
    last: Option<MessageId>,
}

/// All connections and all channels that are read.
pub struct Hub {
    channels: Sharded<ChannelName, Arc<Channel>>,
    connections: Sharded<Uuid, Arc<Connection>>,
    budget: Arc<Budget>,
    deliveries: AtomicU64,
    /// Channels that have a reader: a history keeps many more.
    read_channels: AtomicUsize,
    /// Samples of the channels' rates so far.
    samples: AtomicU32,
    keeping: Arc<Keeping>,
    /// The channels with a history, by the age of the oldest that they keep.
    ages: Ages<Arc<Channel>>,
}

impl Hub {
    /// An empty hub whose outboxes share `budget`.
    pub fn new(budget: Arc<Budget>) -> Hub {
        Hub {
            channels: Sharded::new(),
            connections: Sharded::new(),
            budget,
            deliveries: AtomicU64::new(0),
            read_channels: AtomicUsize::new(0),
            samples: AtomicU32::new(0),
            keeping: Arc::new(Keeping::off()),
            ages: Ages::new(),
        }
    }

    /// What all outboxes share.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Registers a connection and lets it join what it may read. Its outbox may still be held back.
    pub fn enter(&self, connection: &Arc<Connection>) {
        lock(self.connections.shard(&connection.id())).insert(connection.id(), connection.clone());
        self.subscribe(connection, &connection.access().read);
    }

    /// Like [`Hub::enter`], and says from where on it gets its channels before anything else is queued.
    pub fn enter_since(
        &self,
        connection: &Arc<Connection>,
        since: &[Since<'_>],
        announce: impl FnOnce(&Places),
    ) {
        lock(self.connections.shard(&connection.id())).insert(connection.id(), connection.clone());
        self.resume(connection, &connection.access().read, since, announce);
    }

    /// Gives a connection another access: leaves and joins the difference in channels, disturbs nothing else. What is
    /// kept of a channel that it stays in is delivered again where `since` names it without an id.
    ///
    /// Between the leaving and the joining `announce` is told from where on it gets the new ones, so that what it queues
    /// is a clean cut between the channels of before and of now.
    pub fn replace_access(
        &self,
        connection: &Arc<Connection>,
        access: Arc<Claims>,
        since: &[Since<'_>],
        announce: impl FnOnce(&Places),
    ) {
        connection.set_access(access);
        self.resume(connection, &connection.access().read, since, announce);
    }

    /// Takes a connection out of its channels and forgets it.
    pub fn leave(&self, connection: &Arc<Connection>) {
        self.subscribe(connection, &[]);
        lock(self.connections.shard(&connection.id())).remove(&connection.id());
    }

    /// Makes `channels` what the connection reads: leaves and joins the difference, disturbs nothing else.
    ///
    /// No name may stand there twice; [`Claims`] sees to that.
    pub fn subscribe(&self, connection: &Arc<Connection>, channels: &[ChannelName]) {
        self.change(connection, channels, &[], |_| None);
    }

    fn resume(
        &self,
        connection: &Arc<Connection>,
        channels: &[ChannelName],
        since: &[Since<'_>],
        announce: impl FnOnce(&Places),
    ) {
        self.change(connection, channels, since, |channels| {
            let recovery = Recovery::look(self, connection, channels, since);
            announce(recovery.places());
            Some(recovery)
        });
    }

    /// Leaves and joins; `look` is shown in between what is joined, and what is delivered again.
    fn change<'a>(
        &'a self,
        connection: &Arc<Connection>,
        channels: &[ChannelName],
        since: &[Since<'_>],
        look: impl FnOnce(&[&ChannelName]) -> Option<Recovery<'a>>,
    ) {
        let wanted: HashSet<&ChannelName> = channels.iter().collect();
        let mut lock = lock(&connection.memberships);
        let mut memberships = std::mem::take(&mut *lock).into_vec();
        memberships.retain(|channel| {
            let stays = wanted.contains(&channel.name);
            if !stays {
                self.part(connection, channel);
            }
            stays
        });
        let kept: HashSet<ChannelName> = memberships.iter().map(|kept| kept.name.clone()).collect();
        let all_kept: HashSet<&str> =
            since.iter().filter(|(_, id)| id.is_none()).map(|(name, _)| &**name).collect();
        let joins = |name: &ChannelName| !kept.contains(name);
        let looked_at: Vec<&ChannelName> =
            channels.iter().filter(|name| joins(name) || all_kept.contains(name.as_str())).collect();
        let recovery = look(&looked_at);
        memberships.reserve_exact(looked_at.iter().filter(|name| joins(name)).count());
        for name in looked_at {
            let after = recovery.as_ref().and_then(|recovery| recovery.after(name));
            if joins(name) {
                memberships.push(self.join(connection, name, after));
            } else if let Some(after) = after {
                self.deliver_again(connection, name, after);
            }
        }
        *lock = memberships.into_boxed_slice();
        drop((lock, recovery));
        if self.keeping.is_on() {
            // New channels have begun a history.
            self.relieve_history(Instant::now(), channels.len() + recovery::CHANNELS_PER_PUBLISH);
        }
    }

    /// Queues what was kept after the message with the number `after`, and from then on all that comes: one step in the
    /// channel's order.
    fn join(&self, connection: &Arc<Connection>, name: &ChannelName, after: Option<u64>) -> Arc<Channel> {
        let mut shard = lock(self.channels.shard(name.as_str()));
        let channel = shard.entry(name.clone()).or_insert_with(|| Channel::new(name)).clone();
        // Under the shard's lock: nobody forgets the channel in between.
        let mut readers = lock(&channel.readers);
        if let (Some(after), Some(history)) = (after, &readers.1.history) {
            recovery::deliver(history, after, connection);
        }
        if readers.0.is_empty() {
            self.read_channels.fetch_add(1, Relaxed);
            // What was published while nobody read it belongs to no sample.
            channel.sampled.store(channel.messages.load(Relaxed) as u32, Relaxed);
        }
        readers.0.insert(connection.clone());
        channel.reader_count.store(readers.0.len() as u32, Relaxed);
        drop(readers);
        channel
    }

    fn part(&self, connection: &Arc<Connection>, channel: &Arc<Channel>) {
        let mut shard = lock(self.channels.shard(channel.name.as_str()));
        let mut readers = lock(&channel.readers);
        readers.remove(connection);
        if readers.0.is_empty() {
            self.read_channels.fetch_sub(1, Relaxed);
        }
        channel.reader_count.store(readers.0.len() as u32, Relaxed);
        forget_unused(&mut shard, channel, &mut readers, None);
        if readers.0.is_empty()
            && let Some(history) = &mut readers.1.history
        {
            history.file(&self.ages, channel, true, Instant::now());
        }
    }

    /// Queues a message to every reader of its channel but the publisher, and returns to how many.
    ///
    /// Those whose outbox has to be written by the caller are added to `flush_list`.
    pub fn publish(
        &self,
        delivery: &Delivery<'_>,
        publisher: Option<&Arc<Connection>>,
        flush_list: &mut FlushList,
    ) -> usize {
        self.queue(delivery.channel, || delivery.encode(), is(publisher), flush_list).readers
    }

    /// Like [`Hub::publish`], to all but these readers.
    pub fn publish_except(
        &self,
        delivery: &Delivery<'_>,
        excluded: &[Arc<Connection>],
        flush_list: &mut FlushList,
    ) -> usize {
        let is_excluded =
            |reader: &Arc<Connection>| excluded.iter().any(|excluded| Arc::ptr_eq(excluded, reader));
        self.queue(delivery.channel, || delivery.encode(), is_excluded, flush_list).readers
    }

    /// Like [`Hub::publish`] for several messages, which arrive together; takes them out of `batch`.
    pub fn publish_batch(
        &self,
        batch: &mut Batch,
        publisher: Option<&Arc<Connection>>,
        flush_list: &mut FlushList,
    ) -> usize {
        if batch.is_empty() {
            return 0;
        }
        let queued = self.queue(batch.channel(), || batch.encode(), is(publisher), flush_list);
        batch.clear(queued.last);
        queued.readers
    }

    fn queue(
        &self,
        channel: &str,
        encode: impl FnOnce() -> Frame,
        is_excluded: impl Fn(&Arc<Connection>) -> bool,
        flush_list: &mut FlushList,
    ) -> Queued {
        if self.keeping.is_on() {
            return self.queue_kept(channel, &encode(), is_excluded, flush_list);
        }
        let channel = lock(self.channels.shard(channel)).get(channel).cloned();
        let Some(channel) = channel else { return Queued::default() };
        let mut frame = encode();
        let mut readers = lock(&channel.readers);
        if readers.1.history.is_some() {
            frame = readers.end_history(frame);
        }
        Queued { readers: self.push(&channel, &readers, &frame, is_excluded, flush_list), last: None }
    }

    /// Gives a frame to a channel's readers, under its lock.
    fn push(
        &self,
        channel: &Channel,
        readers: &Readers,
        frame: &Frame,
        is_excluded: impl Fn(&Arc<Connection>) -> bool,
        flush_list: &mut FlushList,
    ) -> usize {
        let mut queued = 0;
        // Not fetch_add: the lock has made this the only writer.
        channel.messages.store(channel.messages.load(Relaxed) + frame.messages() as u64, Relaxed);
        for reader in &readers.0 {
            if is_excluded(reader) {
                continue;
            }
            match reader.outbox.push(frame.clone()) {
                Pushed::Promised => flush_list.add(reader),
                Pushed::Queued => {}
                Pushed::Closing => continue,
            }
            queued += 1;
        }
        self.deliveries.fetch_add((queued * frame.messages()) as u64, Relaxed);
        queued
    }

    /// The connection with this id.
    pub fn connection(&self, id: &Uuid) -> Option<Arc<Connection>> {
        lock(self.connections.shard(id)).get(id).cloned()
    }

    /// Shows every connection to `visit`, one shard locked at a time.
    pub fn each_connection(&self, mut visit: impl FnMut(&Arc<Connection>)) {
        for shard in &self.connections.shards {
            lock(shard).values().for_each(&mut visit);
        }
    }

    /// How many channels have a reader.
    pub fn channel_count(&self) -> usize {
        self.read_channels.load(Relaxed)
    }

    /// Shows every channel of clients to `visit`, one shard locked at a time and no channel.
    pub fn each_channel(&self, mut visit: impl FnMut(&ChannelName, ChannelStats)) {
        for shard in &self.channels.shards {
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

    /// Takes the rate of every channel that is read over the time since the last sample. Found by their readers: a
    /// history keeps many more that nobody reads.
    pub fn sample_channels(&self, since: Duration) {
        let seconds = since.as_secs_f32().max(f32::EPSILON);
        let round = self.samples.fetch_add(1, Relaxed).wrapping_add(1);
        self.each_connection(|connection| {
            for channel in &*lock(&connection.memberships) {
                if channel.round.swap(round, Relaxed) == round {
                    continue;
                }
                let now = channel.messages.load(Relaxed) as u32;
                let messages = now.wrapping_sub(channel.sampled.swap(now, Relaxed));
                channel.rate.store((messages as f32 / seconds).to_bits(), Relaxed);
            }
        });
    }

    /// Messages queued to readers since the start.
    pub fn deliveries(&self) -> u64 {
        self.deliveries.load(Relaxed)
    }

    /// Closes the connections with the longest refused queues until all together are within their limit.
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
