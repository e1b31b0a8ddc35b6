//! The readers of a channel on other nodes of a cluster, as these tell of them, and what they are told of those here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::super::told::{Missing, Peer, Room, Told, ToldSubject};
use super::{Connection, FlushList, PresenceLimits, Watch};

/// How long an answer waits for the other nodes. A node without problems answers from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How long after an answer the other nodes go on telling of the channel, so that who asks again and again costs them
/// nothing.
const HELD: Duration = Duration::from_secs(10);

/// The part of one channel that concerns other nodes.
#[derive(Default)]
pub(super) struct Elsewhere {
    /// By node.
    parts: HashMap<Box<str>, Part>,
    /// Readers without a subject on other nodes.
    anonymous: usize,
    /// Connections that are answered when all nodes have told their parts.
    waiting: HashMap<Uuid, Waiting>,
    /// Until when the channel counts as followed because of an answer.
    held: Option<Instant>,
    /// The subjects whose numbers here the other nodes do not know yet; `None` if none of them follows the channel.
    changed: Option<HashSet<Arc<str>>>,
    /// The readers without a subject here, as the other nodes know it.
    told_anonymous: usize,
}

/// The readers on one other node.
struct Part {
    subjects: Subjects,
    anonymous: usize,
    /// They are all known, and nothing was missed since.
    is_whole: bool,
    /// The pages of a whole part that are not all there yet.
    pages: Option<Subjects>,
    /// Some subjects are missing, because there was no room.
    is_cut: bool,
}

/// Subjects and their connections, which take room.
struct Subjects {
    counts: HashMap<Arc<str>, usize>,
    room: Room,
}

/// A connection that has asked.
struct Waiting {
    connection: Arc<Connection>,
    follow: Option<bool>,
    limits: PresenceLimits,
    until: Instant,
    /// How often it has asked.
    answers: u32,
}

impl Subjects {
    fn new(room: &Room) -> Subjects {
        Subjects { counts: HashMap::new(), room: room.clone() }
    }

    /// Sets the connections of a subject, and returns those before. Returns `None` if there is no room for it.
    fn set(&mut self, subject: &Arc<str>, connections: usize) -> Option<usize> {
        if connections == 0 {
            let before = self.counts.remove(subject);
            self.room.fetch_add(usize::from(before.is_some()), Relaxed);
            return Some(before.unwrap_or_default());
        }
        if let Some(known) = self.counts.get_mut(subject) {
            return Some(std::mem::replace(known, connections));
        }
        let taken = self.room.fetch_update(Relaxed, Relaxed, |room| room.checked_sub(1));
        taken.ok()?;
        self.counts.insert(subject.clone(), connections);
        Some(0)
    }
}

impl Drop for Subjects {
    fn drop(&mut self) {
        self.room.fetch_add(self.counts.len(), Relaxed);
    }
}

impl Part {
    fn new(room: &Room) -> Part {
        Part { subjects: Subjects::new(room), anonymous: 0, is_whole: false, pages: None, is_cut: false }
    }
}

impl Elsewhere {
    pub(super) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty() || self.held.is_some()
    }

    /// Returns whether other nodes follow the channel.
    pub(super) fn is_followed(&self) -> bool {
        self.changed.is_some()
    }

    pub(super) fn forget(&mut self, connection: &Connection) {
        self.waiting.remove(&connection.id());
    }

    fn is_known(&self, peer: &Peer) -> bool {
        self.parts.get(&peer.id).is_some_and(|part| part.is_whole)
    }

    /// Returns the nodes whose readers are not all known.
    pub(super) fn missing<'a>(&self, peers: &'a [Peer]) -> Missing<'a> {
        let name = |peer: &'a Peer| peer.name();
        let is_cut = |peer: &&Peer| self.parts.get(&peer.id).is_some_and(|part| part.is_cut);
        Missing {
            unanswered: peers.iter().filter(|peer| !self.is_known(peer)).map(name).collect(),
            cut: peers.iter().filter(is_cut).map(name).collect(),
        }
    }
}

