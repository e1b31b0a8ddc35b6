//! What is alive and what has ended: questions and answers of the lists.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::Timestamp;

/// Rows of a list when nobody says how many.
pub const DEFAULT_ROWS: usize = 100;
/// The most rows of a list: some 10 MiB of JSON.
pub const MAX_ROWS: usize = 10_000;
/// The most names of channels in a row of a list of several connections; the counts beside them tell of more.
pub const MAX_NAMES: usize = 16;

/// The beginning of a connection's id, or all of it, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdPrefix(String);

impl IdPrefix {
    /// Whether this id begins so.
    #[must_use]
    pub fn matches(&self, id: &Uuid) -> bool {
        id.hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]).starts_with(&self.0)
    }

    /// The id, where all of it is there.
    #[must_use]
    pub fn whole(&self) -> Option<Uuid> {
        (self.0.len() == Hyphenated::LENGTH).then(|| self.0.parse().ok()).flatten()
    }
}

impl FromStr for IdPrefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.to_ascii_lowercase();
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        let fits = (1..=Hyphenated::LENGTH).contains(&text.len());
        if digits && fits { Ok(Self(text)) } else { Err("give a connection's id, or how it begins") }
    }
}

impl TryFrom<String> for IdPrefix {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<IdPrefix> for String {
    fn from(prefix: IdPrefix) -> Self {
        prefix.0
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A client's address: with a port one connection, without it all from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// The host.
    pub ip: IpAddr,
    /// The port; any where it is not given.
    pub port: Option<u16>,
}

impl Address {
    /// Whether this is the one, or one of those.
    #[must_use]
    pub fn matches(&self, address: SocketAddr) -> bool {
        self.ip == address.ip() && self.port.is_none_or(|port| port == address.port())
    }
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self { ip: ip.to_canonical(), port: None });
        }
        let whole: SocketAddr =
            text.parse().map_err(|_| "give an address such as 192.0.2.7, 192.0.2.7:51234 or 2001:db8::7")?;
        Ok(Self { ip: whole.ip().to_canonical(), port: Some(whole.port()) })
    }
}

impl TryFrom<String> for Address {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// By what open connections are sorted, the greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ConnectionSort {
    /// Who came last.
    #[default]
    Newest,
    /// Who came first.
    Oldest,
    /// Whose last message is longest ago.
    Idle,
    /// Bytes that wait now.
    Queued,
    /// The most messages that ever waited.
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

/// Which open connections: those for which all that is given holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionQuery {
    /// Its id, or how it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<IdPrefix>,
    /// A channel that it reads or may write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// The `sub` of its token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Where it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// The order; which rows are left out follows from it.
    #[serde(default)]
    pub sort: ConnectionSort,
    /// The most rows, [`DEFAULT_ROWS`] when absent, [`MAX_ROWS`] at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Open connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// How many are asked for, those left out by the limit included.
    pub matched: u64,
    /// The first of them.
    pub connections: Vec<Connection>,
}

/// An open connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// Its name.
    pub id: Uuid,
    /// The `sub` of its token.
    pub subject: Option<String>,
    /// Where it comes from, with the port.
    pub address: SocketAddr,
    /// When it showed its token.
    pub connected_at: Timestamp,
    /// Seconds since then.
    pub age_seconds: u64,
    /// Seconds since its last message came in, or since it connected.
    pub idle_seconds: u64,
    /// Messages that wait for it now.
    pub queued_messages: u64,
    /// Bytes that wait for it now.
    pub queued_bytes: u64,
    /// The most messages that ever waited for it.
    pub greatest_queue: u64,
    /// Messages received from it.
    pub messages_in: u64,
    /// Messages sent to it.
    pub messages_out: u64,
    /// Bytes received from it.
    pub bytes_in: u64,
    /// Bytes sent to it.
    pub bytes_out: u64,
    /// Channels that it reads: all when one connection was asked for by its whole id, else [`MAX_NAMES`] at most.
    pub read: Vec<String>,
    /// How many channels it reads.
    pub read_count: u64,
    /// Channels that it may write, as many as of `read`.
    pub write: Vec<String>,
    /// How many channels it may write.
    pub write_count: u64,
    /// When its token expires; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// Why it is being closed, if it is.
    pub closing: Option<String>,
}

/// By what ended connections are sorted, the greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ClosedSort {
    /// What ended last.
    #[default]
    Newest,
    /// What ended first.
    Oldest,
    /// How long it was open.
    Duration,
    /// The most messages that ever waited.
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

