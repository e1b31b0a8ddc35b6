//! Events as they happen: one JSON object per line.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ClosedConnection, Timestamp};

/// Selects the events to follow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventQuery {
    /// Whether published messages are included.
    pub messages: bool,
    /// The channel of the messages; `None` for all channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A connection was accepted.
    Connected {
        /// When it happened.
        at: Timestamp,
        /// The connection's id.
        id: Uuid,
        /// The `sub` of its token.
        subject: Option<String>,
        /// The client's address.
        address: std::net::SocketAddr,
    },
    /// A connection was closed or a request rejected; `ending` says which.
    Ended(ClosedConnection),
    /// The configuration was reloaded.
    Reloaded {
        /// When it happened.
        at: Timestamp,
        /// Settings that changed and are in use.
        applied: Vec<String>,
        /// Settings that changed and need a restart.
        needs_restart: Vec<String>,
        /// Why nothing changed, if the reload failed.
        error: Option<String>,
    },
    /// The secrets were changed.
    SecretChanged {
        /// When it happened.
        at: Timestamp,
        /// How many secrets verify tokens now.
        secrets: u64,
    },
    /// A message was published.
    Message {
        /// When it happened.
        at: Timestamp,
        /// The publisher's connection, or the daemon's own id.
        issuer: String,
        /// The publisher's `sub`, if readers receive it.
        subject: Option<String>,
        /// Its channel.
        channel: String,
        /// Its text; `None` for a message without data.
        data: Option<String>,
        /// How many readers it was queued for.
        readers: u64,
    },
    /// The follower was too slow, so that events are missing here.
    Missed {
        /// How many events are missing.
        missed: u64,
    },
    /// An event of a newer daemon that this program does not know.
    #[serde(other)]
    Unknown,
}
