//! What a channel keeps of its last messages: bounded by count and age, and all channels together by bytes.
//!
//! All of it happens under the channel's lock, so that history, ids and readers agree on one order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::frame::Frame;
use crate::message::{MessageId, number};

/// What a channel with a history costs beside its messages, in bytes: so that many small ones are bounded, too.
const CHANNEL_BYTES: usize = 512;

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
            histories: AtomicUsize::new(0),
            next_epoch: AtomicU64::new(uuid::Uuid::new_v4().as_u64_pair().1),
        }
    }

    pub(super) fn set(&self, messages: usize, ttl: Duration, bytes: usize) {
        self.ttl.store(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX), Relaxed);
        self.max_bytes.store(bytes, Relaxed);
        self.messages.store(messages, Relaxed);
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
        self.frame.len() + size_of_val(&*self.ends) + size_of::<Entry>()
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
    pub(super) fn new(keeping: &Arc<Keeping>, now: Instant) -> History {
        keeping.histories.fetch_add(1, Relaxed);
        keeping.bytes.fetch_add(CHANNEL_BYTES, Relaxed);
        History {
            keeping: keeping.clone(),
            epoch: keeping.next_epoch.fetch_add(1, Relaxed),
            last: 0,
            entries: VecDeque::new(),
            messages: 0,
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
    }

    /// Gives the messages of a frame their ids and keeps them. Returns the frame that readers get.
    pub(super) fn record(&mut self, frame: &Frame, now: Instant) -> Frame {
        let (frame, ends) = number(frame, self.epoch, self.last + 1);
        let entry = Entry { frame: frame.clone(), first: self.last + 1, ends, at: now };
        self.last = entry.last();
        self.messages += entry.ends.len();
        self.keeping.bytes.fetch_add(entry.cost(), Relaxed);
        self.entries.push_back(entry);
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
    }

    /// Lets go what is as old as this.
    pub(super) fn drop_until(&mut self, cutoff: Instant) {
        while self.pins == 0 && self.oldest().is_some_and(|at| at <= cutoff) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.entries.pop_front() {
            self.messages -= oldest.ends.len();
            self.keeping.bytes.fetch_sub(oldest.cost(), Relaxed);
        }
    }

    fn oldest(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.at)
    }

    /// Notes that nobody reads its channel any more.
    pub(super) fn left(&mut self, now: Instant) {
        self.left = now;
    }

    /// When its oldest message was published; without one, since when it has waited for those who could come back.
    pub(super) fn idle_since(&self, unread: bool) -> Option<Instant> {
        self.oldest().or(unread.then_some(self.left))
    }

    /// Whether nobody misses it, where nobody reads its channel and nobody who left after `until` counts: it keeps
    /// nothing, and has no room or no reason to wait for those who could come back to find that they missed nothing.
    pub(super) fn may_go(&self, until: Option<Instant>) -> bool {
        let waits = self.keeping.is_on()
            && self.keeping.bytes() <= self.keeping.max_bytes()
            && until.is_none_or(|until| self.left > until);
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
        let held: usize = self.entries.iter().map(Entry::cost).sum();
        self.keeping.bytes.fetch_sub(held + CHANNEL_BYTES, Relaxed);
        self.keeping.histories.fetch_sub(1, Relaxed);
    }
}
