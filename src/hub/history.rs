//! What a channel keeps of its last messages: bounded by count and age, and all channels together by bytes.
//!
//! All of it happens under the channel's lock, so that history, ids and readers agree on one order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::Channel;
use super::ages::{Ages, Slot};
use crate::frame::Frame;
use crate::message::{ChannelName, MessageId, number};

/// What a channel with a history costs beside its messages and its name, in bytes, as measured: the channel, its places
/// in the hub's map and in the index by age, and what the allocator adds. So many small ones are bounded, too.
const CHANNEL_BYTES: usize = 448;

/// What the allocator and the counts of references add to an entry's frame and ends, in bytes.
const ENTRY_BYTES: usize = 64;

/// From so many eighths of the bytes on the oldest goes. The rest is for what comes before it has gone.
const KEPT_EIGHTHS: usize = 7;

/// The limits of all histories, and what they hold together.
#[derive(Debug)]
pub(super) struct Keeping {
    /// `[history] messages`; 0 is off.
    messages: AtomicUsize,
    /// `[history] ttl` in milliseconds.
    ttl: AtomicU64,
    /// `[history] bytes`.
    max_bytes: AtomicUsize,
    bytes: AtomicUsize,
    /// `messages` has become less, and what is kept was not cut to it yet.
    cut: AtomicBool,
    /// The histories that there are.
    pub(super) histories: AtomicUsize,
    /// The epoch of the next history. It begins at random, so that no other run of the daemon has the same.
    next_epoch: AtomicU64,
}

impl Keeping {
    pub(super) fn off() -> Keeping {
        Keeping {
            messages: AtomicUsize::new(0),
            ttl: AtomicU64::new(0),
            max_bytes: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            histories: AtomicUsize::new(0),
            next_epoch: AtomicU64::new(uuid::Uuid::new_v4().as_u64_pair().1),
        }
    }

    pub(super) fn set(&self, messages: usize, ttl: Duration, bytes: usize) {
        self.ttl.store(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX), Relaxed);
        self.max_bytes.store(bytes, Relaxed);
        if messages < self.messages.swap(messages, Relaxed) {
            self.cut.store(true, Relaxed);
        }
    }

    /// Whether `messages` has become less since this was asked.
    pub(super) fn was_cut(&self) -> bool {
        self.cut.swap(false, Relaxed)
    }

    pub(super) fn is_on(&self) -> bool {
        self.messages.load(Relaxed) > 0
    }

    /// Bytes that all histories hold.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    pub(super) fn max_bytes(&self) -> usize {
        self.max_bytes.load(Relaxed)
    }

    /// Whether the oldest has to go, so that there is room for what comes.
    pub(super) fn is_full(&self) -> bool {
        self.bytes() > self.max_bytes() / 8 * KEPT_EIGHTHS
    }

    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl.load(Relaxed))
    }
}

/// What may still be delivered to one connection at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// One channel's last messages.
pub(super) struct History {
    keeping: Arc<Keeping>,
    epoch: u64,
    /// The number of the last message; 0 before the first.
    last: u64,
    entries: VecDeque<Entry>,
    messages: usize,
    /// What the entries cost, without their places in the queue.
    held: usize,
    /// What of it all stands in `keeping`, and the part of that which is always there.
    counted: usize,
    base: usize,
    /// Where its channel stands in the index by age.
    filed: Option<Slot>,
    /// Who has been promised what is here: while there is one, nothing goes.
    pins: u32,
    /// When its channel's last reader left, or it began: for so long those who left may come back to their place.
    left: Instant,
}

/// What was published together, in the frame that the readers got.
struct Entry {
    frame: Frame,
    /// The number of its first message.
    first: u64,
    /// Where each of its messages ends.
    ends: Box<[u32]>,
    at: Instant,
}

impl Entry {
    fn cost(&self) -> usize {
        self.frame.len() + size_of_val(&*self.ends) + ENTRY_BYTES
    }

    /// The number of its last message.
    fn last(&self) -> u64 {
        self.first + self.ends.len() as u64 - 1
    }

    /// Its messages after the one with this number.
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
    pub(super) fn new(keeping: &Arc<Keeping>, channel: &ChannelName, now: Instant) -> History {
        let base = CHANNEL_BYTES + channel.as_str().len();
        keeping.histories.fetch_add(1, Relaxed);
        keeping.bytes.fetch_add(base, Relaxed);
        History {
            keeping: keeping.clone(),
            epoch: keeping.next_epoch.fetch_add(1, Relaxed),
            last: 0,
            entries: VecDeque::new(),
            messages: 0,
            held: 0,
            counted: base,
            base,
            filed: None,
            pins: 0,
            left: now,
        }
    }

    /// Begins another history in its place: what was published meanwhile is not in it.
    pub(super) fn restart(&mut self) {
        self.epoch = self.keeping.next_epoch.fetch_add(1, Relaxed);
        self.last = 0;
        while !self.entries.is_empty() {
            self.drop_oldest();
        }
        self.recount();
    }

