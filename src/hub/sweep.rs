//! Drops messages that are too old from the histories, and the oldest ones while all histories together are too large.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ages::Slot;
use super::{Channel, Hub, forget_unused};
use crate::sync::lock;

/// Channels that drop their oldest messages for one publish: more than it adds, so that the sweep keeps pace.
pub(super) const CHANNELS_PER_PUBLISH: usize = 4;

/// Channels that are taken from the index at once.
const CHANNELS_AT_ONCE: usize = 16;

/// A channel that was taken from the index, and its slot.
pub struct Outdated(Slot, Arc<Channel>);

impl Hub {
    /// Sets the limits of histories: messages of each (0 is off), their age, and the bytes of all together.
    pub fn keep(&self, messages: usize, ttl: Duration, bytes: usize) {
        self.keeping.set(messages, ttl, bytes);
    }

    /// Returns the bytes that all histories hold.
    pub fn history_bytes(&self) -> usize {
        self.keeping.bytes()
    }

    /// Takes the channels from the index that have messages which are too old, or all if the limit of each became smaller.
    /// [`Hub::let_go`] takes them in parts.
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

    /// Drops messages that are too old, and removes channels that keep nothing.
    pub fn let_go(&self, outdated: &[Outdated], now: Instant) {
        for Outdated(slot, channel) in outdated {
            self.let_go_of(channel, *slot, now, None);
        }
    }

    /// Drops the oldest messages of at most `most` channels while all histories together are full.
    /// Returns whether messages were dropped and the histories are still full.
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

    /// Drops a channel's messages that are too old or as old as `cutoff`, and indexes it again by the oldest that is left.
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
