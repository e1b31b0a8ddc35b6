//! The nodes of the cluster.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// The nodes of the cluster that this one knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterNodes {
    /// This node first, the others by name.
    pub nodes: Vec<ClusterNode>,
    /// Whether orders reach the other nodes, which needs `[cluster] secret_file`.
    pub steering: bool,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterNode {
    /// Its name.
    pub name: String,
    /// Whether it is the node that answers.
    pub this: bool,
    /// The number of its process in hexadecimal, which changes when it starts again.
    pub start: String,
    /// The version of its program.
    pub version: String,
    /// `relay` without a history, `log` with one.
    pub mode: String,
    /// Its connections.
    pub connections: u64,
    /// Messages published on it per second, averaged over the last few seconds.
    pub messages_per_second: f64,
    /// Whether its link to NATS is up; of another node, whether it was heard in the last seconds.
    pub link: Link,
    /// When it was last heard.
    pub last_seen_at: Timestamp,
}

/// The state of a node's link to NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// Messages pass.
    Up,
    /// They do not.
    Down,
}
