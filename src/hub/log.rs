//! The log of a cluster: if it numbers the messages, the histories are filled from it, and all of them share its epoch and
//! its numbers. A channel's messages then have holes between their numbers, where those of other channels are.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::history::History;
use super::publish::Excluded;
use super::{Connection, FlushList, Hub, sweep};
use crate::frame::Frame;
use crate::message::{ChannelName, MessageId};
use crate::sync::lock;

/// Consecutive messages of the log to one channel.
pub struct Logged<'a> {
    /// Their channel.
    pub channel: &'a ChannelName,
    /// The messages, without their ids.
    pub frame: &'a Frame,
    /// The number of the first one.
    pub first: u64,
    /// When they were published.
    pub at: Instant,
    /// Connections that must not get them.
    pub excluded: &'a [Arc<Connection>],
    /// Whether readers get them. Messages from before this node followed the log are only kept.
    pub live: bool,
}

impl Hub {
    /// Begins to follow a log, or begins again: no history has a message, and the messages up to `position` are missing.
    /// The epoch must not be 0.
    pub fn begin_log(&self, epoch: u64, position: u64) {
        let log = &self.keeping.log;
        if log.epoch.swap(epoch, Relaxed) != epoch {
            log.unremembered.store(position, Relaxed);
        }
        log.applied.store(position, Relaxed);
        log.forgotten.store(position, Relaxed);
        self.each_history(History::restart);
        // A history that was dropped meanwhile had numbers of the log before.
        log.forgotten.store(position, Relaxed);
    }

    /// Begins all histories again with other epochs, as a restart of the daemon does. A history that is being delivered to a
    /// client that was promised it is left as it is.
    pub(crate) fn forget_histories(&self) {
        self.each_history(|history| {
            if !history.is_pinned() {
                history.restart();
            }
        });
    }

    /// Calls `change` for each history, with one shard locked at a time.
    fn each_history(&self, change: impl Fn(&mut History)) {
        for shard in self.channels.shards() {
            for channel in lock(shard).values() {
                if let Some(history) = &mut lock(&channel.readers).history {
                    change(history);
                }
            }
        }
    }

    /// Keeps messages of the log in their channel's history, and queues them to its readers as [`Hub::publish`] does. The
    /// caller hands them over in the order of the log. Returns the number of readers.
    pub fn deliver_logged(&self, logged: &Logged<'_>, flush_list: &mut FlushList) -> usize {
        let now = Instant::now();
        let found = self.find_or_keep(logged.channel.as_str());
        let compressed = found.as_ref().filter(|_| logged.live);
        let compressed = compressed.and_then(|channel| self.compress(channel, logged.frame, logged.excluded));
        let queued = self.keep_in(logged.channel.as_str(), found, now, |channel, readers| {
            let keeps = readers.retention.is_on();
            let frame = match readers.history_from(&self.keeping, logged.channel, now) {
                Some(history) => history.record_at(logged.frame, logged.first, logged.at, now),
                // Handed over. Its readers get the message from the next process.
                None if keeps => return 0,
                None => readers.end_history(logged.frame, Some(logged.first)),
            };
            if !logged.live {
                return 0;
            }
            let deflated = compressed.as_ref().and_then(|compressed| compressed.end(&frame));
            let is_excluded =
                |reader: &Arc<Connection>| logged.excluded.excludes(reader) || readers.holds_back(reader);
            self.push(channel, readers, (&frame, deflated.as_ref()), is_excluded, flush_list)
        });
        self.reach(logged.first + logged.frame.messages() as u64 - 1);
        self.relieve_history(now, sweep::CHANNELS_PER_PUBLISH);
        queued
    }

    /// Notes that all messages of the log up to this number were delivered, or concern no channel.
    pub fn reach(&self, number: u64) {
        self.keeping.log.applied.store(number, Relaxed);
    }

    /// Notes that connections may have read the messages up to now that no node remembers.
    pub fn forget_readers(&self) {
        let log = &self.keeping.log;
        log.unremembered.fetch_max(log.applied.load(Relaxed), Relaxed);
    }

    /// Returns the id of a message of the log; `None` if its channel has no history.
    pub fn log_id(&self, channel: &str, number: u64) -> Option<MessageId> {
        let position = self.log_position().filter(|_| self.keeping.retention(channel).is_on());
        position.map(|position| MessageId { number, ..position })
    }

    /// Returns the position up to which the messages of the log were delivered; `None` while no log is followed.
    pub fn log_position(&self) -> Option<MessageId> {
        let log = &self.keeping.log;
        let epoch = log.epoch.load(Relaxed);
        (epoch != 0).then(|| MessageId { epoch, number: log.applied.load(Relaxed) })
    }
}
