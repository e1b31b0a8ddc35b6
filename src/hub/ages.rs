//! An index of channels by when their oldest message expires, which finds those that are too old without a look at the
//! others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// The second in which the oldest message of a channel expires, counted from the creation of the index.
pub(super) type Slot = u64;

/// Values by the second in which their oldest message expires.
#[derive(Debug)]
pub(super) struct Ages<T> {
    began: Instant,
    slots: Mutex<BTreeMap<Slot, VecDeque<T>>>,
}

impl<T> Ages<T> {
    pub(super) fn new() -> Ages<T> {
        Ages { began: Instant::now(), slots: Mutex::default() }
    }

    fn slot(&self, at: Instant) -> Slot {
        at.saturating_duration_since(self.began).as_secs()
    }

    /// Files a value under the time at which its oldest message expires. Returns its slot.
    pub(super) fn file(&self, at: Instant, what: T) -> Slot {
        let slot = self.slot(at);
        lock(&self.slots).entry(slot).or_default().push_back(what);
        slot
    }

    /// Removes and returns all values.
    pub(super) fn take_all(&self) -> BTreeMap<Slot, VecDeque<T>> {
        std::mem::take(&mut lock(&self.slots))
    }

    /// Removes and returns the values of this time, of earlier ones and of the same second.
    pub(super) fn take_until(&self, until: Instant) -> BTreeMap<Slot, VecDeque<T>> {
        if until < self.began {
            return BTreeMap::new();
        }
        let later = self.slot(until) + 1;
        let mut slots = lock(&self.slots);
        let later = slots.split_off(&later);
        std::mem::replace(&mut slots, later)
    }

    /// Removes and returns at most `most` of the values that expire first, with the end of their slot and the slot. Of the
    /// same second, those that were filed first come first: a channel that a client has just joined cannot go yet.
    pub(super) fn take_oldest(&self, most: usize) -> Option<(Instant, Slot, Vec<T>)> {
        let mut slots = lock(&self.slots);
        let mut oldest = slots.first_entry()?;
        let slot = *oldest.key();
        let of_slot = oldest.get_mut();
        let taken = of_slot.drain(..most.min(of_slot.len())).collect();
        if of_slot.is_empty() {
            oldest.remove();
        }
        Some((self.began + Duration::from_secs(slot + 1), slot, taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_come_first_and_the_young_stay() {
        let ages = Ages::new();
        let at = |seconds| ages.began + Duration::from_secs(seconds);
        for (seconds, what) in [(9, 'c'), (3, 'a'), (3, 'b'), (20, 'd')] {
            assert_eq!(ages.file(at(seconds), what), seconds);
        }
        assert_eq!(ages.take_oldest(1).unwrap(), (at(4), 3, vec!['a']));
        assert!(ages.take_until(at(2)).is_empty());
        let before = ages.began.checked_sub(Duration::from_secs(1)).unwrap();
        ages.file(at(0), 'e');
        assert!(ages.take_until(before).is_empty(), "a time to live that is longer than this runs");
        assert_eq!(ages.take_oldest(1).unwrap(), (at(1), 0, vec!['e']));
        assert_eq!(ages.take_until(at(9)).into_values().flatten().collect::<String>(), "bc");
        assert_eq!(ages.take_oldest(8).unwrap(), (at(21), 20, vec!['d']));
        assert!(ages.take_oldest(8).is_none());
    }
}
