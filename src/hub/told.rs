//! What nodes of a cluster tell each other of the readers of a channel, as the hub takes and gives it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::token::{MAX_INFO_BYTES, MAX_SUBJECT_BYTES};

/// Room for subjects that other nodes tell, shared by all channels.
pub(super) type Room = Arc<AtomicUsize>;

/// Another node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `NAME@START`.
    pub id: Box<str>,
    /// Whether it was heard lately.
    pub reachable: bool,
}

impl Peer {
    /// Returns its name.
    pub fn name(&self) -> &str {
        self.id.split_once('@').map_or(&self.id, |(name, _)| name)
    }
}

/// The names of nodes whose readers are not all in an answer.
#[derive(Debug, Default)]
pub(super) struct Missing<'a> {
    pub(super) unanswered: Vec<&'a str>,
    pub(super) cut: Vec<&'a str>,
}

/// What a node tells the others of the readers that it has in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// These are all of its subjects, and not only those that have changed.
    pub whole: bool,
    /// More of them follow.
    pub more: bool,
    /// Subjects with the number of their connections on that node.
    pub subjects: Vec<ToldSubject>,
    /// Its readers without a subject.
    pub anonymous: u32,
}

/// A subject that reads a channel on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldSubject {
    /// The `sub` of its tokens.
    pub subject: Arc<str>,
    /// Its connections that read the channel there.
    pub connections: u32,
    /// The claim `info` of its token, as JSON text.
    pub info: Option<Arc<str>>,
}

impl ToldSubject {
    /// Returns whether a node can have told it. `info` must be the text of a JSON value.
    pub fn is_valid(&self) -> bool {
        let is_info = |info: &Arc<str>| info.len() <= MAX_INFO_BYTES && info.starts_with('{');
        self.subject.len() <= MAX_SUBJECT_BYTES && self.info.as_ref().is_none_or(is_info)
    }
}
