//! The last messages of a channel, bounded by count and age, and for all channels together by bytes.
//!
//! The channel's lock guards its history, so that history, ids and readers agree on one order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

mod image;
mod known;

use arc_swap::ArcSwap;
use uuid::Uuid;

use super::ages::{Ages, Slot};
use super::retention::{Retention, Retentions};
use super::{Channel, Connection};
use crate::frame::Frame;
use crate::message::{ChannelName, MessageId, number};

/// The bytes of a channel with a history beside its messages and its name, as measured: the channel, its entries in the
/// hub's map and in the index by age, and the overhead of the allocator. This bounds many small channels, too.
const CHANNEL_BYTES: usize = 448;

/// The bytes that the allocator and reference counts add to an entry's frame and ends.
const ENTRY_BYTES: usize = 64;

/// The eighths of `bytes` at which the sweep begins. The rest is for messages that arrive before it is done.
const KEPT_EIGHTHS: usize = 7;

/// The limits of all histories, and the bytes that they hold together.
#[derive(Debug)]
pub(super) struct Keeping {
    /// What each channel keeps. It is looked up when the channel is created, and for all channels when it changes.
    retentions: ArcSwap<Retentions>,
    /// Whether any channel has a history.
    on: AtomicBool,
    /// `[history] bytes`.
    max_bytes: AtomicUsize,
    bytes: AtomicUsize,
    /// The retentions have changed, and the histories are not cut to them yet.
    cut: AtomicBool,
    /// The histories are or were handed over, so that no message may be added.
    sealed: AtomicBool,
    /// The number of histories.
    pub(super) histories: AtomicUsize,
    /// The epoch of the next history. The first one is random, so that no other run of the daemon has the same.
    next_epoch: AtomicU64,
    /// The log of the cluster, if it numbers the messages.
    pub(super) log: LogPosition,
}

/// How far the histories follow the log of the cluster, whose epoch and numbers they then share.
#[derive(Debug, Default)]
pub(super) struct LogPosition {
    /// The epoch of the log; 0 while it is not followed.
    pub(super) epoch: AtomicU64,
    /// The number up to which all messages are in the histories.
    pub(super) applied: AtomicU64,
    /// The number up to which messages may be in no history any more. A channel without a history has no later message.
    pub(super) forgotten: AtomicU64,
    /// The number up to which messages may have been read by connections that no node remembers: those of nodes that have left
    /// or started again.
    pub(super) unremembered: AtomicU64,
}

impl Keeping {
    pub(super) fn off() -> Keeping {
        Keeping {
            retentions: ArcSwap::from_pointee(Retentions::new(Retention::new(0, Duration::ZERO), [])),
            on: AtomicBool::new(false),
            max_bytes: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
            histories: AtomicUsize::new(0),
            next_epoch: AtomicU64::new(uuid::Uuid::new_v4().as_u64_pair().1),
            log: LogPosition::default(),
        }
    }

    /// Sets the limits. Returns false if each channel keeps what it kept before.
    pub(super) fn set(&self, retentions: Retentions, bytes: usize) -> bool {
        self.max_bytes.store(bytes, Relaxed);
        if **self.retentions.load() == retentions {
            return false;
        }
        self.on.store(retentions.is_on(), Relaxed);
        let before = self.retentions.swap(Arc::new(retentions));
        self.cut.fetch_or(before.is_on(), Relaxed);
        true
    }

    /// Returns what a channel keeps.
    pub(super) fn retention(&self, name: &str) -> Retention {
        self.retentions.load().of(name)
    }

    /// Returns whether the retentions have changed since the last call.
    pub(super) fn was_cut(&self) -> bool {
        self.cut.swap(false, Relaxed)
    }

    pub(super) fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Lets no message into a history any more, once the lock of its channel was taken.
    pub(super) fn seal(&self) {
        self.sealed.store(true, Relaxed);
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.load(Relaxed)
    }

