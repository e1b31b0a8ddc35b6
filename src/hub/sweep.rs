//! Drops what histories keep for too long, and the oldest of it while all of them together keep too much.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ages::Slot;
use super::{Channel, Hub, forget_unused};
use crate::sync::lock;

/// Channels that give up their oldest for what one publish adds: more than it needs, so that they keep pace.
pub(super) const CHANNELS_PER_PUBLISH: usize = 4;

/// Channels that are taken out of the index by age at once.
const CHANNELS_AT_ONCE: usize = 16;

/// A channel that was taken out of the index by age, and where it stood.
pub struct Outdated(Slot, Arc<Channel>);

impl Hub {
    /// What channels keep: messages each (0 is off), how long, and bytes of all together.
    pub fn keep(&self, messages: usize, ttl: Duration, bytes: usize) {
        self.keeping.set(messages, ttl, bytes);
    }

    /// Bytes that all histories hold.
    pub fn history_bytes(&self) -> usize {
        self.keeping.bytes()
    }

    /// Takes the channels out of the index that keep something too old, or all where each is to keep less: for [`Hub::let_go`], part by part.
    pub fn outdated(&self, now: Instant) -> Vec<Outdated> {
        let all = self.keeping.was_cut() || !self.keeping.is_on();
        let Some(until) = now.checked_sub(if all { Duration::ZERO } else { self.keeping.ttl() }) else {
            return Vec::new();
        };
        let slots = self.ages.take_until(until).into_iter();
        slots
            .flat_map(|(slot, of_slot)| of_slot.into_iter().map(move |channel| Outdated(slot, channel)))
            .collect()
    }

    /// Lets go what is too old, and channels that keep nothing any more.
    pub fn let_go(&self, outdated: &[Outdated], now: Instant) {
        for Outdated(slot, channel) in outdated {
            self.let_go_of(channel, *slot, now, None);
        }
    }

    /// While all histories together have no room for what comes, lets go the oldest, of so many channels at most.
    /// Returns whether that made some room and there is still none.
    pub fn relieve_history(&self, now: Instant, most: usize) -> bool {
        let before = self.keeping.bytes();
        let mut left = most;
        while self.keeping.is_full()
            && left > 0
            && let Some((until, slot, oldest)) = self.ages.take_oldest(left.min(CHANNELS_AT_ONCE))
        {
            left -= oldest.len();
            for channel in &oldest {
                self.let_go_of(channel, slot, now, Some(until));
            }
        }
        self.keeping.is_full() && self.keeping.bytes() < before
    }

    /// Lets go what of a channel is too old, or as old as `cutoff`, and files it again by what is left.
    fn let_go_of(&self, channel: &Arc<Channel>, slot: Slot, now: Instant, cutoff: Option<Instant>) {
        let mut shard = lock(self.channels.shard(channel.name.as_str()));
        let mut readers = lock(&channel.readers);
        let unread = readers.connections.is_empty();
        let Some(history) = &mut readers.history else { return };
        if !history.unfile(slot) {
            return;
        }
        history.trim(now);
        if let Some(cutoff) = cutoff {
            history.drop_until(cutoff);
        }
        forget_unused(&mut shard, channel, &mut readers, now.checked_sub(self.keeping.ttl()).max(cutoff));
        if let Some(history) = &mut readers.history {
            history.file(&self.ages, channel, unread, now);
        }
    }
}