/// Which of the closed connections and refused requests: those for which all that is given holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClosedQuery {
    /// The connection's id, or how it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<IdPrefix>,
    /// The `sub` of its token, also where that was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Where it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// Why, by its name (`slow_consumer`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The order; which rows are left out follows from it.
    #[serde(default)]
    pub sort: ClosedSort,
    /// The most rows, [`DEFAULT_ROWS`] when absent, [`MAX_ROWS`] at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Connections that have ended and requests that were refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClosedConnections {
    /// How many of those that are remembered are asked for.
    pub matched: u64,
    /// The first of them.
    pub connections: Vec<ClosedConnection>,
    /// All reasons that there were since the start, the ones not asked for included.
    pub reasons: Vec<ReasonCount>,
}

/// How often something ended for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// Its name.
    pub reason: String,
    /// How often since the start.
    pub total: u64,
    /// How many of these are remembered; the rest is counted only.
    pub remembered: u64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// A connection that was open was closed.
    Closed,
    /// A request was refused.
    Refused,
}

/// A connection that has ended, or a request that was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClosedConnection {
    /// When.
    pub at: Timestamp,
    /// Which of the two.
    pub ending: Ending,
    /// The connection's name; none for what was refused.
    pub id: Option<Uuid>,
    /// The `sub` of its token.
    pub subject: Option<String>,
    /// Whether the token was good: otherwise `subject` is what somebody claims.
    pub subject_verified: bool,
    /// Where it came from, with the port.
    pub address: SocketAddr,
    /// Why, by a stable name.
    pub reason: String,
    /// The WebSocket close code, 1006 for none, or the HTTP status of a refusal.
    pub code: u16,
    /// The sentence that the client got.
    pub message: String,
    /// How long it was open, in seconds.
    pub duration_seconds: f64,
    /// Messages received from it.
    pub messages_in: u64,
    /// Messages queued for it, sent or not.
    pub messages_out: u64,
    /// Bytes received from it.
    pub bytes_in: u64,
    /// Bytes sent to it.
    pub bytes_out: u64,
    /// The most messages that ever waited for it.
    pub greatest_queue: u64,
}

/// By what channels are sorted, the greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ChannelSort {
    /// Connections that read it.
    #[default]
    Readers,
    /// Messages a second.
    Rate,
    /// Messages since somebody began to read it.
    Messages,
}

/// Which channels, of those that somebody reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelQuery {
    /// Only those whose name begins so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The order; which rows are left out follows from it.
    #[serde(default)]
    pub sort: ChannelSort,
    /// The most rows, [`DEFAULT_ROWS`] when absent, [`MAX_ROWS`] at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Channels that somebody reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Channels {
    /// How many are asked for.
    pub matched: u64,
    /// The first of them.
    pub channels: Vec<Channel>,
}

/// A channel that somebody reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Its name.
    pub channel: String,
    /// Connections that read it.
    pub readers: u64,
    /// Connections that may write it.
    pub writers: u64,
    /// Messages since somebody began to read it.
    pub messages: u64,
    /// Messages a second, over the last few seconds.
    pub messages_per_second: f64,
}

/// Subjects that are kept out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSubjects {
    /// All of them, by name.
    pub refused: Vec<RefusedSubject>,
}

/// A subject that is kept out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSubject {
    /// The `sub` of tokens that are refused.
    pub subject: String,
    /// From when on they are taken again.
    pub until: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_be_cut_short() {
        let id: Uuid = "5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a".parse().unwrap();
        let prefix = |text: &str| text.parse::<IdPrefix>().unwrap();
        assert!(prefix("5F0c6b0e-6").matches(&id) && !prefix("5f0d").matches(&id));
        assert_eq!((prefix(&id.to_string()).whole(), prefix("5f0c6b0e").whole()), (Some(id), None));
        for bad in ["", "chat", "5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a0"] {
            assert!(bad.parse::<IdPrefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_is_a_host_or_a_connection() {
        let address = |text: &str| text.parse::<Address>().unwrap();
        let peer: SocketAddr = "192.0.2.7:51234".parse().unwrap();
        for text in ["192.0.2.7", "192.0.2.7:51234", "::ffff:192.0.2.7", "[::ffff:192.0.2.7]:51234"] {
            assert!(address(text).matches(peer), "{text}");
        }
        for text in ["192.0.2.8", "192.0.2.7:51235", "2001:db8::7"] {
            assert!(!address(text).matches(peer), "{text}");
        }
        assert!("localhost".parse::<Address>().is_err());
    }

    #[test]
    fn queries_travel_in_urls() {
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
        assert!(serde_urlencoded::from_str::<ConnectionQuery>("chanel=c").is_err(), "a typo is told");
    }
}