    /// Returns the bytes that all histories hold.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    pub(super) fn max_bytes(&self) -> usize {
        self.max_bytes.load(Relaxed)
    }

    /// Returns whether the sweep must drop messages.
    pub(super) fn is_full(&self) -> bool {
        self.bytes() > self.max_bytes() / 8 * KEPT_EIGHTHS
    }

    /// Returns the epoch of a history that begins, the number of its last message, and the number up to which messages may
    /// be missing.
    fn begin(&self) -> (u64, u64, u64) {
        match self.log.epoch.load(Relaxed) {
            0 => (self.next_epoch.fetch_add(1, Relaxed), 0, 0),
            epoch => (epoch, self.log.applied.load(Relaxed), self.log.forgotten.load(Relaxed)),
        }
    }
}

/// What one connection may still be delivered at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// One channel's last messages.
pub(super) struct History {
    keeping: Arc<Keeping>,
    retention: Retention,
    epoch: u64,
    /// The number of the last message; 0 before the first.
    last: u64,
    /// The number up to which messages may have been dropped.
    dropped: u64,
    /// The number up to which messages may have been published before this process.
    inherited: u64,
    entries: VecDeque<Entry>,
    messages: usize,
    /// The bytes of the entries, without their slots in the queue.
    held: usize,
    /// The bytes that `keeping` counts for this history, and the part that does not depend on its entries.
    counted: usize,
    base: usize,
    /// The slot of its channel in the index by age.
    filed: Option<Slot>,
    /// The number of clients that were promised these messages. While there is one, no message is dropped.
    pins: u32,
    /// The readers that get no new message before the promised ones.
    held_back: Vec<Uuid>,
    /// When its channel's last reader left, or when it began. Clients may return to their position for its `ttl` from then.
    left: Instant,
}

/// Messages that were published together, in the frame that the readers received.
struct Entry {
    frame: Frame,
    /// The number of its first message.
    first: u64,
    /// The end of each message in the frame.
    ends: Box<[u32]>,
    at: Instant,
}

impl Entry {
    fn cost(&self) -> usize {
        self.frame.len() + size_of_val(&*self.ends) + ENTRY_BYTES
    }

    /// Returns the number of its last message.
    fn last(&self) -> u64 {
        self.first + self.ends.len() as u64 - 1
    }

    /// Returns how many of its messages come after the one with this number.
    fn count_after(&self, number: u64) -> usize {
        (self.last() - number.max(self.first - 1)) as usize
    }

    /// Returns its messages after the one with this number.
    fn after(&self, number: u64) -> Frame {
        if number < self.first {
            return self.frame.clone();
        }
        let skipped = (number + 1 - self.first) as usize;
        let start = self.ends[skipped - 1] as usize;
        Frame::finished(&self.frame[start..], (self.ends.len() - skipped) as u32)
    }
}

impl History {
    pub(super) fn new(
        keeping: &Arc<Keeping>,
        retention: Retention,
        channel: &ChannelName,
        now: Instant,
    ) -> History {
        let base = CHANNEL_BYTES + channel.as_str().len();
        keeping.histories.fetch_add(1, Relaxed);
        keeping.bytes.fetch_add(base, Relaxed);
        let (epoch, last, dropped) = keeping.begin();
        History {
            keeping: keeping.clone(),
            retention,
            epoch,
            last,
            dropped,
            inherited: last,
            entries: VecDeque::new(),
            messages: 0,
            held: 0,
            counted: base,
            base,
            filed: None,
            pins: 0,
            held_back: Vec::new(),
            left: now,
        }
    }

    /// Changes what is kept. The sweep removes the rest.
    pub(super) fn retain(&mut self, retention: Retention) {
        let begins = !self.retention.is_on() && retention.is_on();
        self.retention = retention;
        if begins && self.keeping.log.epoch.load(Relaxed) != 0 {
            // Messages of the log were not kept meanwhile.
            self.restart();
        }
    }

    /// Begins a new history with another epoch, because messages were published that it does not have, or because the log
    /// begins again.
    pub(super) fn restart(&mut self) {
        while !self.entries.is_empty() {
            self.drop_oldest();
        }
        (self.epoch, self.last, self.dropped) = self.keeping.begin();
        self.inherited = self.last;
        self.recount();
    }

