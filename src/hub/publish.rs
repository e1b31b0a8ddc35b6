//! Publishing: a message is encoded once and goes to every reader's outbox, under the channel's lock.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::{Channel, Connection, FlushList, Hub, Readers, sweep};
use crate::frame::{Compressed, Deflated, Frame};
use crate::message::{Batch, Delivery, MessageId};
use crate::outbox::Pushed;
use crate::sync::lock;

/// The outcome of a publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Readers to which the messages were queued.
    pub readers: usize,
    /// The id of the last message, if there is a history.
    pub last: Option<MessageId>,
    /// The messages were published to nobody and not kept, because the histories are handed over to the next process.
    pub refused: bool,
}

impl Hub {
    /// Queues a message to every reader of its channel except the publisher, and returns the number of readers.
    ///
    /// Adds the outboxes that the caller must write to `flush_list`.
    pub fn publish(
        &self,
        delivery: &Delivery<'_>,
        publisher: Option<&Arc<Connection>>,
        flush_list: &mut FlushList,
    ) -> usize {
        self.queue(delivery.channel, || delivery.encode(), publisher, flush_list).readers
    }

    /// Publishes as [`Hub::publish`] does, to all readers except these. Returns the message's id, too.
    pub fn publish_except(
        &self,
        delivery: &Delivery<'_>,
        excluded: &[Arc<Connection>],
        flush_list: &mut FlushList,
    ) -> Queued {
        self.queue(delivery.channel, || delivery.encode(), excluded, flush_list)
    }

    /// Publishes a frame that is encoded already, as [`Hub::publish_except`] does.
    pub fn publish_frame(
        &self,
        channel: &str,
        frame: &Frame,
        excluded: &[Arc<Connection>],
        flush_list: &mut FlushList,
    ) -> usize {
        self.queue(channel, || frame.clone(), excluded, flush_list).readers
    }

    /// Publishes the messages of `batch` together, as [`Hub::publish`] does, and empties it.
    pub fn publish_batch(
        &self,
        batch: &mut Batch,
        publisher: Option<&Arc<Connection>>,
        flush_list: &mut FlushList,
    ) -> usize {
        if batch.is_empty() {
            return 0;
        }
        let queued = self.queue(batch.channel(), || batch.encode(), publisher, flush_list);
        if queued.refused {
            batch.refuse();
        } else {
            batch.clear(queued.last);
        }
        queued.readers
    }

    fn queue(
        &self,
        name: &str,
        encode: impl FnOnce() -> Frame,
        excluded: impl Excluded,
        flush_list: &mut FlushList,
    ) -> Queued {
        // A publisher that reads the channel has it at hand, and so has whoever else is the first of those excluded.
        let found = excluded.connections().first().and_then(|publisher| publisher.channel(name));
        let Some(channel) = found.or_else(|| self.find_or_keep(name)) else { return Queued::default() };
        let frame = encode();
        let compressed = self.compress(&channel, &frame, excluded.connections());
        let readers = lock(&channel.readers);
        if readers.retention.is_on() || readers.history.is_some() || readers.gone {
            drop(readers);
            return self.queue_kept(name, channel, &frame, compressed.as_deref(), excluded, flush_list);
        }
        let deflated = compressed.as_deref().and_then(Compressed::whole);
        let is_excluded = |reader: &Arc<Connection>| excluded.excludes(reader);
        let readers = self.push(&channel, &readers, (&frame, deflated), is_excluded, flush_list);
        Queued { readers, ..Queued::default() }
    }

    /// Pushes a frame, or its compressed form to those that take it, to a channel's readers. The channel is locked.
    pub(super) fn push(
        &self,
        channel: &Channel,
        readers: &Readers,
        (frame, deflated): (&Frame, Option<&Deflated>),
        is_excluded: impl Fn(&Arc<Connection>) -> bool,
        flush_list: &mut FlushList,
    ) -> usize {
        // A plain store suffices, because only the holder of the lock writes.
        channel.messages.store(channel.messages.load(Relaxed) + frame.messages() as u64, Relaxed);
        let mut queued = 0;
        // One loop for readers with and without compression, so that the push is inlined once.
        for reader in readers.connections.iter().filter(|reader| !is_excluded(reader)) {
            let taken =
                deflated.and_then(|deflated| deflated.for_window(reader.outbox.window)).unwrap_or(frame);
            queued += usize::from(flush_list.push(reader, taken) != Pushed::Closing);
        }
        self.deliveries.add(queued * frame.messages());
        queued
    }

