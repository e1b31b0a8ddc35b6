//! The hub with a history: publishing into it, taking out of it what a connection has missed, and keeping it small.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::ages::Slot;
use super::history::{Allowance, History, Keeping};
use super::{Channel, Connection, FlushList, Hub, Kept, Queued, Readers, forget_unused};
use crate::frame::Frame;
use crate::message::{ChannelName, MessageId, Since};
use crate::outbox::Pushed;
use crate::sync::lock;

/// The part of a connection's queue, and of what all queues may hold, up to which what was missed may fill it: the rest
/// is for what comes.
const PART_OF_QUEUE: usize = 2;

/// Channels that give up their oldest for what one publish adds: more than it needs, so that they keep pace.
pub(super) const CHANNELS_PER_PUBLISH: usize = 4;

/// Channels that are taken out of the index by age at once.
const CHANNELS_AT_ONCE: usize = 16;

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
        flush_list: &mut FlushList,
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
                let readers = self.push(&channel, &readers, frame, is_excluded, flush_list);
                return Queued { readers, last: None };
            }
            let unread = readers.0.is_empty();
            let history = readers.1.history_from(&self.keeping, &name, now);
            let frame = history.record(frame, now);
            history.file(&self.ages, &channel, unread, now);
            let last = Some(history.place(history.last()));
            let queued = self.push(&channel, &readers, &frame, is_excluded, flush_list);
            drop(readers);
            self.relieve_history(now, CHANNELS_PER_PUBLISH);
            return Queued { readers: queued, last };
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

    /// Takes the channels out of the index that keep something too old, or all where each is to keep less: for [`Hub::let_go`], part by part.
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

    /// Lets go what is too old, and channels that keep nothing any more.
    pub fn let_go(&self, outdated: &[Outdated], now: Instant) {
        for Outdated(slot, channel) in outdated {
            self.let_go_of(channel, *slot, now, None);
        }
    }

    /// While all histories together have no room for what comes, lets go the oldest, of so many channels at most.
    /// Returns whether that made some room and there is still none.
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

    /// Lets go what of a channel is too old, or as old as `cutoff`, and files it again by what is left.
    fn let_go_of(&self, channel: &Arc<Channel>, slot: Slot, now: Instant, cutoff: Option<Instant>) {
        let mut shard = lock(self.channels.shard(channel.name.as_str()));
        let mut readers = lock(&channel.readers);
        let unread = readers.0.is_empty();
        let Some(history) = &mut readers.1.history else { return };
        if !history.unfile(slot) {
            return;
        }
        history.trim(now);
        if let Some(cutoff) = cutoff {
            history.drop_until(cutoff);
        }
        forget_unused(&mut shard, channel, &mut readers, now.checked_sub(self.keeping.ttl()).max(cutoff));
        if let Some(history) = &mut readers.1.history {
            history.file(&self.ages, channel, unread, now);
        }
    }
}

/// A channel that was taken out of the index by age, and where it stood.
pub struct Outdated(Slot, Arc<Channel>);

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
        let unread = readers.0.is_empty();
        let history = readers.1.history_from(&self.hub.keeping, name, self.now);
        history.file(&self.hub.ages, &channel, unread, self.now);
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
    fn history_from(&mut self, keeping: &Arc<Keeping>, name: &ChannelName, now: Instant) -> &mut History {
        self.history.get_or_insert_with(|| Box::new(History::new(keeping, name, now)))
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
