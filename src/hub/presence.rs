//! Presence: who reads a channel, told to connections that ask, and to those that follow it.
//!
//! A channel has a [`Watch`] only while somebody follows it. Nobody else's joining and leaving costs anything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::peers::Followed;
use super::told::Peer;
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
    pub(super) changes: AtomicU64,
    /// Those that other nodes are told of, in a cluster.
    pub(super) followed: OnceLock<Arc<Followed>>,
}

impl Watched {
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    pub(super) fn list(&self) -> Vec<Arc<Channel>> {
        if self.is_empty() {
            return Vec::new();
        }
        lock(&self.channels).values().cloned().collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Channel>> {
        lock(&self.channels).get(name).cloned()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut HashMap<ChannelName, Arc<Channel>>)) {
        let mut channels = lock(&self.channels);
        change(&mut channels);
        self.count.store(channels.len(), Relaxed);
    }
}

/// How much presence is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceFigures {
    /// Channels.
    pub channels: usize,
    /// Connections, once for each channel that they follow.
    pub followers: usize,
    /// Subjects in these channels.
    pub subjects: usize,
}

impl Hub {
    /// Returns how much presence is followed. Locks one channel at a time.
    pub fn presence_figures(&self) -> PresenceFigures {
        let mut figures = PresenceFigures::default();
        for channel in self.watched.list() {
            let readers = lock(&channel.readers);
            let Some(watch) = &readers.watch else { continue };
            let (followers, subjects) = watch.figures();
            figures.channels += 1;
            figures.followers += followers;
            figures.subjects += subjects;
        }
        figures
    }

    /// Tells a connection who reads a channel, in a frame that `answer` must queue at once. With `follow`, the connection is
    /// told of changes from now on, and with `Some(false)` no longer. Returns false if it does not read the channel.
    ///
    /// `peers` are the other nodes of a cluster. Until they have told their readers, [`Hub::hear_presence`] or
    /// [`Hub::tell_presence`] answers later.
    pub fn look_at_presence(
        &self,
        connection: &Arc<Connection>,
        name: &ChannelName,
        follow: Option<bool>,
        (limits, peers): (PresenceLimits, &[Peer]),
        answer: impl FnOnce(Frame),
    ) -> bool {
        // The lock keeps the connection from leaving the channel meanwhile.
        let memberships = lock(&connection.memberships);
        let Some(membership) = memberships.get(name.as_str()) else { return false };
        let channel = &membership.channel;
        let mut readers = lock(&channel.readers);
        self.watched.changes.fetch_add(1, Relaxed);
        let now = Instant::now();
        let mut watch =
            readers.watch.take().unwrap_or_else(|| Box::new(Watch::of(readers.connections.iter(), now)));
        if self.watched.followed.get().is_some() {
            watch.hold(now);
        }
        if watch.awaits(peers) {
            watch.wait(connection, follow, limits, now);
        } else {
            answer(watch.look(name.as_str(), connection, follow, limits, peers));
        }
        self.keep_watch(channel, &mut readers, watch);
        true
    }

    /// Tells the followers of all channels what has changed since the last time.
    pub fn tell_presence(
        &self,
        now: Instant,
        limits: PresenceLimits,
        peers: &[Peer],
        flush_list: &mut FlushList,
    ) {
        for channel in self.watched.list() {
            let mut readers = lock(&channel.readers);
            let Some(mut watch) = readers.watch.take() else { continue };
            self.watched.changes.fetch_add(1, Relaxed);
            let name = channel.name.as_str();
            watch.forget_unreachable(peers, now);
            watch.tell(name, now, limits, peers, flush_list);
            watch.answer_waiting(name, now, peers, flush_list);
            self.keep_watch(&channel, &mut readers, watch);
        }
    }

    /// Counts a connection that has joined or left a channel, which is locked.
    pub(super) fn change_watch(
        &self,
        channel: &Arc<Channel>,
        readers: &mut Readers,
        change: impl FnOnce(&mut Watch, Instant),
    ) {
        let Some(mut watch) = readers.watch.take() else { return };
        self.watched.changes.fetch_add(1, Relaxed);
        change(&mut watch, Instant::now());
        self.keep_watch(channel, readers, watch);
    }

    /// Counts a connection again whose claims were replaced, and ends its following where they do not allow it any more.
    pub(super) fn claims_changed(&self, connection: &Arc<Connection>, before: &Claims, now: &Claims) {
        let same = before.subject() == now.subject()
            && before.info() == now.info()
            && before.presence() == now.presence();
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

    /// Returns the number of watched channels.
    #[cfg(test)]
    pub(super) fn watch_count(&self) -> usize {
        self.watched.count.load(Relaxed)
    }
}