    /// Gives the messages of a frame their ids and keeps them. Returns the frame for the readers.
    pub(super) fn record(&mut self, frame: &Frame, now: Instant) -> Frame {
        self.record_at(frame, self.last + 1, now, now)
    }

    /// Gives the messages of a frame the ids from `first` on, which is after the last message, and keeps them. They were
    /// published at `at`. Returns the frame for the readers.
    pub(super) fn record_at(&mut self, frame: &Frame, first: u64, at: Instant, now: Instant) -> Frame {
        let (frame, ends) = number(frame, self.epoch, first);
        let entry = Entry { frame: frame.clone(), first, ends, at };
        self.last = entry.last();
        self.messages += entry.ends.len();
        self.held += entry.cost();
        if self.entries.capacity() == 0 {
            // Most channels never keep a second message.
            self.entries.reserve_exact(1);
        }
        self.entries.push_back(entry);
        self.recount();
        self.trim(now);
        frame
    }

    /// Drops messages that are too old or too many.
    pub(super) fn trim(&mut self, now: Instant) {
        let (max, ttl) = (self.retention.messages(), self.retention.ttl());
        while let Some(oldest) = self.entries.front() {
            let goes = self.messages - oldest.ends.len() >= max
                || now.saturating_duration_since(oldest.at) >= ttl
                || self.keeping.bytes() > self.keeping.max_bytes();
            if !goes || self.pins > 0 {
                break;
            }
            self.drop_oldest();
        }
        if self.entries.capacity() > 64 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        self.recount();
    }

    /// Updates the count of all histories by the bytes of this one.
    fn recount(&mut self) {
        let now = self.base + self.held + self.entries.capacity() * size_of::<Entry>();
        if now > self.counted {
            self.keeping.bytes.fetch_add(now - self.counted, Relaxed);
        } else {
            self.keeping.bytes.fetch_sub(self.counted - now, Relaxed);
        }
        self.counted = now;
    }

    /// Drops messages that expire by this time.
    pub(super) fn drop_until(&mut self, cutoff: Instant) {
        while self.pins == 0 && self.oldest().is_some_and(|at| self.expiry(at) <= cutoff) {
            self.drop_oldest();
        }
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
        self.recount();
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.entries.pop_front() {
            self.dropped = oldest.last();
            self.messages -= oldest.ends.len();
            self.held -= oldest.cost();
            // Counted at once, because the caller checks whether this was enough.
            self.keeping.bytes.fetch_sub(oldest.cost(), Relaxed);
            self.counted -= oldest.cost();
        }
    }