/// What this node wants to know of the others.
impl Watch {
    /// Returns the readers without a subject on all nodes.
    pub(super) fn all_anonymous(&self) -> usize {
        self.anonymous + self.elsewhere.anonymous
    }

    /// Returns whether a node that is reachable has not told its readers yet.
    pub(in crate::hub) fn awaits(&self, peers: &[Peer]) -> bool {
        peers.iter().any(|peer| peer.reachable && !self.elsewhere.is_known(peer))
    }

    /// Answers a connection later.
    pub(in crate::hub) fn wait(
        &mut self,
        connection: &Arc<Connection>,
        follow: Option<bool>,
        limits: PresenceLimits,
        now: Instant,
    ) {
        let waiting = self.elsewhere.waiting.entry(connection.id()).or_insert_with(|| Waiting {
            connection: connection.clone(),
            follow: None,
            limits,
            until: now + ANSWER_WITHIN,
            answers: 0,
        });
        waiting.follow = follow.or(waiting.follow);
        waiting.answers += 1;
    }

    /// Has the other nodes tell of the channel for some time.
    pub(in crate::hub) fn hold(&mut self, now: Instant) {
        self.elsewhere.held = Some(now + HELD);
    }

    /// Answers the connections that wait, as far as all nodes have told their readers or are late.
    pub(in crate::hub) fn answer_waiting(
        &mut self,
        channel: &str,
        now: Instant,
        peers: &[Peer],
        flush_list: &mut FlushList,
    ) {
        if self.elsewhere.waiting.is_empty() {
            return;
        }
        let all = !self.awaits(peers);
        let due = self.elsewhere.waiting.extract_if(|_, waiting| all || now >= waiting.until);
        for (_, waiting) in due.collect::<Vec<_>>() {
            self.answer(channel, waiting, peers, flush_list);
        }
    }

    /// Answers a connection that waits with what is known, because it may not see the channel much longer.
    pub(in crate::hub) fn answer_now(
        &mut self,
        channel: &str,
        connection: &Arc<Connection>,
        peers: &[Peer],
        flush_list: &mut FlushList,
    ) {
        if let Some(waiting) = self.elsewhere.waiting.remove(&connection.id()) {
            self.answer(channel, waiting, peers, flush_list);
        }
    }

    fn answer(&mut self, channel: &str, waiting: Waiting, peers: &[Peer], flush_list: &mut FlushList) {
        let Waiting { connection, follow, limits, answers, .. } = waiting;
        let frame = self.look(channel, &connection, follow, limits, peers);
        for _ in 0..answers {
            let _ = flush_list.push(&connection, &frame);
        }
    }

    /// Forgets nodes that are not reachable any more, and that an answer was given, if that was long ago.
    pub(in crate::hub) fn forget_unreachable(&mut self, peers: &[Peer], now: Instant) {
        let is_reachable = |id: &str| peers.iter().any(|peer| peer.reachable && *peer.id == *id);
        let gone: Vec<Box<str>> =
            self.elsewhere.parts.keys().filter(|id| !is_reachable(id)).cloned().collect();
        gone.iter().for_each(|id| self.forget_part(id, now));
        self.elsewhere.held = self.elsewhere.held.filter(|until| now < *until);
    }

    fn forget_part(&mut self, node: &str, now: Instant) {
        let Some(part) = self.elsewhere.parts.remove(node) else { return };
        self.elsewhere.anonymous -= part.anonymous;
        for (subject, connections) in &part.subjects.counts {
            self.go(subject, *connections, now);
        }
    }

    /// Nothing is known for sure of this node, or of any, because something that it told was missed.
    pub(in crate::hub) fn doubt(&mut self, node: Option<&str>) {
        let doubted = |id: &str| node.is_none_or(|node| node == id);
        let parts = self.elsewhere.parts.iter_mut().filter(|(id, _)| doubted(id));
        parts.for_each(|(_, part)| (part.is_whole, part.pages) = (false, None));
    }

