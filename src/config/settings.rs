//! The settings once they are checked: what the rest of Philote runs on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::listen::Listen;
use super::networks::TrustedProxies;
use super::public_keys::KeyFile;
use super::secret::Secrets;
use super::tls::TlsSettings;
use super::web_origin::AllowedOrigin;

/// Everything that can be set, each value within its documented range.
///
/// `Debug` shows no secret: [`Secret`](super::Secret) redacts itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether this is a server for development (`--dev`): on this machine alone, with a page at `/`.
    pub dev: bool,
    /// The addresses to bind (`listen`). Needs a restart.
    pub listen: Listen,
    /// The most connections served at a time (`max_connections`), before the descriptor limit is considered.
    pub max_connections: usize,
    /// How tokens are judged (`[auth]`).
    pub auth: AuthSettings,
    /// The WebSocket connection (`[websocket]`).
    pub websocket: WebSocketSettings,
    /// HTTP (`[http]`).
    pub http: HttpSettings,
    /// What one client, and all of them together, may use (`[limits]`).
    pub limits: LimitSettings,
    /// What channels keep of their last messages (`[history]`).
    pub history: HistorySettings,
    /// The certificate of the listeners that speak TLS (`[tls]`).
    pub tls: Option<TlsSettings>,
    /// The admin socket (`[admin]`).
    pub admin: AdminSettings,
    /// The figures for Prometheus (`[metrics]`).
    pub metrics: MetricsSettings,
    /// The log (`[log]`).
    pub log: LogSettings,
    /// How the daemon stops (`[shutdown]`).
    pub shutdown: ShutdownSettings,
}

/// How tokens are judged.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthSettings {
    /// The HMAC keys: the first signs, all verify.
    pub secrets: Secrets,
    /// PEM files of public keys, read.
    pub public_keys: Vec<KeyFile>,
    /// The JSON Web Key Set, read.
    pub jwks_file: Option<KeyFile>,
    /// Whether an empty secret was asked for; without it, an empty one is refused.
    pub allow_empty_secret: bool,
    /// The clock skew allowed on `exp` and `nbf`; at most five minutes.
    pub leeway: Duration,
    /// Whether a token without `exp` is refused.
    pub require_expiry: bool,
    /// The `iss` that a token must carry, where one is set.
    pub issuer: Option<String>,
    /// The `aud` that a token must carry, where one is set.
    pub audience: Option<String>,
}

/// The WebSocket connection.
#[derive(Clone, Debug, PartialEq)]
pub struct WebSocketSettings {
    /// Bytes of read buffer that a connection may keep between messages.
    pub read_buffer_size: usize,
    /// Bytes of write buffer that a connection may keep between messages.
    pub write_buffer_size: usize,
    /// The largest message taken from a client, in bytes.
    pub max_message_size: usize,
    /// Whether the `Origin` of a browser must be the host it connects to, or one of `allowed_origins`.
    pub check_origin: bool,
    /// The origins of other hosts whose pages may connect.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// From accepting a connection to its upgrade, or to its token in the first frame.
    pub handshake_timeout: Duration,
    /// How long a connection may be silent before it is pinged.
    pub ping_interval: Duration,
    /// How long a pinged connection has for a sign of life, from when the ping was written.
    pub pong_timeout: Duration,
    /// Whether readers see the publisher's `sub`.
    pub show_subject: bool,
}

/// HTTP: the API, health, and what comes before a WebSocket.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpSettings {
    /// How long a connection is kept for the next request.
    pub keep_alive_timeout: Duration,
}

/// What one client, and all of them together, may use.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitSettings {
    /// Messages that may be queued for one connection.
    pub queue_messages: usize,
    /// Bytes that may be queued for one connection; at least one message's worth.
    pub queue_bytes: usize,
    /// Bytes queued for all connections together; a quarter of the memory allowed where it is not set.
    pub total_queue_bytes: usize,
    /// Channels that one token may name in each of `read` and `write`.
    pub channels_per_token: usize,
    /// The longest channel name, in bytes.
    pub channel_name_bytes: usize,
    /// Connections from one IPv4 address or one IPv6 /64; 0 is no limit, as in those that follow.
    pub connections_per_address: usize,
    /// Connections whose tokens have the same `sub`.
    pub connections_per_subject: usize,
    /// Handshakes a second from one IPv4 address or one IPv6 /64.
    pub handshakes_per_second: usize,
    /// Messages a second from one connection, pings and pongs included.
    pub messages_per_second: usize,
    /// Bytes of messages a second from one connection.
    pub bytes_per_second: usize,
    /// Whose `X-Forwarded-For` and `Forwarded` are believed.
    pub trusted_proxies: TrustedProxies,
}

/// What channels keep of their last messages.
#[derive(Clone, Debug, PartialEq)]
pub struct HistorySettings {
    /// Messages of each channel; 0 is off.
    pub messages: usize,
    /// How long a message is kept.
    pub ttl: Duration,
    /// The most that all channels keep together, in bytes.
    pub bytes: usize,
}

/// Where the admin socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdminSocket {
    /// The first of [`admin_socket_places`](super::admin_socket_places) that can be written.
    #[default]
    Usual,
    /// Here.
    At(PathBuf),
    /// Nowhere: nobody administers this daemon while it runs.
    None,
}

/// The admin socket.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminSettings {
    /// Where it is.
    pub socket: AdminSocket,
    /// Its permission bits.
    pub mode: u32,
    /// How many closed and refused connections are remembered.
    pub closed_ring: usize,
}

/// The figures for Prometheus.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsSettings {
    /// Where they are given; nowhere but on the admin socket without it. Needs a restart.
    pub listen: Option<SocketAddr>,
}

/// The log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// The least level that is written.
    pub level: LogLevel,
    /// The form it is written in.
    pub format: LogFormat,
}

/// The least level that is written. `fatal` and `panic` of the original are read as [`LogLevel::Error`]: what
/// ends the daemon is logged as an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything, payloads excepted.
    Trace,
    /// What helps to find a fault, a line for each message included.
    Debug,
    /// Connections and what administrators did.
    Info,
    /// What should be looked at.
    Warning,
    /// What failed.
    Error,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal under systemd, else text.
    Auto,
    /// A JSON object on each line.
    Json,
}

/// How the daemon stops.
#[derive(Clone, Debug, PartialEq)]
pub struct ShutdownSettings {
    /// Over how long the closes are spread.
    pub drain: Drain,
}

/// Over how long the closes of a stop are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// By the number of connections.
    Auto,
    /// This long.
    Fixed(Duration),
}
