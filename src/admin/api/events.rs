//! What happens, as it happens: one JSON object a line.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ClosedConnection, Timestamp};

/// Which events to follow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventQuery {
    /// Also the messages that are published.
    pub messages: bool,
    /// Of the messages only those of this channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A connection was accepted.
    Connected {
        /// When.
        at: Timestamp,
        /// Its name.
        id: Uuid,
        /// The `sub` of its token.
        subject: Option<String>,
        /// Where it comes from, with the port.
        address: std::net::SocketAddr,
    },
    /// A connection was closed or a request refused; its `ending` says which.
    Ended(ClosedConnection),
    /// The settings were read again.
    Reloaded {
        /// When.
        at: Timestamp,
        /// Keys that changed and are in use.
        applied: Vec<String>,
        /// Keys that changed and wait for a restart.
        needs_restart: Vec<String>,
        /// Why all stayed as it was, if it did.
        error: Option<String>,
    },
    /// Other secrets are in use.
    SecretChanged {
        /// When.
        at: Timestamp,
        /// How many verify tokens now.
        secrets: u64,
    },
    /// A message was published.
    Message {
        /// When.
        at: Timestamp,
        /// The publisher's connection, or the daemon's own id.
        issuer: String,
        /// The publisher's `sub`, where readers are shown it.
        subject: Option<String>,
        /// Its channel.
        channel: String,
        /// Its text; `None` for a bare signal.
        data: Option<String>,
        /// Readers that it was queued for.
        readers: u64,
    },
    /// Who follows was too slow, and these were left out here.
    Missed {
        /// How many.
        missed: u64,
    },
    /// An event that a newer daemon knows and this program does not.
    #[serde(other)]
    Unknown,
}
