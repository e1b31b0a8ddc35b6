//! The hub with a history: publishing into it, taking out of it what a connection has missed, and keeping it small.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::history::{Allowance, History, Keeping};
use super::{Channel, Connection, Hub, Kept, Queued, Readers, Touched, forget_unused};
use crate::frame::Frame;
use crate::message::{ChannelName, MessageId, Since};
use crate::outbox::Pushed;
use crate::sync::lock;

/// The part of a connection's queue, and of what all queues may hold, up to which what was missed may fill it: the rest
/// is for what comes.
const PART_OF_QUEUE: usize = 2;

/// Over its bytes, history is cut back to this many eighths of them, so that it is not cut at every message.
const KEPT_EIGHTHS: usize = 7;

impl Hub {
    /// What channels keep: messages each (0 is off), how long, and bytes of all together.
    pub fn keep(&self, messages: usize, ttl: Duration, bytes: usize) {
        self.keeping.set(messages, ttl, bytes);
    }

    /// Bytes that all histories hold.
    pub fn history_bytes(&self) -> usize {
        self.keeping.bytes()
    }

    /// Like `queue`, into the channel's history as well; a channel that nobody reads comes to be for it.
    #[cold]
    pub(super) fn queue_kept(
        &self,
        name: &str,
        frame: &Frame,
        is_excluded: impl Fn(&Arc<Connection>) -> bool,
        touched: &mut Touched,
    ) -> Queued {
        let now = Instant::now();
        let name = ChannelName::checked(name);
        loop {
            let channel = {
                let mut shard = lock(self.channels.shard(name.as_str()));
                match shard.get(&name) {
                    Some(channel) => channel.clone(),
                    None if name.is_internal() => return Queued::default(),
                    None => shard.entry(name.clone()).or_insert_with(|| Channel::new(&name)).clone(),
                }
            };
            let mut readers = lock(&channel.readers);
            if readers.1.gone {
                continue;
            }
            if name.is_internal() {
                let readers = self.push(&channel, &readers, frame, is_excluded, touched);
                return Queued { readers, last: None };
            }
            let history = readers.1.history_from(&self.keeping, now);
            let frame = history.record(frame, now);
            let last = Some(history.place(history.last()));
            return Queued { readers: self.push(&channel, &readers, &frame, is_excluded, touched), last };
        }
    }

    /// Queues what was kept after the message with the number `after` to a connection that reads the channel already:
    /// one step in the channel's order, so that what it has had is had again and nothing else comes twice.
    pub(super) fn deliver_again(&self, connection: &Arc<Connection>, name: &ChannelName, after: u64) {
        let channel = lock(self.channels.shard(name.as_str())).get(name).cloned();
        let Some(channel) = channel else { return };
        if let Some(history) = &lock(&channel.readers).1.history {
            deliver(history, after, connection);
        }
    }

    /// Lets go what is too old or too much, and channels that keep nothing any more. For every second.
    pub fn sweep_history(&self, now: Instant) {
        if self.keeping.histories.load(Relaxed) == 0 {
            return;
        }
        let mut oldest = self.sweep(now, None);
        let target = self.keeping.max_bytes() / 8 * KEPT_EIGHTHS;
        while self.keeping.bytes() > target
            && let Some(from) = oldest
        {
            // The oldest of all channels first, an eighth of the time at once.
            oldest = self.sweep(now, Some(from + now.saturating_duration_since(from) / 8));
            if oldest.is_some_and(|left| left <= from) {
                // What is left of that time is promised to somebody at this moment.
                return;
            }
        }
    }

    /// Returns since when the oldest that is left has been there.
    fn sweep(&self, now: Instant, cutoff: Option<Instant>) -> Option<Instant> {
        let mut oldest: Option<Instant> = None;
        let until = now.checked_sub(self.keeping.ttl()).max(cutoff);
        for shard in &self.channels.shards {
            let channels: Vec<Arc<Channel>> = lock(shard).values().cloned().collect();
            for channel in channels {
                let mut readers = lock(&channel.readers);
                let unread = readers.0.is_empty();
                let Some(history) = &mut readers.1.history else { continue };
                history.trim(now);
                if let Some(cutoff) = cutoff {
                    history.drop_until(cutoff);
                }
                if unread && history.may_go(until) {
                    drop(readers);
                    let mut shard = lock(shard);
                    forget_unused(&mut shard, &channel, &mut lock(&channel.readers), until);
                } else if let Some(at) = history.idle_since(unread) {
                    oldest = Some(oldest.map_or(at, |oldest| oldest.min(at)));
                }
            }
        }
        oldest
    }
}

