//! What became of a channel's messages on the way to one subject: query and answer.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Timestamp;
use crate::orders::Coverage;

/// The most connections of an answer, the newest.
pub const MAX_READINGS: usize = 1_000;

/// Asks what a subject has got of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// The `sub` of its tokens.
    pub subject: String,
    /// The channel.
    pub channel: String,
    /// The id of one message, `EPOCH-N`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Only connections of this node of a cluster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}

/// What a subject has got of a channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The subject.
    pub subject: String,
    /// The channel.
    pub channel: String,
    /// What the channel keeps now; absent without a history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<KeptHistory>,
    /// Its connections that are open or remembered, oldest first, at most [`MAX_READINGS`].
    pub connections: Vec<Reading>,
    /// How many there are, including those beyond the limit.
    pub matched: u64,
    /// The start of the daemon, in a cluster of the node that started last. Nothing is known of earlier connections.
    pub since: Timestamp,
    /// Whether connections that have ended are all remembered.
    pub complete: bool,
    /// What became of the message, if the query has its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Judged>,
    /// In a cluster, the nodes that this is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Coverage>,
}

/// What a channel keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptHistory {
    /// The id after which all messages are kept.
    pub after: String,
    /// The id of the last message.
    pub last: String,
    /// The id of the last message that was published before the daemon started, or could have been; in a cluster before a node
    /// started again or left.
    pub before_start: String,
}

/// A connection of the subject, and its place in the channel. A connection that left the channel and came back has several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// In an answer of all nodes of a cluster, the name of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The connection's id.
    pub id: Uuid,
    /// The client's address.
    pub address: SocketAddr,
    /// When its token was accepted.
    pub connected_at: Timestamp,
    /// How it ended; absent while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<ClosedReading>,
    /// Whether it reads the channel now.
    pub reads: bool,
    /// How far it has read the channel; absent if it did not, if the channel had no history, and for more than 16 channels of
    /// one connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<ReadPlace>,
}

/// The end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedReading {
    /// When.
    pub at: Timestamp,
    /// The name of the reason.
    pub reason: String,
    /// The close code.
    pub code: u16,
    /// The sentence that the client received.
    pub message: String,
}

/// How far a connection has read a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadPlace {
    /// The id after which it was to get all messages.
    pub after: String,
    /// The id up to which all of them were written to its socket; `null` if that is not known.
    pub up_to: Option<String>,
    /// The last message of the channel while it read it.
    pub last: String,
}

/// What became of one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Its id.
    pub id: String,
    /// The answer.
    pub verdict: MessageOutcome,
    /// The answer as a sentence.
    pub message: String,
}

/// What became of one message on the way to a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageOutcome {
    /// It was written to the socket of a connection. Whether the client has read it is not known.
    Written,
    /// It is queued for an open connection.
    Waiting,
    /// It was written to no connection.
    NotWritten,
    /// Not enough is remembered to tell.
    Unknown,
}
