//! The hub with a history: publishing into it, taking out of it what a connection has missed, and keeping it small.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::history::{Allowance, History};
use super::{Channel, Connection, Hub, Touched, forget_unused};
use crate::frame::Frame;
use crate::message::{ChannelName, MessageId};
use crate::outbox::Pushed;
use crate::sync::lock;

/// The part of a connection's queue that may be filled at once with what it has missed: the rest is for what comes.
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
        publisher: Option<&Arc<Connection>>,
        touched: &mut Touched,
    ) -> usize {
        let now = Instant::now();
        let name = ChannelName::checked(name);
        loop {
            let channel = {
                let mut shard = lock(self.channels.shard(name.as_str()));
                match shard.get(&name) {
                    Some(channel) => channel.clone(),
                    None if name.is_internal() => return 0,
                    None => shard.entry(name.clone()).or_insert_with(|| Channel::new(&name)).clone(),
                }
            };
            let mut readers = lock(&channel.readers);
            if readers.1.gone {
                continue;
            }
            if name.is_internal() {
                return self.push(&channel, &readers, frame, publisher, touched);
            }
            let new = || Box::new(History::new(&self.keeping));
            let frame = readers.1.history.get_or_insert_with(new).record(frame, now);
            return self.push(&channel, &readers, &frame, publisher, touched);
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

    /// Returns when the oldest message that is left was published.
    fn sweep(&self, now: Instant, cutoff: Option<Instant>) -> Option<Instant> {
        let mut oldest: Option<Instant> = None;
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
                if let Some(at) = history.oldest() {
                    oldest = Some(oldest.map_or(at, |oldest| oldest.min(at)));
                } else if unread {
                    drop(readers);
                    let mut shard = lock(shard);
                    forget_unused(&mut shard, &channel, &mut lock(&channel.readers));
                }
            }
        }
        oldest
    }
}

/// What a connection that joins channels can get of what it has missed.
///
/// First all channels are looked at, because the answer stands before the first message; then they are joined, one by
/// one. In between what was promised is pinned, so that the answer stays true.
pub(super) struct Recovery<'a> {
    hub: &'a Hub,
    now: Instant,
    left: Allowance,
    recovered: Vec<(ChannelName, bool)>,
    pinned: HashMap<ChannelName, (Arc<Channel>, MessageId)>,
}

impl<'a> Recovery<'a> {
    pub(super) fn new(hub: &'a Hub) -> Recovery<'a> {
        let part = |of: &std::sync::atomic::AtomicUsize| of.load(Relaxed) / PART_OF_QUEUE;
        let left =
            Allowance { messages: part(&hub.budget.queue_messages), bytes: part(&hub.budget.queue_bytes) };
        Recovery { hub, now: Instant::now(), left, recovered: Vec::new(), pinned: HashMap::new() }
    }

    /// Looks whether all since `id` is there; without one, what there is.
    pub(super) fn look_for(&mut self, name: &ChannelName, id: Option<MessageId>) {
        let after = self.pin(name, id);
        if id.is_some() {
            self.recovered.push((name.clone(), after.is_some()));
        }
        self.pinned.extend(after.map(|found| (name.clone(), found)));
    }

    fn pin(&mut self, name: &ChannelName, id: Option<MessageId>) -> Option<(Arc<Channel>, MessageId)> {
        if !self.hub.keeping.is_on() {
            return None;
        }
        let channel = lock(self.hub.channels.shard(name.as_str())).get(name).cloned()?;
        let mut readers = lock(&channel.readers);
        let history = readers.1.history.as_mut()?;
        let number = history.after(id, self.now, &mut self.left)?;
        history.pin();
        let after = MessageId { epoch: history.epoch(), number };
        drop(readers);
        Some((channel, after))
    }

    /// The channels that were asked for with an id, and whether nothing is missing.
    pub(super) fn recovered(&self) -> &[(ChannelName, bool)] {
        &self.recovered
    }

    /// After which message to deliver.
    pub(super) fn of(&self, name: &ChannelName) -> Option<MessageId> {
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

/// Queues all messages after this one to a connection that is about to join.
pub(super) fn deliver(history: &History, after: MessageId, connection: &Arc<Connection>) {
    if history.epoch() != after.epoch {
        return;
    }
    for frame in history.frames_after(after.number) {
        if connection.outbox.push(frame) == Pushed::Promised {
            // Nobody here collects promises: its own task writes it.
            connection.outbox.hand_over();
        }
    }
}
