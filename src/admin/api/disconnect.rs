//! Closing connections, and banning subjects.

use serde::{Deserialize, Serialize};

use super::Timestamp;
use crate::orders::{Address, Coverage, DisconnectOrder, IdPrefix};

/// A request to close every connection that matches all of the given filters: at least one of `ids`, `channel`,
/// `subject` and `address`, or only `all`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DisconnectRequest {
    /// Ids, or starts of ids that each match one connection.
    pub ids: Vec<IdPrefix>,
    /// A channel that the connections read or may write.
    pub channel: Option<String>,
    /// The `sub` of their tokens.
    pub subject: Option<String>,
    /// The clients' address.
    pub address: Option<Address>,
    /// Every connection.
    pub all: bool,
    /// Only count them.
    pub dry_run: bool,
    /// Close with 1012, which asks clients to reconnect, instead of 4403, which asks them not to.
    pub reconnect: bool,
    /// How long to ban `subject`, in seconds.
    pub refuse_for: Option<u64>,
    /// Only on this node of a cluster. Excludes a ban, which all nodes learn of.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}

impl DisconnectRequest {
    /// Returns the order in this request.
    #[must_use]
    pub fn order(&self) -> DisconnectOrder {
        let Self { ids, channel, subject, address, all, reconnect, refuse_for, dry_run: _, local: _ } =
            self.clone();
        DisconnectOrder { all, ids, channel, subject, address, reconnect, ban_seconds: refuse_for }
    }
}

/// The result of a disconnect request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disconnected {
    /// Connections that are being closed, or that would be.
    pub matched: u64,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// When the ban of the subject ends, if the request contained one.
    pub refused_until: Option<Timestamp>,
    /// In a cluster, the nodes where it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Coverage>,
}

/// A request to lift the ban of a subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiftRequest {
    /// The banned subject (`sub`).
    pub subject: String,
}

/// The result of lifting a ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifted {
    /// 1 if the subject was banned, 0 if not.
    pub matched: u64,
    /// In a cluster, the nodes where it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Coverage>,
}

/// Selects banned subjects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefusedQuery {
    /// Only those that this node of a cluster knows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}

/// The banned subjects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSubjects {
    /// All of them, sorted by name.
    pub refused: Vec<RefusedSubject>,
    /// In a cluster, the nodes that these are from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Coverage>,
}

/// A banned subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSubject {
    /// The `sub` of the rejected tokens.
    pub subject: String,
    /// When the ban ends.
    pub until: Timestamp,
}
