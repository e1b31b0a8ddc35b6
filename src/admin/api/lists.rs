//! Lists of connections and channels: queries and answers.

use std::net::SocketAddr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Timestamp;
use crate::orders::{Address, Coverage, IdPrefix};
use crate::token::NewMay;

/// The default number of rows of a list.
pub const DEFAULT_ROWS: usize = 100;
/// The most rows of a list, which make about 10 MiB of JSON.
pub const MAX_ROWS: usize = 10_000;
/// The most channel names in each row of a list of connections. The counts beside them include the others.
pub const MAX_NAMES: usize = 16;

/// The order of open connections, greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ConnectionSort {
    /// Opened last.
    #[default]
    Newest,
    /// Opened first.
    Oldest,
    /// Time since the last message from the client.
    Idle,
    /// Bytes in the queue now.
    Queued,
    /// The most messages that were in the queue at once.
    GreatestQueue,
    /// Messages received from it.
    MessagesIn,
    /// Messages sent to it.
    MessagesOut,
    /// Bytes received from it.
    BytesIn,
    /// Bytes sent to it.
    BytesOut,
}

/// Selects the open connections that match all of the given filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionQuery {
    /// The id, or the start of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<IdPrefix>,
    /// A channel that the connection reads or may write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// The `sub` of its token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// The order, which also determines the rows beyond the limit.
    #[serde(default)]
    pub sort: ConnectionSort,
    /// The most rows: [`DEFAULT_ROWS`] if absent, at most [`MAX_ROWS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only those of this node of a cluster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}

/// Open connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// How many connections match, including those beyond the limit.
    pub matched: u64,
    /// The first rows.
    pub connections: Vec<Connection>,
    /// In a cluster, the nodes that these are from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Coverage>,
}

/// An open connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// In a list of all nodes of a cluster, the name of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The connection's id.
    pub id: Uuid,
    /// The `sub` of its token.
    pub subject: Option<String>,
    /// The client's address.
    pub address: SocketAddr,
    /// How it is served: `websocket`, or `events` for Server-Sent Events.
    #[serde(default)]
    pub transport: String,
    /// When its token was accepted.
    pub connected_at: Timestamp,
    /// Seconds since then.
    pub age_seconds: u64,
    /// Seconds since its last message, or since it connected.
    pub idle_seconds: u64,
    /// Messages in its queue now.
    pub queued_messages: u64,
    /// Bytes in its queue now.
    pub queued_bytes: u64,
    /// The most messages that were in its queue at once.
    pub greatest_queue: u64,
    /// Messages received from it.
    pub messages_in: u64,
    /// Messages sent to it.
    pub messages_out: u64,
    /// Bytes received from it.
    pub bytes_in: u64,
    /// Bytes sent to it.
    pub bytes_out: u64,
    /// Channels that it reads, those that it joined included: all if the query has a whole id, otherwise at most
    /// [`MAX_NAMES`].
    pub read: Vec<String>,
    /// How many channels it reads.
    pub read_count: u64,
    /// Those of the channels that it joined itself, with the same limit.
    #[serde(default)]
    pub joined: Vec<String>,
    /// How many channels it joined itself.
    #[serde(default)]
    pub joined_count: u64,
    /// Channels that it may write, with the same limit as `read`.
    pub write: Vec<String>,
    /// How many channels it may write.
    pub write_count: u64,
    /// The claim `may` of its token: patterns of channels that it may join, and of others that it may write.
    #[serde(default)]
    pub may: NewMay,
    /// When its token expires; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// Why it is being closed, if it is.
    pub closing: Option<String>,
    /// Whether it has negotiated permessage-deflate.
    #[serde(default)]
    pub compression: bool,
}

/// The order of closed connections, greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ClosedSort {
    /// Closed last.
    #[default]
    Newest,
    /// Closed first.
    Oldest,
    /// How long the connection was open.
    Duration,
    /// The most messages that were in the queue at once.
    GreatestQueue,
    /// Messages received from it.
    MessagesIn,
    /// Messages sent to it.
    MessagesOut,
    /// Bytes received from it.
    BytesIn,
    /// Bytes sent to it.
    BytesOut,
}

