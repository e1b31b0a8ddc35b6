//! Who reads the selected channels, by subject.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::event::Event;
use crate::message::ChannelName;

/// When a subject's last connection left, or a channel's last reader; the number keeps those of one moment apart, in
/// their order.
type Departure = (Instant, u64);

/// The rolls of the selected channels.
#[derive(Default)]
pub(super) struct Rolls {
    rolls: HashMap<ChannelName, Roll>,
    /// Subjects without a connection that have not left yet, and with `None` channels that are not vacated yet.
    departures: BTreeMap<Departure, (ChannelName, Option<Arc<str>>)>,
    /// The number of the next departure.
    next: u64,
    /// Changes so far, for the test that there are none where nobody selects.
    changes: u64,
}

/// Who reads one channel.
#[derive(Default)]
struct Roll {
    /// The subject as which each reader is counted, because the claims of a connection may change at any time.
    readers: HashMap<Uuid, Option<Arc<str>>>,
    subjects: HashMap<Arc<str>, Present>,
    departure: Option<Departure>,
    /// As in [`Present`].
    again: bool,
}

#[derive(Default)]
struct Present {
    connections: usize,
    departure: Option<Departure>,
    /// A stream began while nobody was there, so a return is told although the other streams know it.
    again: bool,
}

impl Rolls {
    pub(super) fn join(
        &mut self,
        channel: &ChannelName,
        connection: Uuid,
        subject: Option<&str>,
        tell: &mut impl FnMut(&Event<'_>),
    ) {
        self.changes += 1;
        let roll =
            self.rolls.entry(channel.clone()).or_insert_with(|| Roll { again: true, ..Roll::default() });
        if std::mem::take(&mut roll.again) {
            tell(&Event::Occupied { channel });
        }
        if let Some(departure) = roll.departure.take() {
            self.departures.remove(&departure);
        }
        let subject: Option<Arc<str>> = subject.map(|subject| {
            let known = roll.subjects.get_key_value(subject);
            known.map_or_else(|| subject.into(), |(subject, _)| subject.clone())
        });
        if let Some(subject) = &subject {
            let new = || Present { again: true, ..Present::default() };
            let present = roll.subjects.entry(subject.clone()).or_insert_with(new);
            if std::mem::take(&mut present.again) {
                tell(&Event::Joined { channel, subject });
            }
            present.connections += 1;
            if let Some(departure) = present.departure.take() {
                self.departures.remove(&departure);
            }
        }
        roll.readers.insert(connection, subject);
    }

    pub(super) fn part(&mut self, channel: &ChannelName, connection: Uuid, now: Instant) {
        self.changes += 1;
        let Some(roll) = self.rolls.get_mut(channel) else { return };
        let Some(subject) = roll.readers.remove(&connection) else { return };
        let mut depart = |subject: Option<Arc<str>>| {
            let departure = (now, self.next);
            self.next += 1;
            self.departures.insert(departure, (channel.clone(), subject));
            Some(departure)
        };
        if let Some(subject) = subject
            && let Some(present) = roll.subjects.get_mut(&subject)
        {
            present.connections -= 1;
            if present.connections == 0 {
                present.departure = depart(Some(subject));
            }
        }
        // Later than its subjects, so that it is vacated when they have left.
        if roll.readers.is_empty() {
            roll.departure = depart(None);
        }
    }

    /// Counts a reader as another subject.
    pub(super) fn rename(
        &mut self,
        channel: &ChannelName,
        connection: Uuid,
        subject: Option<&str>,
        now: Instant,
        tell: &mut impl FnMut(&Event<'_>),
    ) {
        if self.rolls.get(channel).is_some_and(|roll| roll.readers.contains_key(&connection)) {
            self.part(channel, connection, now);
            self.join(channel, connection, subject, tell);
        }
    }

    /// Tells of at most `most` departures that are `grace` ago. Returns whether there may be more.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        grace: Duration,
        most: usize,
        tell: &mut impl FnMut(&Event<'_>),
    ) -> bool {
        for _ in 0..most {
            let Some(first) = self.departures.first_entry() else { return false };
            if now.saturating_duration_since(first.key().0) < grace {
                return false;
            }
            self.changes += 1;
            let (channel, subject) = first.remove();
            match subject {
                Some(subject) => {
                    if let Some(roll) = self.rolls.get_mut(&channel) {
                        roll.subjects.remove(&subject);
                    }
                    tell(&Event::Left { channel: &channel, subject: &subject });
                }
                None => {
                    self.rolls.remove(&channel);
                    tell(&Event::Vacated { channel: &channel });
                }
            }
        }
        true
    }

    /// Has the return of those told who are gone now, and have not left yet: a new stream does not know them.
    pub(super) fn tell_returns(&mut self) {
        for (channel, subject) in self.departures.values() {
            let Some(roll) = self.rolls.get_mut(channel) else { continue };
            match subject {
                Some(subject) => {
                    if let Some(present) = roll.subjects.get_mut(subject) {
                        present.again = true;
                    }
                }
                None => roll.again = true,
            }
        }
    }

    /// Forgets a channel.
    pub(super) fn forget(&mut self, channel: &ChannelName) {
        let Some(roll) = self.rolls.remove(channel) else { return };
        let of_subjects = roll.subjects.values().filter_map(|present| present.departure);
        for departure in of_subjects.chain(roll.departure) {
            self.departures.remove(&departure);
        }
    }

    /// Forgets the other channels.
    pub(super) fn retain(&mut self, keep: impl Fn(&ChannelName) -> bool) {
        self.rolls.retain(|channel, _| keep(channel));
        self.departures.retain(|_, (channel, _)| keep(channel));
    }

    #[cfg(test)]
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }
}
