//! What an administrator does to what is alive: disconnects, refuses, publishes, changes the log.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{Address, IdPrefix, Timestamp};

/// Disconnects the connections for which all that is given holds: at least one of `ids`, `channel`, `subject`,
/// `address`, or `all` alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DisconnectRequest {
    /// Their ids, or how they begin: one connection each.
    pub ids: Vec<IdPrefix>,
    /// A channel that they read or may write.
    pub channel: Option<String>,
    /// The `sub` of their tokens.
    pub subject: Option<String>,
    /// Where they come from.
    pub address: Option<Address>,
    /// Everybody.
    pub all: bool,
    /// Only count them.
    pub dry_run: bool,
    /// Ask them to come back (1012) instead of telling them to stay away (4403).
    pub reconnect: bool,
    /// Seconds for which `subject` is kept out.
    pub refuse_for: Option<u64>,
}

/// What a disconnect came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disconnected {
    /// Connections that are being closed, or that would be.
    pub matched: u64,
    /// Nothing was done.
    pub dry_run: bool,
    /// Until when the subject is kept out, where that was asked for.
    pub refused_until: Option<Timestamp>,
}

/// Lets a subject in again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiftRequest {
    /// The `sub` of the tokens that were refused.
    pub subject: String,
}

/// What lifting a refusal came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifted {
    /// Whether the subject had been refused: 1 or 0.
    pub matched: u64,
}

/// Publishes messages, in order: all, or none if one of them is bad.
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
    /// Its text; absent or null for a bare signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

/// What became of published messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// One for each message, in order.
    pub published: Vec<PublishedMessage>,
}

/// What became of one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedMessage {
    /// Its channel.
    pub channel: String,
    /// Readers that it was queued for.
    pub readers: u64,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Everything, payloads excepted.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// Connections and what administrators did.
    Info,
    /// What should be looked at.
    Warning,
    /// What failed.
    Error,
}

/// Changes how much is logged, until the next restart or until a reload finds another level in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelRequest {
    /// The least that is logged.
    pub level: Level,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// The least that is logged now.
    pub level: Level,
    /// What the settings say.
    pub configured: Level,
}

/// Asks for a reload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReloadRequest {
    /// Only say what it would come to.
    pub dry_run: bool,
}
