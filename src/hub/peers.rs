//! Presence in a cluster: which channels are followed here and on other nodes, and what the nodes tell each other of them.
//!
//! The cluster carries [`Told`] between the nodes and knows which nodes there are. It has the hub forget what it heard of
//! those that are gone.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Notify;

use super::told::{Peer, Room, Told};
use super::watch::Watch;
use super::{Channel, Connection, FlushList, Hub, Readers};
use crate::message::ChannelName;
use crate::sync::lock;

/// The most channels that this node has the others tell of. Of further ones, answers name the other nodes as unanswered.
pub const MAX_FOLLOWED: usize = 10_000;

/// The most subjects of other nodes that are kept, in all channels together: some 100 bytes each, and at most 700.
const MAX_SUBJECTS: usize = 200_000;

/// The channels whose presence the nodes of a cluster tell each other.
pub struct Followed {
    state: Mutex<State>,
    /// The number of channels that are followed elsewhere, which is read without the lock.
    elsewhere: AtomicUsize,
    /// Room for subjects of other nodes.
    room: Room,
    /// The cluster has something to tell.
    notify: Notify,
}

#[derive(Default)]
struct State {
    /// Followed here, as the other nodes are or will be told.
    here: HashSet<ChannelName>,
    /// Those of which they are not told yet that they are, or that they are not any more.
    changed: HashSet<ChannelName>,
    /// Followed on other nodes.
    elsewhere: HashSet<ChannelName>,
    /// Those of which the other nodes must be told all readers.
    owed: HashSet<ChannelName>,
}

impl Default for Followed {
    fn default() -> Followed {
        Followed {
            state: Mutex::default(),
            elsewhere: AtomicUsize::new(0),
            room: Arc::new(AtomicUsize::new(MAX_SUBJECTS)),
            notify: Notify::new(),
        }
    }
}

/// What is to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Channels that are followed here from now on.
    pub follows: Vec<ChannelName>,
    /// Channels that are followed here no longer.
    pub unfollows: Vec<ChannelName>,
    /// Channels of which all readers must be told.
    pub owed: Vec<ChannelName>,
}

impl Followed {
    /// Waits until there is something to tell.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }

    /// Has [`Followed::changed`] return.
    pub fn notify(&self) {
        self.notify.notify_one();
    }

    /// Takes what is to be told.
    pub fn take(&self) -> Changes {
        let mut state = lock(&self.state);
        let owed = std::mem::take(&mut state.owed).into_iter().collect();
        let changed = std::mem::take(&mut state.changed);
        let (follows, unfollows) = changed.into_iter().partition(|name| state.here.contains(name));
        Changes { follows, unfollows, owed }
    }

    /// Takes all that nodes are told that know nothing of this one.
    pub fn take_all(&self) -> Changes {
        let mut state = lock(&self.state);
        state.changed.clear();
        state.owed.clear();
        let follows = state.here.iter().cloned().collect();
        Changes { follows, unfollows: Vec::new(), owed: state.elsewhere.iter().cloned().collect() }
    }

    /// Leaves this much room for subjects of other nodes, and returns what is left of it.
    #[cfg(test)]
    pub(super) fn set_room(&self, room: usize) -> Room {
        self.room.store(room, Relaxed);
        self.room.clone()
    }

    /// Notes whether a channel is followed here. Returns whether it is, as the other nodes are told.
    pub(super) fn follow_here(&self, name: &ChannelName, follow: bool) -> bool {
        let mut state = lock(&self.state);
        let has_changed = match follow {
            true => state.here.len() < MAX_FOLLOWED && state.here.insert(name.clone()),
            false => state.here.remove(name),
        };
        if has_changed {
            // A change and a change back are none.
            if !state.changed.remove(name) {
                state.changed.insert(name.clone());
            }
            self.notify();
        }
        state.here.contains(name)
    }

    /// Has all readers of a channel told, if other nodes follow it.
    fn owe(&self, name: &ChannelName) {
        let mut state = lock(&self.state);
        if state.elsewhere.contains(name) {
            state.owed.insert(name.clone());
        }
    }
}

impl Hub {
    /// Makes this hub that of a node of a cluster, and returns what the nodes tell each other of presence.
    pub fn share_presence(&self) -> Arc<Followed> {
        self.watched.followed.get_or_init(Arc::default).clone()
    }

