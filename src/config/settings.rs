//! The checked settings that the rest of Philote uses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::cluster::ClusterSettings;
use super::public_keys::KeyFile;
use super::secret::Secrets;
use super::tls::TlsSettings;
use super::value_types::{AllowedOrigin, Drain, Listen, TrustedProxies};

/// All settings, each within its documented range.
///
/// `Debug` shows no secret because [`Secret`](super::Secret) redacts itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Development mode (`--dev`): loopback only, with a web page at `/`.
    pub dev: bool,
    /// The listeners (`listen`). A change needs a restart.
    pub listen: Listen,
    /// The most connections at a time (`max_connections`). The limit of file descriptors may lower it.
    pub max_connections: usize,
    /// The verification of tokens (`[auth]`).
    pub auth: AuthSettings,
    /// WebSocket connections (`[websocket]`).
    pub websocket: WebSocketSettings,
    /// HTTP connections (`[http]`).
    pub http: HttpSettings,
    /// The limits of one client and of all clients together (`[limits]`).
    pub limits: LimitSettings,
    /// The last messages that channels keep (`[history]`).
    pub history: HistorySettings,
    /// Who reads a channel, for clients that may see it (`[presence]`).
    pub presence: PresenceSettings,
    /// The certificate of the listeners that speak TLS (`[tls]`).
    pub tls: Option<TlsSettings>,
    /// The cluster (`[cluster]`). `None` if this server is alone. A change needs a restart.
    pub cluster: Option<ClusterSettings>,
    /// The admin socket (`[admin]`).
    pub admin: AdminSettings,
    /// The metrics for Prometheus (`[metrics]`).
    pub metrics: MetricsSettings,
    /// The log (`[log]`).
    pub log: LogSettings,
    /// The stop of the daemon (`[shutdown]`).
    pub shutdown: ShutdownSettings,
}

/// The verification of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthSettings {
    /// The HMAC keys. The first signs, and all verify.
    pub secrets: Secrets,
    /// The PEM files of public keys, with their keys.
    pub public_keys: Vec<KeyFile>,
    /// The JSON Web Key Set, with its keys.
    pub jwks_file: Option<KeyFile>,
    /// Whether the secret may be empty.
    pub allow_empty_secret: bool,
    /// The clock skew allowed for `exp` and `nbf`; at most five minutes.
    pub leeway: Duration,
    /// Whether a token without `exp` is refused.
    pub require_expiry: bool,
    /// The `iss` that a token must have, if set.
    pub issuer: Option<String>,
    /// The `aud` that a token must have, if set.
    pub audience: Option<String>,
}

/// WebSocket connections.
#[derive(Clone, Debug, PartialEq)]
pub struct WebSocketSettings {
    /// Bytes of read buffer that a connection may keep between messages.
    pub read_buffer_size: usize,
    /// Bytes of write buffer that a connection may keep between messages.
    pub write_buffer_size: usize,
    /// The largest message accepted from a client, in bytes.
    pub max_message_size: usize,
    /// Whether the `Origin` of a browser must match the host that it connects to, or one of `allowed_origins`.
    pub check_origin: bool,
    /// Origins of other hosts whose pages may connect.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// The time from accepting a connection to its upgrade, or to its token in the first frame.
    pub handshake_timeout: Duration,
    /// The time without data from a client after which it gets a ping.
    pub ping_interval: Duration,
    /// The time that the client then has to send data, counted from when the ping was written.
    pub pong_timeout: Duration,
    /// Whether readers see the publisher's `sub`.
    pub show_subject: bool,
    /// The length from which a message is compressed for clients that offer it, in bytes. `None` if compression is off: then
    /// it is not negotiated.
    pub compression: Option<usize>,
}

/// HTTP connections: the API, health checks, and upgrades to WebSocket.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpSettings {
    /// The time that an idle connection stays open for the next request.
    pub keep_alive_timeout: Duration,
}

