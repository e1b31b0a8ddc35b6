//! Has backends told who reads the channels that they select. No other channel's joining and leaving costs anything.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::{Channel, Connection, Hub};
use crate::feed::{Feed, FollowError, Following};
use crate::message::{ChannelPatterns, MessageId};
use crate::sync::lock;
use crate::token::Claims;

impl Hub {
    /// Returns the events for backends.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Begins a stream of events, as [`Feed::follow`] does. It may take as long as a walk over all channels.
    ///
    /// # Errors
    /// As those of [`Feed::follow`].
    pub fn follow_events(
        &self,
        selected: ChannelPatterns,
        last: Option<MessageId>,
    ) -> Result<Arc<Following>, FollowError> {
        self.feed.follow(selected, last, || self.tell_selected())
    }

    /// Forgets what ended streams have selected, as [`Feed::expire`] does. It may take as long as a walk over all channels.
    pub fn expire_events(&self, now: Instant) {
        self.feed.expire(now, || self.tell_selected());
    }

    /// Has the feed told of the channels that it selects now, and of no others.
    fn tell_selected(&self) {
        for shard in self.channels.shards() {
            let is_read = |channel: &&Arc<Channel>| channel.reader_count.load(Relaxed) > 0;
            let channels: Vec<Arc<Channel>> = lock(shard).values().filter(is_read).cloned().collect();
            for channel in channels {
                let mut readers = lock(&channel.readers);
                let selected = self.feed.selects(&channel.name);
                // The next first reader finds out for itself.
                if readers.connections.is_empty() || readers.told == selected {
                    continue;
                }
                readers.told = selected;
                if !selected {
                    self.feed.forget(&channel.name);
                    continue;
                }
                for reader in readers.connections.iter() {
                    self.feed.count(&channel.name, reader.id(), reader.claims().subject());
                }
            }
        }
    }

    /// Counts a connection as another subject, where backends are told, after its claims were replaced.
    pub(super) fn subject_changed(&self, connection: &Arc<Connection>, before: &Claims, now: &Claims) {
        if before.subject() == now.subject() || !self.feed.records() {
            return;
        }
        for channel in lock(&connection.memberships).channels() {
            let readers = lock(&channel.readers);
            if readers.told {
                self.feed.renamed(&channel.name, connection.id(), now.subject());
            }
        }
    }
}