/// What a connection hears about the channels that it joins.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Those that it asked for with an id, and whether nothing is missing.
    pub recovered: Vec<(ChannelName, bool)>,
    /// With a history, all of them, and the id after which it gets whatever is published.
    pub ids: Vec<(ChannelName, MessageId)>,
}

/// What a connection that joins channels can get of what it has missed.
///
/// First all channels are looked at, because the answer stands before the first message; then they are joined, one by
/// one. In between what was promised is pinned, so that the answer stays true.
pub(super) struct Recovery<'a> {
    hub: &'a Hub,
    now: Instant,
    places: Places,
    pinned: HashMap<ChannelName, (Arc<Channel>, u64)>,
}

impl<'a> Recovery<'a> {
    /// Looks where a connection stands in the channels that it joins, and what it may get beside what waits for it
    /// already. With an id, that is where it was, if all since is there; with none, before all that is kept; without
    /// being asked, after it.
    pub(super) fn look(
        hub: &'a Hub,
        connection: &Connection,
        joined: &[&ChannelName],
        since: &[Since<'_>],
    ) -> Recovery<'a> {
        let waiting = connection.outbox.stats();
        let left = |of: &AtomicUsize, waits: usize| (of.load(Relaxed) / PART_OF_QUEUE).saturating_sub(waits);
        let mut left = Allowance {
            messages: left(&hub.budget.queue_messages, waiting.queued_messages),
            bytes: left(&hub.budget.queue_bytes, waiting.queued_bytes)
                .min(hub.budget.left_of_part(PART_OF_QUEUE)),
        };
        let since: HashMap<&str, Option<MessageId>> = since.iter().map(|(name, id)| (&**name, *id)).collect();
        let (places, pinned) = (Places::default(), HashMap::new());
        let mut recovery = Recovery { hub, now: Instant::now(), places, pinned };
        let on = hub.keeping.is_on();
        for name in joined {
            let asked = since.get(name.as_str());
            let found = on && recovery.pin(name, asked, &mut left);
            if let Some(Some(_)) = asked {
                recovery.places.recovered.push(((*name).clone(), found));
            }
        }
        recovery
    }

    /// Returns whether there is what was asked for.
    fn pin(&mut self, name: &ChannelName, asked: Option<&Option<MessageId>>, left: &mut Allowance) -> bool {
        let mut shard = lock(self.hub.channels.shard(name.as_str()));
        let channel = shard.entry(name.clone()).or_insert_with(|| Channel::new(name)).clone();
        let mut readers = lock(&channel.readers);
        drop(shard);
        let history = readers.1.history_from(&self.hub.keeping, self.now);
        let found = asked.and_then(|id| history.after(*id, self.now, left));
        let after = found.unwrap_or(history.last());
        self.places.ids.push((name.clone(), history.place(after)));
        history.pin();
        drop(readers);
        self.pinned.insert(name.clone(), (channel, after));
        found.is_some()
    }

    /// What to tell the connection before it gets any of it.
    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// The number of the message after which to deliver.
    pub(super) fn after(&self, name: &ChannelName) -> Option<u64> {
        self.pinned.get(name).map(|(_, after)| *after)
    }
}

impl Drop for Recovery<'_> {
    fn drop(&mut self) {
        for (channel, _) in self.pinned.values() {
            if let Some(history) = &mut lock(&channel.readers).1.history {
                history.unpin(self.now);
            }
        }
    }
}

impl Kept {
    /// The history, which begins now if there is none.
    fn history_from(&mut self, keeping: &Arc<Keeping>, now: Instant) -> &mut History {
        self.history.get_or_insert_with(|| Box::new(History::new(keeping, now)))
    }
}

impl Readers {
    /// Ends the history of a channel to which a message goes that is not kept: without it, it would be none. While it
    /// is promised to somebody, the message is kept after all. Returns the frame that readers get.
    #[cold]
    pub(super) fn end_history(&mut self, frame: Frame) -> Frame {
        match &mut self.1.history {
            Some(history) if history.is_pinned() => return history.record(&frame, Instant::now()),
            // For the sweep to find, which forgets the channel.
            Some(history) if self.0.is_empty() => history.restart(),
            _ => self.1.history = None,
        }
        frame
    }
}

/// Queues all messages after the one with this number to a connection that is about to join.
pub(super) fn deliver(history: &History, after: u64, connection: &Arc<Connection>) {
    if connection.outbox.push_all(history.frames_after(after)) == Pushed::Promised {
        // Nobody here collects promises: its own task writes it.
        connection.outbox.hand_over();
    }
}
