//! What a connection gets that comes back: its positions in the channels that it joins, and what it missed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use super::history::{Allowance, History};
use super::{Channel, Connection, Hub};
use crate::message::{ChannelName, MessageId, Since};
use crate::outbox::Pushed;
use crate::sync::lock;

/// The part of a connection's queue, and of what all queues may hold, up to which what was missed may fill it: the rest
/// is for what comes.
const PART_OF_QUEUE: usize = 2;

/// What a connection hears about the channels that it joins.
#[derive(Clone, Debug, Default)]
pub struct Positions {
    /// Those that it asked for with an id, and whether nothing is missing.
    pub recovered: Vec<(ChannelName, bool)>,
    /// With a history, all of them, and the id after which it gets whatever is published.
    pub ids: Vec<(ChannelName, MessageId)>,
}

/// What a connection that joins channels can get of what it has missed.
///
/// First all channels are looked at, because the answer stands before the first message; then they are joined, one by
/// one. In between what was promised is pinned, so that the answer stays true.
pub(super) struct Resume<'a> {
    hub: &'a Hub,
    now: Instant,
    positions: Positions,
    pinned: HashMap<ChannelName, (Arc<Channel>, u64)>,
}

impl<'a> Resume<'a> {
    /// Looks where a connection stands in the channels that it joins, and what it may get beside what waits for it
    /// already. With an id, that is where it was, if all since is there; with none, before all that is kept; without
    /// being asked, after it.
    pub(super) fn look(
        hub: &'a Hub,
        connection: &Connection,
        joined: &[&ChannelName],
        since: &[Since<'_>],
    ) -> Resume<'a> {
        let waiting = connection.outbox.stats();
        let left = |of: &AtomicUsize, waits: usize| (of.load(Relaxed) / PART_OF_QUEUE).saturating_sub(waits);
        let mut left = Allowance {
            messages: left(&hub.budget.queue_messages, waiting.queued_messages),
            bytes: left(&hub.budget.queue_bytes, waiting.queued_bytes)
                .min(hub.budget.left_of_part(PART_OF_QUEUE)),
        };
        let since: HashMap<&str, Option<MessageId>> = since.iter().map(|(name, id)| (&**name, *id)).collect();
        let (positions, pinned) = (Positions::default(), HashMap::new());
        let mut resume = Resume { hub, now: Instant::now(), positions, pinned };
        let on = hub.keeping.is_on();
        for name in joined {
            let asked = since.get(name.as_str());
            let found = on && resume.pin(name, asked, &mut left);
            if let Some(Some(_)) = asked {
                resume.positions.recovered.push(((*name).clone(), found));
            }
        }
        resume
    }

    /// Returns whether there is what was asked for.
    fn pin(&mut self, name: &ChannelName, asked: Option<&Option<MessageId>>, left: &mut Allowance) -> bool {
        let mut shard = lock(self.hub.channels.shard(name.as_str()));
        let channel = shard.entry(name.clone()).or_insert_with(|| Channel::new(name)).clone();
        let mut readers = lock(&channel.readers);
        drop(shard);
        let unread = readers.connections.is_empty();
        let history = readers.history_from(&self.hub.keeping, name, self.now);
        history.file(&self.hub.ages, &channel, unread, self.now);
        let found = asked.and_then(|id| history.after(*id, self.now, left));
        let after = found.unwrap_or(history.last());
        self.positions.ids.push((name.clone(), history.place(after)));
        history.pin();
        drop(readers);
        self.pinned.insert(name.clone(), (channel, after));
        found.is_some()
    }

    /// What to tell the connection before it gets any of it.
    pub(super) fn positions(&self) -> &Positions {
        &self.positions
    }

    /// The number of the message after which to deliver.
    pub(super) fn after(&self, name: &ChannelName) -> Option<u64> {
        self.pinned.get(name).map(|(_, after)| *after)
    }
}

impl Drop for Resume<'_> {
    fn drop(&mut self) {
        for (channel, _) in self.pinned.values() {
            if let Some(history) = &mut lock(&channel.readers).history {
                history.unpin(self.now);
            }
        }
    }
}

impl Hub {
    /// Queues what was kept after the message with the number `after` to a connection that reads the channel already:
    /// one step in the channel's order, so that what it has had is had again and nothing else comes twice.
    pub(super) fn deliver_again(&self, connection: &Arc<Connection>, name: &ChannelName, after: u64) {
        let channel = lock(self.channels.shard(name.as_str())).get(name).cloned();
        let Some(channel) = channel else { return };
        if let Some(history) = &lock(&channel.readers).history {
            deliver(history, after, connection);
        }
    }
}

/// Queues all messages after the one with this number to a connection that is about to join.
pub(super) fn deliver(history: &History, after: u64, connection: &Arc<Connection>) {
    if connection.outbox.push_all(history.frames_after(after)) == Pushed::Promised {
        // Nobody here collects promises: its own task writes it.
        connection.outbox.hand_over();
    }
}