/// Selects the closed connections and rejected requests that match all of the given filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClosedQuery {
    /// The connection's id, or the start of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<IdPrefix>,
    /// The `sub` of its token, even if the token was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// The name of the reason (`slow_consumer`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The order, which also determines the rows beyond the limit.
    #[serde(default)]
    pub sort: ClosedSort,
    /// The most rows: [`DEFAULT_ROWS`] if absent, at most [`MAX_ROWS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only those of this node of a cluster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}

/// Closed connections and rejected requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClosedConnections {
    /// How many of the remembered ones match.
    pub matched: u64,
    /// The first rows.
    pub connections: Vec<ClosedConnection>,
    /// All reasons since the start, whether or not they match.
    pub reasons: Vec<ReasonCount>,
    /// In a cluster, the nodes that these are from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Coverage>,
}

/// How often one reason occurred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// The reason's name.
    pub reason: String,
    /// How often it occurred since the start.
    pub total: u64,
    /// For how many of them the daemon remembers more than the count.
    pub remembered: u64,
}

/// The kind of a [`ClosedConnection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// An open connection was closed.
    Closed,
    /// A request was rejected.
    Refused,
}

/// A closed connection or a rejected request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClosedConnection {
    /// When it was closed or rejected.
    pub at: Timestamp,
    /// Which of the two it is.
    pub ending: Ending,
    /// In a list of all nodes of a cluster, the name of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The connection's id; `None` for a rejected request.
    pub id: Option<Uuid>,
    /// The `sub` of its token.
    pub subject: Option<String>,
    /// Whether the token was valid. If not, `subject` is only a claim.
    pub subject_verified: bool,
    /// The client's address.
    pub address: SocketAddr,
    /// The name of the reason, which is the same in every version.
    pub reason: String,
    /// The WebSocket close code, 1006 without a Close frame, or the HTTP status of a rejection.
    pub code: u16,
    /// The sentence that the client received.
    pub message: String,
    /// How long the connection was open, in seconds.
    pub duration_seconds: f64,
    /// Messages received from it.
    pub messages_in: u64,
    /// Messages queued for it, whether or not they were sent.
    pub messages_out: u64,
    /// Bytes received from it.
    pub bytes_in: u64,
    /// Bytes sent to it.
    pub bytes_out: u64,
    /// The most messages that were in its queue at once.
    pub greatest_queue: u64,
}

/// The order of channels, greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ChannelSort {
    /// Connections that read it.
    #[default]
    Readers,
    /// Messages a second.
    Rate,
    /// Messages since it has had readers.
    Messages,
}

/// Selects channels with at least one reader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelQuery {
    /// The start of the channel's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The order, which also determines the rows beyond the limit.
    #[serde(default)]
    pub sort: ChannelSort,
    /// The most rows: [`DEFAULT_ROWS`] if absent, at most [`MAX_ROWS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only those of this node of a cluster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}

/// Channels with at least one reader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Channels {
    /// How many channels match, including those beyond the limit.
    pub matched: u64,
    /// The first rows.
    pub channels: Vec<Channel>,
    /// In a cluster, the nodes that these are from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Coverage>,
}

/// A channel with at least one reader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Its name.
    pub channel: String,
    /// Connections that read it.
    pub readers: u64,
    /// Connections that may write it.
    pub writers: u64,
    /// Messages since it has had readers.
    pub messages: u64,
    /// Messages per second, averaged over the last few seconds.
    pub messages_per_second: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_survives_a_url() {
        let query = ConnectionQuery {
            channel: Some("a&b c".into()),
            address: Some("[2001:db8::7]:1".parse().unwrap()),
            sort: ConnectionSort::GreatestQueue,
            limit: Some(7),
            ..ConnectionQuery::default()
        };
        let text = serde_urlencoded::to_string(&query).unwrap();
        assert_eq!(text, "channel=a%26b+c&address=%5B2001%3Adb8%3A%3A7%5D%3A1&sort=greatest_queue&limit=7");
        assert_eq!(serde_urlencoded::from_str::<ConnectionQuery>(&text).unwrap(), query);
        assert_eq!(serde_urlencoded::from_str::<ConnectionQuery>("").unwrap(), ConnectionQuery::default());
        assert!(
            serde_urlencoded::from_str::<ConnectionQuery>("chanel=c").is_err(),
            "an unknown parameter is an error"
        );
    }
}
