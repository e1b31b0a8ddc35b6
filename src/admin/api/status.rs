//! The state of the daemon.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// What the daemon is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not yet listening.
    Starting,
    /// Accepts clients.
    Serving,
    /// Closes its connections and accepts no new ones.
    Draining,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
        })
    }
}

/// The state of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version, such as `1.0.0`.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// What it is doing.
    pub state: State,
    /// When the drain ends and the remaining connections are closed; `None` unless draining.
    pub drain_ends_at: Option<Timestamp>,
    /// When the process started.
    pub started_at: Timestamp,
    /// Seconds since then, by the monotonic clock.
    pub uptime_seconds: u64,
    /// Addresses on which it accepts clients, in the notation of the settings (`[::]:6380`,
    /// `unix:/run/philote/philote.sock`), with special features in parentheses (`[::]:443 (TLS)`).
    pub listeners: Vec<String>,
    /// The certificate of the TLS listeners; `None` without `[tls]`.
    #[serde(default)]
    pub tls: Option<TlsStatus>,
    /// The configuration file (`/etc/philote/philote.toml`); `None` if there is none.
    pub config_file: Option<PathBuf>,
    /// Open connections.
    pub connections: u64,
    /// The most open connections that it accepts.
    pub max_connections: u64,
    /// Where `max_connections` is set: `/etc/philote/philote.toml:3`, `environment variable MAX_CONNECTIONS`, `default`.
    #[serde(default)]
    pub max_connections_source: Option<String>,
    /// The limit on open files, if it is lower than what the setting `max_connections` needs.
    #[serde(default)]
    pub descriptor_limit: Option<u64>,
    /// Channels with at least one reader.
    pub channels: u64,
    /// Connections accepted (answered 101) since the start.
    pub accepted: u64,
    /// Handshakes rejected since the start, for any reason.
    pub refused: u64,
    /// Connections closed since the start, for any reason.
    pub closed: u64,
    /// Messages published since the start, over WebSocket, HTTP or the admin socket.
    pub messages_in: u64,
    /// Messages queued for readers since the start: a message to ten readers counts ten times.
    pub deliveries: u64,
    /// Messages published per second, averaged over the last few seconds.
    pub messages_in_per_second: f64,
    /// Deliveries per second, averaged over the last few seconds.
    pub deliveries_per_second: f64,
    /// Resident memory of the process, in bytes.
    pub memory_bytes: u64,
    /// Bytes that wait in queues because the readers' sockets were full.
    pub queued_bytes: u64,
    /// The limit on `queued_bytes`, in bytes.
    pub max_queued_bytes: u64,
    /// Where the secret came from (`the environment variable SECRET`, `/var/lib/philote/secret`).
    pub secret_source: String,
    /// How many secrets verify tokens; the first one signs them.
    pub secrets: u64,
    /// Messages, pings and pongs that exceeded `[limits] messages_per_second` or `bytes_per_second` since the start.
    #[serde(default)]
    pub rate_limited: u64,
    /// What compression has saved; `None` if it is off.
    #[serde(default)]
    pub compression: Option<CompressionStatus>,
    /// The last reload, if there has been one.
    pub last_reload: Option<ReloadReport>,
    /// Log records dropped because the log was not written fast enough.
    pub log_records_dropped: u64,
    /// The cluster, if this node is in one.
    #[serde(default)]
    pub cluster: Option<ClusterStatus>,
}

/// The cluster, as this node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// This node's name.
    pub node: String,
    /// `relay` without a history, `log` with one.
    pub mode: String,
    /// Whether messages pass between the nodes.
    pub up: bool,
    /// Since when the link to NATS is up or down.
    pub since: Timestamp,
    /// Why it is down.
    pub reason: Option<String>,
    /// How often it has ended since the start.
    pub link_ends: u64,
    /// Seconds that NATS last took to answer.
    pub round_trip_seconds: Option<f64>,
    /// Nodes that were heard lately, with this one.
    pub nodes: u64,
    /// Messages passed on to other nodes since the start.
    pub sent: u64,
    /// Messages of other nodes since the start.
    pub received: u64,
    /// Messages that could not be passed on since the start.
    pub lost: u64,
    /// Messages that the log did not store since the start.
    pub unavailable: u64,
    /// Messages that the log did not confirm since the start, which may have been published or not.
    pub unanswered: u64,
    /// Since when and why the log refuses messages or does not confirm them, if it does.
    #[serde(default)]
    pub refusing: Option<Refusing>,
    /// Mistakes in the settings of the nodes that were seen in the last minute, and what to do.
    #[serde(default)]
    pub mistakes: Vec<String>,
    /// How often since the start the log could not prove that nothing is missing.
    pub gaps: u64,
    /// Messages that wait to be handed to NATS.
    pub waiting: u64,
    /// Messages that were handed to NATS and are not confirmed yet.
    pub in_flight: u64,
    /// What arrived and was dropped since the start, because no node of this version can have sent it.
    pub dropped: u64,
    /// What arrived a second time and was dropped since the start.
    pub repeated: u64,
    /// Readers asked to reconnect since the start, because messages may have been missing.
    pub readers_closed: u64,
}

/// The log of the cluster refuses messages, or does not confirm them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusing {
    /// Since when.
    pub since: Timestamp,
    /// Why it refused the last one, in the words of NATS.
    pub reason: String,
}

/// What compression has saved since the start. Each message counts once, whatever its number of readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressionStatus {
    /// Messages that were compressed.
    pub messages: u64,
    /// Their bytes before that.
    pub bytes_before: u64,
    /// Their bytes after that.
    pub bytes_after: u64,
}

/// The certificate in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsStatus {
    /// The file that contains it.
    pub certificate: PathBuf,
    /// When it expires.
    pub expires_at: Timestamp,
    /// Seconds until it expires; negative after that.
    pub expires_in_seconds: i64,
    /// Whether it expires within 21 days, so that it should have been renewed by now.
    pub warning: bool,
}

/// The result of the last reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// When it ended.
    pub at: Timestamp,
    /// Whether the new settings are in use.
    pub ok: bool,
    /// Settings that changed and are in use (`limits.queue_bytes`).
    pub applied: Vec<String>,
    /// Settings that changed and need a restart.
    pub needs_restart: Vec<String>,
    /// Why it failed, as a sentence; `None` if `ok`.
    pub error: Option<String>,
}

/// The answer of a daemon that serves clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Always [`State::Serving`]: in other states the answer is a failure of [`Code::NotReady`](super::Code::NotReady).
    pub state: State,
}