/// The limits of one client and of all clients together.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitSettings {
    /// Messages that may be queued for one connection.
    pub queue_messages: usize,
    /// Bytes that may be queued for one connection; at least `max_message_size`.
    pub queue_bytes: usize,
    /// Bytes that may be queued for all connections together. The default is a quarter of the available memory.
    pub total_queue_bytes: usize,
    /// Channels in each of `read` and `write` of a token.
    pub channels_per_token: usize,
    /// The longest channel name, in bytes.
    pub channel_name_bytes: usize,
    /// Connections from one IPv4 address or one IPv6 /64. 0 means no limit, as in the four that follow.
    pub connections_per_address: usize,
    /// Connections whose tokens have the same `sub`.
    pub connections_per_subject: usize,
    /// Handshakes per second from one IPv4 address or one IPv6 /64.
    pub handshakes_per_second: usize,
    /// Messages per second from one connection, including pings and pongs.
    pub messages_per_second: usize,
    /// Bytes of messages per second from one connection.
    pub bytes_per_second: usize,
    /// The proxies whose `X-Forwarded-For` and `Forwarded` headers are trusted.
    pub trusted_proxies: TrustedProxies,
}

/// The last messages that channels keep.
#[derive(Clone, Debug, PartialEq)]
pub struct HistorySettings {
    /// Messages per channel; 0 is no history.
    pub messages: usize,
    /// The time after which a message is removed.
    pub ttl: Duration,
    /// Channels that keep other messages, by the beginning of their name. The longest beginning decides.
    pub channels: Vec<ChannelHistory>,
    /// Bytes of messages that all channels keep together.
    pub bytes: usize,
}

impl HistorySettings {
    /// Returns whether any channel has a history.
    pub fn is_on(&self) -> bool {
        self.messages > 0 || self.channels.iter().any(|channel| channel.messages > 0)
    }

    /// Returns the longest time for which a message is kept.
    pub fn longest_ttl(&self) -> Duration {
        let kept = self.channels.iter().filter(|channel| channel.messages > 0);
        let ttls = kept.map(|channel| channel.ttl.unwrap_or(self.ttl));
        ttls.chain((self.messages > 0).then_some(self.ttl)).max().unwrap_or(self.ttl)
    }
}

/// The history of the channels whose names begin so.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelHistory {
    /// The beginning; not empty.
    pub prefix: String,
    /// As in [`HistorySettings`].
    pub messages: usize,
    /// As in [`HistorySettings`], whose value is the default.
    pub ttl: Option<Duration>,
}

/// Who reads a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct PresenceSettings {
    /// How long after its last connection a subject has left.
    pub grace: Duration,
    /// The most subjects of a channel that are named. Of more, only the number is told.
    pub subjects: usize,
}

/// The path of the admin socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdminSocket {
    /// The first of the default paths that can be created.
    #[default]
    Default,
    /// This path.
    At(PathBuf),
    /// No admin socket.
    None,
}

/// The admin socket.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminSettings {
    /// Its path.
    pub socket: AdminSocket,
    /// Its permission bits.
    pub mode: u32,
    /// The path of the socket for observers. `None` for no such socket.
    pub observe_socket: Option<PathBuf>,
    /// Its permission bits.
    pub observe_mode: u32,
    /// The number of closed and rejected connections that the daemon remembers.
    pub closed_ring: usize,
}

/// The metrics for Prometheus.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsSettings {
    /// The address that serves them. Without one, only the admin socket does. A change needs a restart.
    pub listen: Option<SocketAddr>,
}

/// The log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// The lowest level that is logged.
    pub level: LogLevel,
    /// The format of the lines.
    pub format: LogFormat,
}

/// The lowest level that is logged. `fatal` and `panic` of the original are read as [`LogLevel::Error`], at which errors
/// that end the daemon are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything except payloads.
    Trace,
    /// Details for finding faults, including a line for each message.
    Debug,
    /// Connections and the actions of administrators.
    Info,
    /// Conditions that need attention.
    Warning,
    /// Failures.
    Error,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal's format under systemd, else text.
    Auto,
    /// One JSON object per line.
    Json,
}

/// The stop of the daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct ShutdownSettings {
    /// The time over which the closes are spread.
    pub drain: Drain,
}
