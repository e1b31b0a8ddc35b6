//! Who reads a channel, by subject. It exists only while somebody follows the channel's presence, on this node or on
//! another one of its cluster: [`elsewhere`] counts the readers on other nodes, and tells these of the readers here.

mod elsewhere;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use self::elsewhere::Elsewhere;
use super::told::{Missing, Peer};
use super::{Connection, FlushList};
use crate::frame::Frame;
use crate::message::{PresenceChange, PresenceReply, Present};

/// How presence is told, from `[presence]`.
#[derive(Clone, Copy, Debug)]
pub struct PresenceLimits {
    /// `grace`: how long after its last connection a subject has left.
    pub grace: Duration,
    /// `subjects`: above this number of subjects in a channel only their number is told.
    pub subjects: usize,
}

/// The subjects that read a channel, and the connections that follow them. The channel is locked while it changes.
#[derive(Default)]
pub(super) struct Watch {
    /// The subject as which each reader is counted, because the claims of a connection may change at any time.
    counted: HashMap<Uuid, Option<Arc<str>>>,
    subjects: HashMap<Arc<str>, Subject>,
    /// Readers without a subject on this node.
    anonymous: usize,
    /// How many readers without a subject all followers know of; `None` if they may know of different numbers.
    told_anonymous: Option<usize>,
    followers: HashMap<Uuid, Follower>,
    /// Subjects that the followers are not told of yet, in the order in which they joined.
    joined: Vec<Arc<str>>,
    /// Subjects that have no connection, and have not left yet.
    going: HashSet<Arc<str>>,
    /// What concerns other nodes of a cluster.
    elsewhere: Elsewhere,
    pub(super) noted: Noted,
}

/// What the hub has noted of a watch.
#[derive(Default)]
pub(super) struct Noted {
    /// It is in the list of watched channels.
    pub(super) listed: bool,
    /// The other nodes of a cluster are told that it is followed here.
    pub(super) followed: bool,
}

struct Subject {
    /// Its connections on all nodes.
    connections: usize,
    /// Those on this node.
    here: usize,
    /// When its last connection left.
    gone: Instant,
    info: Option<Arc<str>>,
}

struct Follower {
    connection: Arc<Connection>,
    /// How many of `joined` it knows.
    knows: usize,
    /// It knows the names of the subjects, and not only their number.
    has_names: bool,
}

