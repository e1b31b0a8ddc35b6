//! Presence: who reads a channel, told to connections that ask, and to those that follow it.
//!
//! A channel has a [`Watch`] only while somebody follows it. Nobody else's joining and leaving costs anything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::memberships::find;
use super::watch::{PresenceLimits, Watch};
use super::{Channel, Connection, FlushList, Hub, Readers};
use crate::frame::Frame;
use crate::message::ChannelName;
use crate::sync::lock;
use crate::token::Claims;

/// The channels whose presence somebody follows.
#[derive(Default)]
pub(super) struct Watched {
    channels: Mutex<HashMap<ChannelName, Arc<Channel>>>,
    /// The number of them, which is read without the lock.
    count: AtomicUsize,
    /// Changes of watches so far, for the test that there are none where nobody follows.
    changes: AtomicU64,
}

impl Watched {
    fn change(&self, change: impl FnOnce(&mut HashMap<ChannelName, Arc<Channel>>)) {
        let mut channels = lock(&self.channels);
        change(&mut channels);
        self.count.store(channels.len(), Relaxed);
    }
}

impl Hub {
    /// Tells a connection who reads a channel, in a frame that `answer` must queue at once. With `follow`, the connection is
    /// told of changes from now on, and with `Some(false)` no longer. Returns false if it does not read the channel.
    pub fn look_at_presence(
        &self,
        connection: &Arc<Connection>,
        name: &ChannelName,
        follow: Option<bool>,
        limits: PresenceLimits,
        answer: impl FnOnce(Frame),
    ) -> bool {
        // The lock keeps the connection from leaving the channel meanwhile.
        let memberships = lock(&connection.memberships);
        let Ok(at) = find(&memberships.0, name.as_str()) else { return false };
        let channel = &memberships.0[at].channel;
        let mut readers = lock(&channel.readers);
        self.watched.changes.fetch_add(1, Relaxed);
        let now = Instant::now();
        let mut watch =
            readers.watch.take().unwrap_or_else(|| Box::new(Watch::of(readers.connections.iter(), now)));
        answer(watch.look(name.as_str(), connection, follow, limits));
        if watch.is_followed() {
            readers.watch = Some(watch);
            self.watched.change(|channels| {
                channels.insert(name.clone(), channel.clone());
            });
        } else {
            self.watched.change(|channels| {
                channels.remove(name);
            });
        }
        true
    }

    /// Tells the followers of all channels what has changed since the last time.
    pub fn tell_presence(&self, now: Instant, limits: PresenceLimits, flush_list: &mut FlushList) {
        if self.watched.count.load(Relaxed) == 0 {
            return;
        }
        let channels: Vec<Arc<Channel>> = lock(&self.watched.channels).values().cloned().collect();
        for channel in channels {
            if let Some(watch) = &mut lock(&channel.readers).watch {
                self.watched.changes.fetch_add(1, Relaxed);
                watch.tell(channel.name.as_str(), now, limits, flush_list);
            }
        }
    }

    /// Counts a connection that has joined or left a channel, which is locked.
    pub(super) fn change_watch(
        &self,
        channel: &Channel,
        readers: &mut Readers,
        change: impl FnOnce(&mut Watch, Instant),
    ) {
        let Some(watch) = &mut readers.watch else { return };
        self.watched.changes.fetch_add(1, Relaxed);
        change(watch, Instant::now());
        if !watch.is_followed() {
            readers.watch = None;
            self.watched.change(|channels| {
                channels.remove(&channel.name);
            });
        }
    }

    /// Counts a connection again whose claims were replaced, and ends its following where they do not allow it any more.
    pub(super) fn claims_changed(&self, connection: &Arc<Connection>, before: &Claims, now: &Claims) {
        let same =
            before.subject == now.subject && before.info == now.info && before.presence == now.presence;
        if same || self.watched.count.load(Relaxed) == 0 {
            return;
        }
        for channel in lock(&connection.memberships).channels() {
            let mut readers = lock(&channel.readers);
            self.change_watch(channel, &mut readers, |watch, at| {
                watch.recount(connection, at);
                if !now.may_see_presence(channel.name.as_str()) {
                    watch.unfollow(connection);
                }
            });
        }
    }

    /// Returns how often a watch was changed.
    #[cfg(test)]
    pub(super) fn watch_changes(&self) -> u64 {
        self.watched.changes.load(Relaxed)
    }
}