    fn oldest(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.at)
    }

    /// Returns when a message of this time expires, or the position of a client that left then.
    fn expiry(&self, at: Instant) -> Instant {
        at + self.retention.ttl()
    }

    /// Records that the channel's last reader left.
    pub(super) fn left(&mut self, now: Instant) {
        self.left = now;
    }

    /// Indexes its channel by when its oldest message expires, or, without a message, the position of its last reader. A
    /// history that was promised to a client counts as new.
    pub(super) fn file(
        &mut self,
        ages: &Ages<Arc<Channel>>,
        channel: &Arc<Channel>,
        unread: bool,
        now: Instant,
    ) {
        let at = if self.pins > 0 { Some(now) } else { self.oldest().or(unread.then_some(self.left)) };
        if let Some(at) = at.filter(|_| self.filed.is_none()) {
            self.filed = Some(ages.file(self.expiry(at), channel.clone()));
        }
    }

    /// Records that its channel was taken from the index. Returns false if the channel is in another slot.
    pub(super) fn unfile(&mut self, slot: Slot) -> bool {
        self.filed.take_if(|filed| *filed == slot).is_some()
    }

    /// Returns whether a history of a channel without readers may go: it has no message, and the position of its last reader
    /// expires by `until`. Until then clients may return and learn that they missed nothing.
    pub(super) fn may_go(&self, until: Option<Instant>) -> bool {
        let waits = self.retention.is_on() && until.is_none_or(|until| self.expiry(self.left) > until);
        self.entries.is_empty() && self.pins == 0 && !waits
    }

    /// Returns the number after which to deliver to a client whose last message is `id`, or the whole history for `None`.
    ///
    /// Returns `None` if the history does not reach back to `id`, or if the messages exceed the allowance.
    pub(super) fn after(&mut self, id: Option<MessageId>, now: Instant, left: &mut Allowance) -> Option<u64> {
        self.trim(now);
        let kept = self.kept_after();
        let after = match id {
            None => kept,
            Some(id) if id.epoch == self.epoch && (kept..=self.complete_to()).contains(&id.number) => {
                id.number
            }
            Some(_) => return None,
        };
        let mut reached = self.complete_to();
        let mut needs = Allowance { messages: 0, bytes: 0 };
        for entry in self.entries.iter().rev().take_while(|entry| entry.last() > after) {
            let messages = needs.messages + entry.count_after(after);
            let bytes = needs.bytes + entry.frame.len();
            if messages > left.messages || bytes > left.bytes {
                // The latest part of the history that fits.
                if id.is_some() {
                    return None;
                }
                break;
            }
            needs = Allowance { messages, bytes };
            reached = after.max(entry.first - 1);
        }
        left.messages -= needs.messages;
        left.bytes -= needs.bytes;
        Some(if id.is_some() { after } else { reached })
    }

    /// Returns the number up to which it has had every message of its channel, which is the position of a client that joins
    /// now. In a cluster that may be after the last message: no position should be older than it must be, because another node
    /// can resume from it only as long as its own history reaches back to it.
    pub(super) fn complete_to(&self) -> u64 {
        let log = &self.keeping.log;
        let applied = if log.epoch.load(Relaxed) == self.epoch { log.applied.load(Relaxed) } else { 0 };
        self.last.max(applied)
    }

    /// Returns the number after which all messages are kept, at most `messages` of its retention. The oldest entry may have
    /// more, because messages that were published together are dropped together.
    pub(super) fn kept_after(&self) -> u64 {
        let surplus = self.messages.saturating_sub(self.retention.messages()) as u64;
        match self.entries.front() {
            Some(oldest) if surplus > 0 => oldest.first - 1 + surplus,
            _ => self.dropped,
        }
    }

    /// Returns the frames of all messages after this number, in order.
    pub(super) fn frames_after(&self, number: u64) -> impl Iterator<Item = Frame> {
        let first = self.entries.partition_point(|entry| entry.last() <= number);
        self.entries.range(first..).map(move |entry| entry.after(number))
    }

    pub(super) fn pin(&mut self) {
        self.pins += 1;
    }

    pub(super) fn unpin(&mut self, now: Instant) {
        self.pins = self.pins.saturating_sub(1);
        self.trim(now);
    }

    /// Holds back new messages from a reader that was promised messages.
    pub(super) fn hold(&mut self, reader: Uuid) {
        self.held_back.push(reader);
    }

    /// Ends the holding back of new messages.
    pub(super) fn release(&mut self, reader: Uuid) {
        self.held_back.retain(|held| *held != reader);
        if self.held_back.is_empty() {
            self.held_back = Vec::new();
        }
    }

    pub(super) fn is_held_back(&self, reader: &Connection) -> bool {
        !self.held_back.is_empty() && self.held_back.contains(&reader.id())
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.pins > 0
    }

    /// Returns the id of this number.
    pub(super) fn id_of(&self, number: u64) -> MessageId {
        MessageId { epoch: self.epoch, number }
    }

    /// Returns the number of the last message; 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.last
    }
}

impl Drop for History {
    fn drop(&mut self) {
        let last = self.entries.back().map_or(self.dropped, Entry::last);
        self.keeping.log.forgotten.fetch_max(last, Relaxed);
        self.keeping.bytes.fetch_sub(self.counted, Relaxed);
        self.keeping.histories.fetch_sub(1, Relaxed);
    }
}