    /// Other nodes follow the presence of a channel from now on, or no longer. They must be told all readers here.
    pub fn follow_elsewhere(&self, name: &ChannelName, follow: bool) {
        let Some(followed) = self.watched.followed.get() else { return };
        {
            let mut state = lock(&followed.state);
            let _ = if follow { state.elsewhere.insert(name.clone()) } else { state.elsewhere.remove(name) };
            followed.elsewhere.store(state.elsewhere.len(), Relaxed);
            if follow {
                state.owed.insert(name.clone());
            }
        }
        followed.notify();
        let Some(channel) = self.channel(name) else { return };
        let mut readers = lock(&channel.readers);
        if follow {
            self.watch_for_others(&channel, &mut readers);
        } else if let Some(mut watch) = readers.watch.take() {
            watch.follow_elsewhere(false);
            self.keep_watch(&channel, &mut readers, watch);
        }
    }

    fn channel(&self, name: &ChannelName) -> Option<Arc<Channel>> {
        lock(self.channels.shard(name.as_str())).get(name).cloned()
    }

    /// Watches a channel, which is locked, if other nodes follow it and it has readers.
    pub(super) fn watch_for_others(&self, channel: &Arc<Channel>, readers: &mut Readers) {
        let Some(followed) = self.watched.followed.get() else { return };
        if followed.elsewhere.load(Relaxed) == 0 || readers.connections.is_empty() || readers.gone {
            return;
        }
        {
            let mut state = lock(&followed.state);
            if !state.elsewhere.contains(&channel.name) {
                return;
            }
            state.owed.insert(channel.name.clone());
        }
        let watch = readers.watch.take();
        let mut watch =
            watch.unwrap_or_else(|| Box::new(Watch::of(readers.connections.iter(), Instant::now())));
        watch.follow_elsewhere(true);
        self.keep_watch(channel, readers, watch);
    }

    /// Keeps a channel's watch if it is needed, and notes whether the channel is followed here. The channel is locked.
    pub(super) fn keep_watch(&self, channel: &Arc<Channel>, readers: &mut Readers, mut watch: Box<Watch>) {
        let name = &channel.name;
        let is_read = !readers.connections.is_empty();
        let is_kept = is_read && watch.is_followed();
        if let Some(followed) = self.watched.followed.get() {
            let follow = is_read && watch.is_followed_here();
            if follow != watch.noted.followed {
                watch.noted.followed = followed.follow_here(name, follow);
            }
            if !is_read {
                // The watch ends with the last reader, and the other nodes are told that there is none.
                followed.owe(name);
            }
        }
        if is_kept != watch.noted.listed {
            watch.noted.listed = is_kept;
            self.watched.change(|channels| {
                let _ = if is_kept {
                    channels.insert(name.clone(), channel.clone())
                } else {
                    channels.remove(name)
                };
            });
        }
        if is_kept {
            readers.watch = Some(watch);
        }
    }

    /// Takes all readers of a channel here, to tell other nodes.
    pub fn take_presence(&self, name: &ChannelName) -> Told {
        let none = Told { whole: true, more: false, subjects: Vec::new(), anonymous: 0 };
        let Some(channel) = self.channel(name) else { return none };
        let mut readers = lock(&channel.readers);
        readers.watch.as_mut().map_or(none, |watch| watch.take_whole())
    }

    /// Takes what has changed in the channels that other nodes follow.
    pub fn take_presence_changes(&self) -> Vec<(ChannelName, Told)> {
        let take = |channel: Arc<Channel>| {
            let told = lock(&channel.readers).watch.as_mut()?.take_changes()?;
            Some((channel.name.clone(), told))
        };
        self.watched.list().into_iter().filter_map(take).collect()
    }

    /// Takes what another node tells of a channel. Answers the connections that wait for it.
    pub fn hear_presence(
        &self,
        node: &str,
        name: &str,
        told: &Told,
        peers: &[Peer],
        flush_list: &mut FlushList,
    ) {
        let Some(followed) = self.watched.followed.get() else { return };
        let Some(channel) = self.watched.get(name) else { return };
        let mut readers = lock(&channel.readers);
        if let Some(watch) = &mut readers.watch {
            self.watched.changes.fetch_add(1, Relaxed);
            let now = Instant::now();
            watch.hear(node, told, &followed.room, now);
            watch.answer_waiting(name, now, peers, flush_list);
        }
    }

    /// Answers a connection that has asked for presence and waits, before it leaves channels or may see less.
    pub fn answer_presence_now(
        &self,
        connection: &Arc<Connection>,
        peers: &[Peer],
        flush_list: &mut FlushList,
    ) {
        if self.watched.is_empty() {
            return;
        }
        for channel in lock(&connection.memberships).channels() {
            if let Some(watch) = &mut lock(&channel.readers).watch {
                watch.answer_now(channel.name.as_str(), connection, peers, flush_list);
            }
        }
    }

    /// Nothing is known for sure of what one other node has told, or any.
    pub fn doubt_presence(&self, node: Option<&str>) {
        for channel in self.watched.list() {
            if let Some(watch) = &mut lock(&channel.readers).watch {
                watch.doubt(node);
            }
        }
    }
}