impl Watch {
    /// Counts the present readers of a channel, all of whom the first follower is told of.
    pub(super) fn of<'a>(readers: impl Iterator<Item = &'a Arc<Connection>>, now: Instant) -> Watch {
        let mut watch = Watch::default();
        readers.for_each(|reader| watch.join(reader, now));
        watch.joined.clear();
        watch.told_anonymous = Some(watch.anonymous);
        watch
    }

    /// Returns the number of followers and of subjects.
    pub(super) fn figures(&self) -> (usize, usize) {
        (self.followers.len(), self.subjects.len())
    }

    pub(super) fn join(&mut self, connection: &Connection, now: Instant) {
        let claims = connection.claims();
        let subject = claims.subject().map(|subject| {
            let subject = self.come(subject, 1, claims.info(), now);
            self.count_here(&subject, |here| here + 1);
            subject
        });
        self.anonymous += usize::from(subject.is_none());
        self.counted.insert(connection.id(), subject);
    }

    /// Counts connections of a subject, here or on another node.
    fn come(&mut self, subject: &str, more: usize, info: Option<&Arc<str>>, now: Instant) -> Arc<str> {
        let known = self.subjects.get_key_value(subject).map(|(subject, _)| subject.clone());
        let subject = known.unwrap_or_else(|| Arc::from(subject));
        let known = self.subjects.entry(subject.clone()).or_insert_with(|| {
            self.joined.push(subject.clone());
            Subject { connections: 0, here: 0, gone: now, info: None }
        });
        if known.connections == 0 {
            self.going.remove(&subject);
        }
        known.connections += more;
        if let Some(info) = info {
            known.info = Some(info.clone());
        }
        subject
    }

    /// Counts connections of a subject no longer.
    fn go(&mut self, subject: &Arc<str>, fewer: usize, now: Instant) {
        if let Some(known) = self.subjects.get_mut(subject) {
            known.connections -= fewer;
            if known.connections == 0 {
                known.gone = now;
                self.going.insert(subject.clone());
            }
        }
    }

    /// A connection has left the channel, and follows no more.
    pub(super) fn part(&mut self, connection: &Connection, now: Instant) {
        self.uncount(connection, now);
        self.unfollow(connection);
    }

    fn uncount(&mut self, connection: &Connection, now: Instant) {
        match self.counted.remove(&connection.id()) {
            Some(Some(subject)) => {
                self.count_here(&subject, |here| here - 1);
                self.go(&subject, 1, now);
            }
            Some(None) => self.anonymous -= 1,
            None => {}
        }
    }

    /// Counts a connection again, whose claims have changed.
    pub(super) fn recount(&mut self, connection: &Connection, now: Instant) {
        if self.counted.contains_key(&connection.id()) {
            self.uncount(connection, now);
            self.join(connection, now);
        }
    }

    pub(super) fn unfollow(&mut self, connection: &Connection) {
        self.followers.remove(&connection.id());
        self.elsewhere.forget(connection);
    }

    /// Returns whether it is needed, by a follower here or by other nodes.
    pub(super) fn is_followed(&self) -> bool {
        self.is_followed_here() || self.elsewhere.is_followed()
    }

    /// Returns whether somebody here wants to know who reads the channel on all nodes.
    pub(super) fn is_followed_here(&self) -> bool {
        !self.followers.is_empty() || self.elsewhere.is_awaited()
    }

    /// Returns who is there, for a connection that then follows, or no longer, or as before. If it follows, it is told of all
    /// changes after this.
    pub(super) fn look(
        &mut self,
        channel: &str,
        connection: &Arc<Connection>,
        follow: Option<bool>,
        limits: PresenceLimits,
        peers: &[Peer],
    ) -> Frame {
        if follow.unwrap_or_else(|| self.followers.contains_key(&connection.id())) {
            let (knows, has_names) = (self.joined.len(), self.subjects.len() <= limits.subjects);
            let follower = Follower { connection: connection.clone(), knows, has_names };
            self.followers.insert(connection.id(), follower);
            if self.told_anonymous != Some(self.all_anonymous()) {
                self.told_anonymous = None;
            }
        } else {
            self.unfollow(connection);
        }
        self.everybody(channel, limits, &self.elsewhere.missing(peers))
    }

    fn everybody(&self, channel: &str, limits: PresenceLimits, missing: &Missing<'_>) -> Frame {
        let names = (self.subjects.len() <= limits.subjects).then(|| {
            let sorted: BTreeMap<&str, &Subject> =
                self.subjects.iter().map(|(name, known)| (&**name, known)).collect();
            sorted.into_iter().map(|(name, known)| present(name, known)).collect::<Vec<_>>()
        });
        let count = self.subjects.len();
        let Missing { unanswered, cut } = missing;
        let anonymous = self.all_anonymous();
        PresenceReply { channel, subjects: names.as_deref(), count, anonymous, unanswered, cut }.encode()
    }

    /// Tells the followers what has changed, each in one frame.
    ///
    /// A subject leaves only here and joins at any time, so what a new follower knows of `joined` is its beginning.
    pub(super) fn tell(
        &mut self,
        channel: &str,
        now: Instant,
        limits: PresenceLimits,
        peers: &[Peer],
        flush_list: &mut FlushList,
    ) {
        let joined = std::mem::take(&mut self.joined);
        // Who joined and is gone already is told of as joined now, and as left the next time.
        let recent: HashSet<&Arc<str>> = joined.iter().collect();
        let has_left = |subject: &&Arc<str>| {
            let known = self.subjects.get(*subject);
            known.is_some_and(|known| now.duration_since(known.gone) >= limits.grace)
                && !recent.contains(*subject)
        };
        let left: Vec<Arc<str>> = self.going.iter().filter(has_left).cloned().collect();
        for subject in &left {
            self.going.remove(subject);
            self.subjects.remove(subject);
        }
        let anonymous = Some(self.all_anonymous());
        let anonymous = if std::mem::replace(&mut self.told_anonymous, anonymous) == anonymous {
            None
        } else {
            anonymous
        };
        if joined.is_empty() && left.is_empty() && anonymous.is_none() {
            return;
        }
        let count = self.subjects.len();
        let are_named = count <= limits.subjects;
        let named = |names: &[Arc<str>]| if are_named { names.to_vec() } else { Vec::new() };
        let (joined, mut left) = (named(&joined), named(&left));
        left.sort_unstable();
        let left: Vec<&str> = left.iter().map(|name| &**name).collect();
        let joined: Vec<Present<'_>> =
            joined.iter().filter_map(|name| Some(present(name, self.subjects.get(name)?))).collect();
        let change = |knows: usize| {
            let joined = joined.get(knows..).unwrap_or_default();
            let is_empty = joined.is_empty() && left.is_empty() && anonymous.is_none();
            (!is_empty).then(|| PresenceChange { channel, joined, left: &left, count, anonymous }.encode())
        };
        let mut changes: HashMap<usize, Option<Frame>> = HashMap::new();
        let mut everybody: Option<Frame> = None;
        for follower in self.followers.values() {
            let frame = if are_named && follower.has_names {
                changes.entry(follower.knows).or_insert_with(|| change(follower.knows)).clone()
            } else {
                let missing = self.elsewhere.missing(peers);
                Some(everybody.get_or_insert_with(|| self.everybody(channel, limits, &missing)).clone())
            };
            if let Some(frame) = frame {
                let _ = flush_list.push(&follower.connection, &frame);
            }
        }
        for follower in self.followers.values_mut() {
            follower.knows = 0;
            follower.has_names = are_named;
        }
    }
}

fn present<'a>(subject: &'a str, known: &'a Subject) -> Present<'a> {
    Present { subject, connections: known.connections, info: known.info.as_deref() }
}
