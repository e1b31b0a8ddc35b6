//! Publishing messages.

use serde::{Deserialize, Serialize};

/// A request to publish messages in order: all of them, or none if one is invalid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// The messages.
    pub messages: Vec<Message>,
}

/// A message to publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Its channel.
    pub channel: String,
    /// Its text; absent or null for a message without data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

/// The result of a publish request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// One entry for each message, in order.
    pub published: Vec<PublishedMessage>,
}

/// The result for one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedMessage {
    /// Its channel.
    pub channel: String,
    /// How many readers it was queued for; `None` in a cluster, where only those on this node are known.
    pub readers: Option<u64>,
    /// How many readers on this node it was queued for, in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readers_here: Option<u64>,
    /// Its id, if the log of a cluster has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}
