//! Looks up how far connections have read channels, for administrators who ask.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::history::History;
use super::places::{Kept, LeftPlace, Place};
use super::{Connection, Hub};
use crate::message::MessageId;
use crate::sync::lock;

/// How often [`Hub::place`] looks for a moment at which nobody writes to the connection.
const LOOKS: usize = 200;

impl Connection {
    /// Returns its places in channels that it has left, at most [`MAX_CHANNELS`](crate::outbox::MAX_CHANNELS). At its end it has
    /// left all.
    pub fn left_places(&self) -> Vec<Place> {
        let memberships = lock(&self.memberships);
        let left = memberships.left();
        if left.is_empty() {
            return Vec::new();
        }
        let unwritten = (0..LOOKS).find_map(|_| {
            let unwritten = self.outbox.unwritten();
            if unwritten.is_none() {
                std::thread::yield_now();
            }
            unwritten
        });
        left.iter().map(|place| place.of_written(unwritten.as_ref())).collect()
    }
}

impl Hub {
    /// Returns the place of a connection in a channel that it reads now. `None` if it does not read it, or the channel has no
    /// history.
    pub fn place(&self, connection: &Arc<Connection>, channel: &str) -> Option<Place> {
        for look in 1.. {
            let memberships = lock(&connection.memberships);
            let membership = memberships.get(channel)?;
            let readers = lock(&membership.channel.readers);
            let last = readers.history.as_ref().map(|history| history.id_of(history.complete_to()))?;
            let place = LeftPlace::of(&membership.channel, last, membership.joined)?;
            // With the channel locked, so that no message comes in between.
            let unwritten = connection.outbox.unwritten();
            if unwritten.is_some() || look == LOOKS {
                return Some(place.of_written(unwritten.as_ref()));
            }
            drop(readers);
            drop(memberships);
            std::thread::yield_now();
        }
        None
    }

    /// Returns what a channel keeps; `None` if it has no history.
    pub fn kept(&self, channel: &str) -> Option<Kept> {
        let kept = self.with_history(channel, |history| Kept {
            epoch: history.id_of(0).epoch,
            after: history.kept_after(),
            last: history.complete_to(),
            inherited: history.inherited(),
        });
        kept.or_else(|| {
            // Its messages are gone, and it has its numbers from the log all the same.
            let log = &self.keeping.log;
            let MessageId { epoch, number: last } = self.log_id(channel, log.applied.load(Relaxed))?;
            Some(Kept { epoch, after: last, last, inherited: log.unremembered.load(Relaxed) })
        })
    }

    /// Returns the last message of a channel up to this one, as far as its history knows. In a cluster the messages between may
    /// be those of other channels.
    pub fn floor(&self, channel: &str, id: MessageId) -> MessageId {
        let floor = self.with_history(channel, |history| {
            (history.id_of(0).epoch == id.epoch).then(|| history.id_of(history.floor(id.number)))
        });
        floor.flatten().unwrap_or(id)
    }

    fn with_history<T>(&self, channel: &str, look: impl FnOnce(&History) -> T) -> Option<T> {
        let channel = lock(self.channels.shard(channel)).get(channel).cloned()?;
        let readers = lock(&channel.readers);
        readers.history.as_deref().map(look)
    }
}
