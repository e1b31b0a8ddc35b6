//! The only shared state: which connections there are, and which of them read which channel. It uses no socket.
//!
//! In reading order: [`Channel`] is one channel, [`publish`] queues a message to its readers, [`flush_list`] has the
//! outboxes that must be written then, and [`flush`] writes them. [`history`] is what a channel keeps, [`resume`] what a client gets of it when it
//! comes back, and [`sweep`] what is dropped.
//!
//! Locks are taken in the order connection, shard, channel, outbox, at most one of each, and none is held across a
//! system call or an await.

mod ages;
mod connection;
mod flush;
mod flush_list;
mod heartbeat;
mod history;
mod publish;
mod resume;
mod sweep;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indexmap::IndexSet;
use uuid::Uuid;

use self::ages::Ages;
pub use self::connection::{Connection, ConnectionStats};
pub use self::flush::{Flusher, Writing, yield_to_sockets};
pub use self::flush_list::FlushList;
pub(crate) use self::heartbeat::{Heartbeat, Pulse};
use self::history::{History, Keeping};
pub use self::resume::Positions;
use self::resume::Resume;
pub use self::sweep::Outdated;
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::message::{ChannelName, Since};
use crate::outbox::Budget;
use crate::sync::{Sharded, lock};
use crate::token::Claims;

/// Parts of each map, so that connections on different cores seldom wait for each other.
const SHARDS: usize = 64;

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

/// A channel's readers, and what it keeps for those who come back.
#[derive(Default)]
struct Readers {
    /// Dense, because a publish walks over all of them; found by hash when one leaves.
    connections: IndexSet<Arc<Connection>>,
    /// The channel's last messages, while there is a history.
    history: Option<Box<History>>,
    /// The channel was forgotten: a task that still holds it has to look for another of its name.
    gone: bool,
}

impl Readers {
    fn remove(&mut self, connection: &Arc<Connection>) {
        self.connections.swap_remove(connection);
        if self.connections.is_empty()
            && let Some(history) = &mut self.history
        {
            history.left(Instant::now());
        }
        if self.connections.len() < self.connections.capacity() / 8 {
            self.connections.shrink_to(self.connections.len() * 2);
        }
    }

    /// The history, which begins now if there is none.
    fn history_from(&mut self, keeping: &Arc<Keeping>, name: &ChannelName, now: Instant) -> &mut History {
        self.history.get_or_insert_with(|| Box::new(History::new(keeping, name, now)))
    }

    /// Ends the history of a channel to which a message goes that is not kept: without it, it would be none. While it
    /// is promised to somebody, the message is kept after all. Returns the frame that readers get.
    #[cold]
    fn end_history(&mut self, frame: Frame) -> Frame {
        match &mut self.history {
            Some(history) if history.is_pinned() => return history.record(&frame, Instant::now()),
            // For the sweep to find, which forgets the channel.
            Some(history) if self.connections.is_empty() => history.restart(),
            _ => self.history = None,
        }
        frame
    }
}

/// All connections and all channels that are read.
pub struct Hub {
    channels: Sharded<ChannelName, Arc<Channel>, SHARDS>,
    connections: Sharded<Uuid, Arc<Connection>, SHARDS>,
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
            channels: Sharded::default(),
            connections: Sharded::default(),
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
        announce: impl FnOnce(&Positions),
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
        announce: impl FnOnce(&Positions),
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
        announce: impl FnOnce(&Positions),
    ) {
        self.change(connection, channels, since, |channels| {
            let resume = Resume::look(self, connection, channels, since);
            announce(resume.positions());
            Some(resume)
        });
    }

    /// Leaves and joins; `look` is shown in between what is joined, and what is delivered again.
    fn change<'a>(
        &'a self,
        connection: &Arc<Connection>,
        channels: &[ChannelName],
        since: &[Since<'_>],
        look: impl FnOnce(&[&ChannelName]) -> Option<Resume<'a>>,
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
        let resume = look(&looked_at);
        memberships.reserve_exact(looked_at.iter().filter(|name| joins(name)).count());
        for name in looked_at {
            let after = resume.as_ref().and_then(|resume| resume.after(name));
            if joins(name) {
                memberships.push(self.join(connection, name, after));
            } else if let Some(after) = after {
                self.deliver_again(connection, name, after);
            }
        }
        *lock = memberships.into_boxed_slice();
        drop((lock, resume));
        if self.keeping.is_on() {
            // New channels have begun a history.
            self.relieve_history(Instant::now(), channels.len() + sweep::CHANNELS_PER_PUBLISH);
        }
    }

    /// Queues what was kept after the message with the number `after`, and from then on all that comes: one step in the
    /// channel's order.
    fn join(&self, connection: &Arc<Connection>, name: &ChannelName, after: Option<u64>) -> Arc<Channel> {
        let mut shard = lock(self.channels.shard(name.as_str()));
        let channel = shard.entry(name.clone()).or_insert_with(|| Channel::new(name)).clone();
        // Under the shard's lock: nobody forgets the channel in between.
        let mut readers = lock(&channel.readers);
        if let (Some(after), Some(history)) = (after, &readers.history) {
            resume::deliver(history, after, connection);
        }
        if readers.connections.is_empty() {
            self.read_channels.fetch_add(1, Relaxed);
            // What was published while nobody read it belongs to no sample.
            channel.sampled.store(channel.messages.load(Relaxed) as u32, Relaxed);
        }
        readers.connections.insert(connection.clone());
        channel.reader_count.store(readers.connections.len() as u32, Relaxed);
        drop(readers);
        channel
    }

    fn part(&self, connection: &Arc<Connection>, channel: &Arc<Channel>) {
        let mut shard = lock(self.channels.shard(channel.name.as_str()));
        let mut readers = lock(&channel.readers);
        readers.remove(connection);
        if readers.connections.is_empty() {
            self.read_channels.fetch_sub(1, Relaxed);
        }
        channel.reader_count.store(readers.connections.len() as u32, Relaxed);
        forget_unused(&mut shard, channel, &mut readers, None);
        if readers.connections.is_empty()
            && let Some(history) = &mut readers.history
        {
            history.file(&self.ages, channel, true, Instant::now());
        }
    }

    /// The connection with this id.
    pub fn connection(&self, id: &Uuid) -> Option<Arc<Connection>> {
        lock(self.connections.shard(id)).get(id).cloned()
    }

    /// Shows every connection to `visit`, one shard locked at a time.
    pub fn each_connection(&self, mut visit: impl FnMut(&Arc<Connection>)) {
        for shard in self.connections.shards() {
            lock(shard).values().for_each(&mut visit);
        }
    }

    /// How many channels have a reader.
    pub fn channel_count(&self) -> usize {
        self.read_channels.load(Relaxed)
    }

    /// Shows every channel of clients to `visit`, one shard locked at a time and no channel.
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
