//! Drops messages that are too old from the histories, and the oldest ones while all histories together are too large.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::ages::Slot;
use super::retention::{Retention, Retentions};
use super::{Channel, Hub, forget_unused};
use crate::sync::lock;

/// Channels that drop their oldest messages for one publish: more than it adds, so that the sweep keeps pace.
pub(super) const CHANNELS_PER_PUBLISH: usize = 4;

/// Channels that are taken from the index at once.
const CHANNELS_AT_ONCE: usize = 16;

/// A channel that was taken from the index, and its slot.
pub struct Outdated(Slot, Arc<Channel>);

impl Hub {
    /// Sets the same limits for the history of each channel: messages (0 is off) and their age, and bytes of all together.
    pub fn keep(&self, messages: usize, ttl: Duration, bytes: usize) {
        self.keep_by_name(Retentions::new(Retention::new(messages, ttl), []), bytes);
    }

    /// Sets the limits of histories: those of each channel, and the bytes of all together.
    pub fn keep_by_name(&self, retentions: Retentions, bytes: usize) {
        if !self.keeping.set(retentions, bytes) {
            return;
        }
        let log = &self.keeping.log;
        let forget = || log.forgotten.fetch_max(log.applied.load(Relaxed), Relaxed);
        // Before and after, because messages of channels that had no history until now are in none.
        forget();
        for shard in self.channels.shards() {
            for channel in lock(shard).values() {
                let mut readers = lock(&channel.readers);
                readers.retention = self.keeping.retention(channel.name.as_str());
                let retention = readers.retention;
                if let Some(history) = &mut readers.history {
                    history.retain(retention);
                }
            }
        }
        forget();
    }

    /// Returns the bytes that all histories hold.
    pub fn history_bytes(&self) -> usize {
        self.keeping.bytes()
    }

    /// Takes the channels from the index that have messages which are too old, or all if their limits have changed.
    /// [`Hub::let_go`] takes them in parts.
    pub fn outdated(&self, now: Instant) -> Vec<Outdated> {
        let all = self.keeping.was_cut() || !self.keeping.is_on();
        let slots = if all { self.ages.take_all() } else { self.ages.take_until(now) }.into_iter();
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

    /// Drops the messages that expire first of at most `most` channels while all histories together are full.
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

    /// Drops a channel's messages that are too old or expire by `cutoff`, and indexes it again by the oldest that is left.
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
        forget_unused(&mut shard, channel, &mut readers, Some(now).max(cutoff));
        if let Some(history) = &mut readers.history {
            history.file(&self.ages, channel, unread, now);
        }
    }
}
