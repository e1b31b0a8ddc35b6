//! Who reads a channel on all nodes: a node that follows a channel says so, and the others then tell it their readers, and
//! what changes, once a second. Nobody tells anything of a channel that no node follows.
//!
//! These messages go to the subject of announcements, so that they arrive in order with them, and are sealed like them
//! ([`wire`]). Each node numbers its messages and announces the last number: who has missed one asks for everything again.

#[cfg(any(test, feature = "fuzz"))]
#[allow(clippy::unwrap_used, reason = "a failure is a finding")]
pub(super) mod fuzz;
mod pages;
mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::Client;

use self::pages::Pages;
pub(super) use self::wire::is_presence;
use self::wire::{Body, Part};
use super::Cluster;
use super::link::Reason;
use super::steering::message::MAX_HEADER;
use super::wire::NodeId;
use crate::hub::{FlushList, Followed, Hub, MAX_FOLLOWED, Peer};
use crate::message::ChannelName;
use crate::sync::lock;

/// The most channels that other nodes follow, each counted for each node. Those beyond are not told of, and the followers'
/// answers name this node.
const MAX_FOLLOWED_BY_OTHERS: usize = 65_536;

/// The longest name of a channel, in bytes: the most that `channel_name_bytes` allows.
const MAX_CHANNEL_NAME: usize = 4_096;

/// How often everything is told again at most, however many nodes ask.
const AGAIN: Duration = Duration::from_secs(1);

/// What this node tells the others of presence, and knows of them.
pub(super) struct Presence {
    followed: Arc<Followed>,
    state: Mutex<State>,
    /// The number of the last message that was handed to NATS.
    told: AtomicU64,
}

#[derive(Default)]
struct State {
    others: BTreeMap<NodeId, Other>,
    /// How many other nodes follow each channel.
    followed: HashMap<ChannelName, usize>,
    /// The sum of these numbers.
    pairs: usize,
    /// The nodes of which something was missed.
    missed: BTreeSet<NodeId>,
    /// The number of the last message that was made.
    number: u64,
    /// A second has passed, so that changes are told.
    is_due: bool,
    /// Everything is to be told, because it never was on this link, or a node has missed something.
    again: bool,
    /// When everything was told last.
    told_all: Option<Instant>,
}

/// What is known of another node.
struct Other {
    /// The number of its last message.
    number: u64,
    /// Nothing was missed.
    is_complete: bool,
    follows: HashSet<ChannelName>,
}

impl Default for Other {
    fn default() -> Other {
        Other { number: 0, is_complete: true, follows: HashSet::new() }
    }
}

impl State {
    fn missed(&mut self, id: &NodeId) {
        let other = self.others.entry(id.clone()).or_default();
        other.is_complete = false;
        self.missed.insert(id.clone());
    }

    /// Another node follows these channels, too, or, if `begins`, these and no others.
    fn follow(&mut self, id: &NodeId, names: &[String], begins: bool, hub: &Hub) {
        let names = names.iter().filter_map(|name| ChannelName::new(name, MAX_CHANNEL_NAME).ok());
        let names: HashSet<ChannelName> = names.collect();
        let Some(other) = self.others.get_mut(id) else { return };
        if begins {
            let ended: Vec<ChannelName> = other.follows.difference(&names).cloned().collect();
            self.unfollow(id, ended.iter(), hub);
        }
        for name in names {
            let Some(other) = self.others.get_mut(id) else { return };
            let has_room = other.follows.len() < MAX_FOLLOWED && self.pairs < MAX_FOLLOWED_BY_OTHERS;
            if has_room && other.follows.insert(name.clone()) {
                self.pairs += 1;
                hub.follow_elsewhere(&name, true);
                *self.followed.entry(name).or_default() += 1;
            }
        }
    }

    fn unfollow<'a>(&mut self, id: &NodeId, names: impl Iterator<Item = &'a ChannelName>, hub: &Hub) {
        let Some(other) = self.others.get_mut(id) else { return };
        for name in names.filter(|name| other.follows.remove(*name)) {
            self.pairs -= 1;
            let Some(nodes) = self.followed.get_mut(name) else { continue };
            *nodes -= 1;
            if *nodes == 0 {
                self.followed.remove(name);
                hub.follow_elsewhere(name, false);
            }
        }
    }

    fn forget(&mut self, id: &NodeId, hub: &Hub) {
        let follows = self.others.get_mut(id).map(|other| other.follows.clone()).unwrap_or_default();
        self.unfollow(id, follows.iter(), hub);
        self.others.remove(id);
    }
}

impl Presence {
    pub(super) fn new(hub: &Hub) -> Presence {
        Presence { followed: hub.share_presence(), state: Mutex::default(), told: AtomicU64::new(0) }
    }

