//! Messages of presence, as JSON:
//!
//! `{"presence":{"node":"web-1@9f3c0a5e00d1b2c4","number":7,"follows":["room:42"],"channels":[{"channel":"hall",
//! "subjects":[["alice",2,{"name":"Alice"}],["bob",0,null]],"anonymous":1}]}}`

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cluster::wire::NodeId;
use crate::hub::{Told, ToldSubject};

/// How each message begins. No announcement does.
const BEGINNING: &[u8] = b"{\"presence\":";

/// A message.
#[derive(Serialize, Deserialize)]
struct Message<B> {
    presence: B,
}

/// What a node tells. What is absent is empty or false.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cluster) struct Body {
    /// `NAME@START`.
    pub(super) node: String,
    /// Its messages of presence so far.
    pub(super) number: u64,
    /// It tells everything: it follows nothing but what this and the next messages say.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) begins: bool,
    /// Channels that it follows from now on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) follows: Vec<String>,
    /// Channels that it follows no longer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) unfollows: Vec<String>,
    /// Nodes, `NAME@START`, that are to tell everything again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) again: Vec<String>,
    /// Its readers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) channels: Vec<Part>,
}

/// The readers of a channel, or of which the number has changed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Part {
    pub(super) channel: String,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) whole: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) more: bool,
    /// Subject, connections, and `info`.
    pub(super) subjects: Vec<(String, u32, Option<Box<RawValue>>)>,
    pub(super) anonymous: u32,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Returns whether a payload is a message of presence.
pub(in crate::cluster) fn is_presence(payload: &[u8]) -> bool {
    payload.starts_with(BEGINNING)
}

impl Body {
    pub(super) fn encode(&self) -> Vec<u8> {
        // It always has a JSON form.
        serde_json::to_vec(&Message { presence: self }).unwrap_or_default()
    }

    /// Parses a message. Returns `None` for one that no node of this version can have sent.
    pub(in crate::cluster) fn parse(payload: &[u8]) -> Option<(NodeId, Body)> {
        let message: Message<Body> = serde_json::from_slice(payload).ok()?;
        Some((NodeId::parse(&message.presence.node)?, message.presence))
    }
}

impl Part {
    pub(super) fn to_told(&self) -> Told {
        let subject = |(subject, connections, info): &(String, u32, Option<Box<RawValue>>)| ToldSubject {
            subject: Arc::from(&**subject),
            connections: *connections,
            info: info.as_ref().map(|info| Arc::from(info.get())),
        };
        let subjects = self.subjects.iter().map(subject).collect();
        Told { whole: self.whole, more: self.more, subjects, anonymous: self.anonymous }
    }
}
