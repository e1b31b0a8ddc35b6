//! The last events, numbered.

use std::collections::VecDeque;

use uuid::Uuid;

use crate::message::{ChannelName, MessageId};

/// The most events that are kept.
pub(super) const RING_EVENTS: usize = 10_000;

/// The most bytes of events that are kept: those of [`RING_EVENTS`] events with long names.
pub(super) const RING_BYTES: usize = 4 * 1024 * 1024;

/// The bytes that an event takes besides its text.
const ENTRY_BYTES: usize = 64;

/// An event that is kept.
pub(super) struct Entry {
    pub(super) about: About,
    pub(super) json: Box<str>,
}

/// What an event is about.
#[derive(Clone)]
pub(super) enum About {
    /// A connection.
    Connection,
    /// A channel.
    Channel(ChannelName),
    /// Nothing that is told. More events are recorded from here on, so that this position differs from the one before.
    Recording,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.json.len() + ENTRY_BYTES
    }
}

/// The last events.
pub(super) struct Ring {
    /// Random, so that no other ring has the same: neither an earlier one nor that of another run of the daemon.
    epoch: u64,
    /// The number of the oldest event that is kept.
    first: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Ring {
    pub(super) fn new() -> Ring {
        Ring { epoch: Uuid::new_v4().as_u64_pair().1, first: 1, entries: VecDeque::new(), bytes: 0 }
    }

    /// Returns the number of the oldest event that is kept.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Returns the number of the next event.
    pub(super) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Returns the id of the event with this number.
    pub(super) fn id(&self, number: u64) -> MessageId {
        MessageId { epoch: self.epoch, number }
    }

    /// Returns whether all events after this one are kept.
    pub(super) fn reaches(&self, last: MessageId) -> bool {
        last.epoch == self.epoch && (self.first - 1..self.next()).contains(&last.number)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, number: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Adds an event. Calls `dropped` with the number of each event for which there is no more room.
    pub(super) fn push(&mut self, entry: Entry, mut dropped: impl FnMut(u64, &Entry)) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        while self.entries.len() > RING_EVENTS || self.bytes > RING_BYTES {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.bytes();
            dropped(self.first, &oldest);
            self.first += 1;
        }
    }
}