    /// Queues as `queue` does, and records the messages in the channel's history. Looks the channel up again if it is gone.
    #[cold]
    fn queue_kept(
        &self,
        name: &str,
        channel: Arc<Channel>,
        frame: &Frame,
        compressed: Option<&Compressed>,
        excluded: impl Excluded,
        flush_list: &mut FlushList,
    ) -> Queued {
        let now = Instant::now();
        let queued = self.keep_in(name, Some(channel), now, |channel, readers| {
            let keeps = readers.retention.is_on();
            let (frame, last) = match readers.history_from(&self.keeping, &channel.name, now) {
                Some(history) => (history.record(frame, now), Some(history.id_of(history.last()))),
                None if keeps => return Queued { refused: true, ..Queued::default() },
                None => (readers.end_history(frame, None), None),
            };
            let deflated = compressed.and_then(|compressed| compressed.end(&frame));
            let is_excluded =
                |reader: &Arc<Connection>| excluded.excludes(reader) || readers.holds_back(reader);
            let frames = (&frame, deflated.as_ref());
            let readers = self.push(channel, readers, frames, is_excluded, flush_list);
            Queued { readers, last, refused: false }
        });
        self.relieve_history(now, sweep::CHANNELS_PER_PUBLISH);
        queued
    }

    /// Returns a channel. Creates it if there is none and it would have a history.
    pub(super) fn find_or_keep(&self, name: &str) -> Option<Arc<Channel>> {
        let mut shard = lock(self.channels.shard(name));
        if let Some(channel) = shard.get(name) {
            return Some(channel.clone());
        }
        let is_kept = self.keeping.is_on() && self.keeping.retention(name).is_on();
        is_kept.then(|| self.channel_in(&mut shard, name))
    }

    /// Calls `keep` with the channel locked, which can record messages in its history. Looks the channel up if it is not
    /// `found` already or gone, and creates it if it would have a history and no reader.
    pub(super) fn keep_in<T: Default>(
        &self,
        name: &str,
        mut found: Option<Arc<Channel>>,
        now: Instant,
        keep: impl FnOnce(&Channel, &mut Readers) -> T,
    ) -> T {
        loop {
            let Some(channel) = found.take().or_else(|| self.find_or_keep(name)) else {
                return T::default();
            };
            let mut readers = lock(&channel.readers);
            if readers.gone {
                continue;
            }
            let kept = keep(&channel, &mut readers);
            let unread = readers.connections.is_empty();
            if let Some(history) = &mut readers.history {
                history.file(&self.ages, &channel, unread, now);
            }
            return kept;
        }
    }
}

/// The connections that a message must not reach.
pub(super) trait Excluded {
    /// Returns whether a reader is one of them.
    fn excludes(&self, reader: &Arc<Connection>) -> bool;

    /// Returns all of them.
    fn connections(&self) -> &[Arc<Connection>];
}

/// The publisher.
impl Excluded for Option<&Arc<Connection>> {
    fn excludes(&self, reader: &Arc<Connection>) -> bool {
        self.is_some_and(|publisher| Arc::ptr_eq(publisher, reader))
    }

    fn connections(&self) -> &[Arc<Connection>] {
        self.map_or(&[], std::slice::from_ref)
    }
}

impl Excluded for &[Arc<Connection>] {
    fn excludes(&self, reader: &Arc<Connection>) -> bool {
        self.iter().any(|excluded| Arc::ptr_eq(excluded, reader))
    }

    fn connections(&self) -> &[Arc<Connection>] {
        self
    }
}