    /// Takes what another node tells of its readers.
    pub(in crate::hub) fn hear(&mut self, node: &str, told: &Told, room: &Room, now: Instant) {
        if !self.is_followed_here() {
            return;
        }
        let mut part = self.elsewhere.parts.remove(node).unwrap_or_else(|| Part::new(room));
        if told.whole {
            part.pages = Some(Subjects::new(room));
            part.is_cut = false;
        }
        for ToldSubject { subject, connections, info } in &told.subjects {
            // It is counted before the old part is, so that a subject that stays does not leave in between.
            let counted = match &mut part.pages {
                Some(pages) => pages,
                None => &mut part.subjects,
            };
            let known = self.subjects.get_key_value(&**subject).map(|(known, _)| known.clone());
            let known = known.unwrap_or_else(|| Arc::from(&**subject));
            let Some(before) = counted.set(&known, *connections as usize) else {
                part.is_cut = true;
                continue;
            };
            if *connections > 0 {
                self.come(&known, *connections as usize, info.as_ref(), now);
            }
            if before > 0 {
                self.go(&known, before, now);
            }
        }
        if !told.more {
            if let Some(pages) = part.pages.take() {
                let before = std::mem::replace(&mut part.subjects, pages);
                before.counts.iter().for_each(|(subject, connections)| self.go(subject, *connections, now));
                part.is_whole = true;
            }
            self.elsewhere.anonymous -= part.anonymous;
            part.anonymous = told.anonymous as usize;
            self.elsewhere.anonymous += part.anonymous;
        }
        self.elsewhere.parts.insert(node.into(), part);
    }
}

/// What other nodes want to know of this one.
impl Watch {
    /// Counts a connection of a subject here.
    pub(super) fn count_here(&mut self, subject: &Arc<str>, count: impl FnOnce(usize) -> usize) {
        if let Some(known) = self.subjects.get_mut(subject) {
            known.here = count(known.here);
            if let Some(changed) = &mut self.elsewhere.changed {
                changed.insert(subject.clone());
            }
        }
    }

    /// Other nodes follow the channel from now on, or no longer.
    pub(in crate::hub) fn follow_elsewhere(&mut self, follow: bool) {
        if follow {
            self.elsewhere.changed.get_or_insert_default();
        } else {
            self.elsewhere.changed = None;
        }
    }

    /// Takes what has changed here since the other nodes were told last.
    pub(in crate::hub) fn take_changes(&mut self) -> Option<Told> {
        let changed = std::mem::take(self.elsewhere.changed.as_mut()?);
        if changed.is_empty() && self.anonymous == self.elsewhere.told_anonymous {
            return None;
        }
        self.elsewhere.told_anonymous = self.anonymous;
        let subjects = changed.into_iter().map(|subject| self.told(subject)).collect();
        Some(Told { whole: false, more: false, subjects, anonymous: self.anonymous as u32 })
    }

    /// Takes all readers here.
    pub(in crate::hub) fn take_whole(&mut self) -> Told {
        if let Some(changed) = &mut self.elsewhere.changed {
            changed.clear();
        }
        self.elsewhere.told_anonymous = self.anonymous;
        let here = self.subjects.iter().filter(|(_, known)| known.here > 0);
        let here: Vec<Arc<str>> = here.map(|(subject, _)| subject.clone()).collect();
        let subjects = here.into_iter().map(|subject| self.told(subject)).collect();
        Told { whole: true, more: false, subjects, anonymous: self.anonymous as u32 }
    }

    fn told(&self, subject: Arc<str>) -> ToldSubject {
        let known = self.subjects.get(&subject);
        let connections = known.map_or(0, |known| known.here as u32);
        ToldSubject { connections, info: known.and_then(|known| known.info.clone()), subject }
    }
}