    /// Gives the messages of a frame their ids and keeps them. Returns the frame that readers get.
    pub(super) fn record(&mut self, frame: &Frame, now: Instant) -> Frame {
        let (frame, ends) = number(frame, self.epoch, self.last + 1);
        let entry = Entry { frame: frame.clone(), first: self.last + 1, ends, at: now };
        self.last = entry.last();
        self.messages += entry.ends.len();
        self.held += entry.cost();
        if self.entries.capacity() == 0 {
            // Most channels never keep a second one.
            self.entries.reserve_exact(1);
        }
        self.entries.push_back(entry);
        self.recount();
        self.trim(now);
        frame
    }

    /// Lets go what is too old or too much.
    pub(super) fn trim(&mut self, now: Instant) {
        let (max, ttl) = (self.keeping.messages.load(Relaxed), self.keeping.ttl());
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

    /// Has all histories together hold what this one costs now.
    fn recount(&mut self) {
        let now = self.base + self.held + self.entries.capacity() * size_of::<Entry>();
        if now > self.counted {
            self.keeping.bytes.fetch_add(now - self.counted, Relaxed);
        } else {
            self.keeping.bytes.fetch_sub(self.counted - now, Relaxed);
        }
        self.counted = now;
    }

    /// Lets go what is as old as this.
    pub(super) fn drop_until(&mut self, cutoff: Instant) {
        while self.pins == 0 && self.oldest().is_some_and(|at| at <= cutoff) {
            self.drop_oldest();
        }
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
        self.recount();
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.entries.pop_front() {
            self.messages -= oldest.ends.len();
            self.held -= oldest.cost();
            // At once: the one that drops looks whether that was enough.
            self.keeping.bytes.fetch_sub(oldest.cost(), Relaxed);
            self.counted -= oldest.cost();
        }
    }

    fn oldest(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.at)
    }

    /// Notes that nobody reads its channel any more.
    pub(super) fn left(&mut self, now: Instant) {
        self.left = now;
    }

    /// Files its channel by the age of its oldest message; without one, by since when it has waited for those who could
    /// come back. What is promised to somebody is as good as new.
    pub(super) fn file(
        &mut self,
        ages: &Ages<Arc<Channel>>,
        channel: &Arc<Channel>,
        unread: bool,
        now: Instant,
    ) {
        let at = if self.pins > 0 { Some(now) } else { self.oldest().or(unread.then_some(self.left)) };
        if let Some(at) = at.filter(|_| self.filed.is_none()) {
            self.filed = Some(ages.file(at, channel.clone()));
        }
    }

    /// Notes that its channel was taken out of the index there. False where it stands elsewhere.
    pub(super) fn unfile(&mut self, slot: Slot) -> bool {
        self.filed.take_if(|filed| *filed == slot).is_some()
    }

    /// Whether nobody misses it, where nobody reads its channel and nobody who left after `until` counts: it keeps
    /// nothing, and has no reason to wait for those who could come back to find that they missed nothing.
    pub(super) fn may_go(&self, until: Option<Instant>) -> bool {
        let waits = self.keeping.is_on() && until.is_none_or(|until| self.left > until);
        self.entries.is_empty() && self.pins == 0 && !waits
    }

    /// After which number to deliver, so that who has `id` has missed nothing; for none, all that is kept.
    ///
    /// `None` where the history does not reach back, or where that is more than is left of the allowance.
    pub(super) fn after(&mut self, id: Option<MessageId>, now: Instant, left: &mut Allowance) -> Option<u64> {
        self.trim(now);
        let max = self.keeping.messages.load(Relaxed) as u64;
        let kept = self.entries.front().map_or(self.last, |oldest| oldest.first - 1);
        let kept = kept.max(self.last.saturating_sub(max));
        let after = match id {
            None => kept,
            Some(id) if id.epoch == self.epoch && (kept..=self.last).contains(&id.number) => id.number,
            Some(_) => return None,
        };
        let mut reached = self.last;
        let mut needs = Allowance { messages: 0, bytes: 0 };
        for entry in self.entries.iter().rev().take_while(|entry| entry.last() > after) {
            let messages = (self.last - after.max(entry.first - 1)) as usize;
            let bytes = needs.bytes + entry.frame.len();
            if messages > left.messages || bytes > left.bytes {
                // Of all that is kept, the latest.
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

    /// The frames of all messages after this number, in order.
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

    pub(super) fn is_pinned(&self) -> bool {
        self.pins > 0
    }

    /// The place of this number.
    pub(super) fn place(&self, number: u64) -> MessageId {
        MessageId { epoch: self.epoch, number }
    }

    /// The number of the last message; 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.last
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.keeping.bytes.fetch_sub(self.counted, Relaxed);
        self.keeping.histories.fetch_sub(1, Relaxed);
    }
}