    /// Parses a message as one of another node.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn parse(payload: &[u8]) -> bool {
        Body::parse(payload).is_some_and(|(_, body)| body.channels.iter().all(|part| part.told().is_some()))
    }

    /// Returns the number of the last message, for the announcement.
    pub(super) fn told(&self) -> u64 {
        self.told.load(Relaxed)
    }

    /// A link begins. What others have told meanwhile was missed, and they may have missed what was told here.
    pub(super) fn up(&self, hub: &Hub) {
        let mut state = lock(&self.state);
        for other in state.others.values_mut() {
            other.is_complete = other.number == 0;
        }
        state.again = state.number > 0;
        drop(state);
        hub.doubt_presence(None);
        self.followed.notify();
    }

    /// Another node announces the number of its last message.
    pub(super) fn announced(&self, id: &NodeId, told: u64, hub: &Hub) {
        if told == 0 {
            return;
        }
        let mut state = lock(&self.state);
        let other = state.others.entry(id.clone()).or_default();
        if told > other.number || !other.is_complete {
            state.missed(id);
            drop(state);
            hub.doubt_presence(Some(&id.to_string()));
            self.followed.notify();
        }
    }

    /// Hears a message of another node, which is known. Returns `None` for one that is none of this version or comes a second
    /// time.
    pub(super) fn hear(
        &self,
        id: &NodeId,
        node: &str,
        body: &Body,
        hub: &Hub,
        peers: &[Peer],
        flush_list: &mut FlushList,
    ) -> Option<()> {
        {
            let mut state = lock(&self.state);
            let other = state.others.entry(id.clone()).or_default();
            if body.number <= other.number {
                return None;
            }
            let is_next = other.is_complete && body.number == other.number + 1;
            other.number = body.number;
            if !is_next && !body.begins {
                state.missed(id);
                drop(state);
                hub.doubt_presence(Some(&id.to_string()));
                self.followed.notify();
                return Some(());
            }
            other.is_complete = true;
            state.missed.remove(id);
            let ended = body.unfollows.iter().map(|name| ChannelName::checked(name)).collect::<Vec<_>>();
            state.unfollow(id, ended.iter(), hub);
            state.follow(id, &body.follows, body.begins, hub);
            if body.again.iter().any(|again| again == node) {
                state.again = true;
                self.followed.notify();
            }
        }
        let from = id.to_string();
        for part in &body.channels {
            hub.hear_presence(&from, &part.channel, &part.told()?, peers, flush_list);
        }
        Some(())
    }

    /// A second has passed: forgets nodes that are not reachable any more, and has changes told.
    pub(super) fn tick(&self, peers: &[Peer], hub: &Hub) {
        let mut state = lock(&self.state);
        if state.others.is_empty() && state.number == 0 {
            return;
        }
        let is_reachable = |id: &NodeId| {
            let id = id.to_string();
            peers.iter().any(|peer| peer.reachable && *peer.id == *id)
        };
        let gone: Vec<NodeId> = state.others.keys().filter(|id| !is_reachable(id)).cloned().collect();
        for id in gone {
            state.forget(&id, hub);
            state.missed.remove(&id);
        }
        state.is_due = true;
        self.followed.notify();
    }

    /// Takes what is to be told now, in messages of at most `room` bytes. Usually nothing is.
    fn take(&self, hub: &Hub, node: &str, room: usize) -> Vec<Body> {
        let mut state = lock(&self.state);
        let may_tell_all = state.told_all.is_none_or(|at| at.elapsed() >= AGAIN);
        let begins = state.again && may_tell_all;
        let changes = if begins {
            (state.again, state.told_all) = (false, Some(Instant::now()));
            self.followed.take_all()
        } else {
            self.followed.take()
        };
        let is_due = std::mem::take(&mut state.is_due);
        let missed = std::mem::take(&mut state.missed);
        let mut pages = Pages::new(node, room, begins, &mut state.number);
        missed.iter().for_each(|id| pages.ask(id));
        changes.follows.iter().for_each(|name| pages.follow(name, true));
        changes.unfollows.iter().for_each(|name| pages.follow(name, false));
        for name in &changes.owed {
            pages.tell(name, hub.take_presence(name));
        }
        if is_due {
            hub.take_presence_changes().into_iter().for_each(|(name, told)| pages.tell(&name, told));
        }
        pages.end()
    }
}

impl Cluster {
    /// Tells the other nodes of presence until the link ends.
    pub(super) async fn tell_presence(&self, client: Client) -> Reason {
        self.presence.up(&self.hub);
        let room = client.max_payload().saturating_sub(MAX_HEADER);
        let node = self.node.to_string();
        loop {
            self.presence.followed.changed().await;
            for body in self.presence.take(&self.hub, &node, room) {
                let number = body.number;
                if let Err(reason) = self.send_sealed(&client, &body.encode()).await {
                    return reason;
                }
                self.presence.told.store(number, Relaxed);
            }
        }
    }

    /// Hears what another node tells of presence. Returns false if no node of this version can have told it.
    pub(super) async fn hear_presence(&self, payload: &[u8]) -> bool {
        let Some((id, body)) = Body::parse(payload) else { return false };
        let peers = self.peers();
        // One that was not heard yet announces itself within a second, and is then asked.
        let is_known = peers.iter().any(|peer| *peer.id == *id.to_string());
        if id == self.node || !is_known {
            return true;
        }
        let mut flush_list = FlushList::new();
        let heard =
            self.presence.hear(&id, &self.node.to_string(), &body, &self.hub, &peers, &mut flush_list);
        if let Some(mut writing) = self.flusher.flush(&mut flush_list) {
            std::future::poll_fn(|context| writing.poll(context, &self.flusher)).await;
        }
        heard.is_some()
    }

    /// Returns the other nodes, as far as they may tell who reads a channel.
    pub fn peers(&self) -> Vec<Peer> {
        self.nodes.peers()
    }

    /// Does what is to be done each second for the presence on all nodes.
    pub fn tick_presence(&self, peers: &[Peer]) {
        self.presence.tick(peers, &self.hub);
    }
}

impl Part {
    /// Returns what it tells; `None` if no node of this version can have told it.
    fn told(&self) -> Option<crate::hub::Told> {
        let told = self.to_told();
        told.subjects.iter().all(crate::hub::ToldSubject::is_valid).then_some(told)
    }
}

#[cfg(test)]
mod tests;
