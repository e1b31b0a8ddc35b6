//! Resumes a client: tells its positions in the channels that it joins, and delivers the messages that it missed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use super::history::{Allowance, History};
use super::{Channel, Connection, Hub, sweep};
use crate::message::{ChannelName, MessageId, Since};
use crate::outbox::Pushed;
use crate::sync::lock;

/// The share of a connection's queue, and of the limit of all queues together, that missed messages may fill. The rest is
/// for new messages.
const PART_OF_QUEUE: usize = 2;

/// The positions of a connection in the channels that it joins.
#[derive(Clone, Debug, Default)]
pub struct Positions {
    /// The channels that it asked for with an id, and whether no message is missing.
    pub recovered: Vec<(ChannelName, bool)>,
    /// The channels that have a history, and the id after which it receives every message.
    pub ids: Vec<(ChannelName, MessageId)>,
}

/// The missed messages that a connection can get in the channels that it joins.
///
/// All channels are checked first, because the reply comes before the first message. Then they are joined one by one. In
/// between the promised messages are pinned, so that the reply stays true.
pub(super) struct Resume<'a> {
    hub: &'a Hub,
    now: Instant,
    positions: Positions,
    pinned: HashMap<ChannelName, (Arc<Channel>, u64)>,
}

impl<'a> Resume<'a> {
    /// Finds the positions of a connection in the channels that it joins, within the room that its queue has left. With an id
    /// the position is that id, if all messages since are kept; with null it is before the whole history; if `since` does
    /// not name the channel, it is after the history.
    pub(super) fn look(
        hub: &'a Hub,
        connection: &Connection,
        joined: &[&str],
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
        for &name in joined {
            let asked = since.get(name);
            let found = on && resume.pin(connection, name, asked, &mut left);
            if let Some(Some(_)) = asked {
                resume.positions.recovered.push((ChannelName::checked(name), found));
            }
        }
        resume
    }

    /// Pins the history of a channel, and holds back the messages of a channel that the connection reads already until its
    /// history was delivered. Returns whether it has every message that was asked for.
    fn pin(
        &mut self,
        connection: &Connection,
        name: &str,
        asked: Option<&Option<MessageId>>,
        left: &mut Allowance,
    ) -> bool {
        let mut shard = lock(self.hub.channels.shard(name));
        let channel = self.hub.channel_in(&mut shard, name);
        let mut readers = lock(&channel.readers);
        drop(shard);
        let unread = readers.connections.is_empty();
        let reads = readers.connections.contains(connection);
        let Some(history) = readers.history_from(&self.hub.keeping, &channel.name, self.now) else {
            return false;
        };
        history.file(&self.hub.ages, &channel, unread, self.now);
        let found = asked.and_then(|id| history.after(*id, self.now, left));
        let after = found.unwrap_or(history.complete_to());
        self.positions.ids.push((channel.name.clone(), history.id_of(after)));
        history.pin();
        if reads {
            // A message that came before the history would be out of order.
            history.hold(connection.id());
        }
        drop(readers);
        self.pinned.insert(channel.name.clone(), (channel, after));
        found.is_some()
    }

    /// Returns the positions, which the connection is told before any message.
    pub(super) fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Returns the number of the message after which to deliver.
    pub(super) fn after(&self, name: &str) -> Option<u64> {
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
    /// Returns the position of a channel, after which no message was delivered yet. Begins its history if there is none. Returns `None` if the channel keeps none.
    pub fn position(&self, name: &ChannelName) -> Option<MessageId> {
        if !self.keeping.is_on() {
            return None;
        }
        let now = Instant::now();
        let position = self.keep_in(name.as_str(), None, now, |_, readers| {
            readers.history_from(&self.keeping, name, now).map(|history| history.id_of(history.complete_to()))
        });
        self.relieve_history(now, sweep::CHANNELS_PER_PUBLISH);
        position
    }

    /// Queues the history after the message `after` to a connection that reads the channel already, and lets it have new
    /// messages again, which were held back. This is one step in the channel's order, so that only messages of the history
    /// are delivered twice, and all of them in order. Returns the id after which it got all.
    pub(super) fn deliver_again(
        &self,
        connection: &Arc<Connection>,
        name: &str,
        after: u64,
    ) -> Option<MessageId> {
        let channel = lock(self.channels.shard(name)).get(name).cloned()?;
        let mut readers = lock(&channel.readers);
        let history = readers.history.as_mut()?;
        history.release(connection.id());
        deliver(history, after, connection);
        Some(history.id_of(after))
    }
}

/// Queues all messages after the one with this number to a connection.
pub(super) fn deliver(history: &History, after: u64, connection: &Arc<Connection>) {
    if connection.outbox.push_all(history.frames_after(after)) == Pushed::Promised {
        // There is no flush list here, so the connection's own task writes.
        connection.outbox.hand_over();
    }
}
