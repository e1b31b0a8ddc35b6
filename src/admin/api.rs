//! The admin API's vocabulary: every request and answer as JSON, and the routes they travel on.
//!
//! The shapes are stable within `/v1/`: times are RFC 3339 in UTC, sizes are bytes, durations are seconds.

mod events;
mod lists;
mod steering;

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::events::*;
pub use self::lists::*;
pub use self::steering::*;
use crate::access_key::ApiRights;
use crate::moment::{moment, rfc3339};

/// `GET`: [`Status`].
pub const STATUS: &str = "/v1/status";
/// `POST` [`TokenRequest`]: [`IssuedToken`].
pub const TOKEN: &str = "/v1/token";
/// `POST` [`InspectRequest`]: [`Inspection`].
pub const INSPECT: &str = "/v1/inspect";
/// `GET`: [`Secrets`]; `PUT` [`SecretSet`]: [`SecretChanged`].
pub const SECRET: &str = "/v1/secret";
/// `POST`: [`SecretChanged`].
pub const SECRET_ROTATE: &str = "/v1/secret/rotate";
/// `POST` [`ReloadRequest`] or nothing: [`Reloaded`].
pub const RELOAD: &str = "/v1/reload";
/// `GET`: figures in Prometheus's text format.
pub const METRICS: &str = "/v1/metrics";
/// `GET`: [`Ready`].
pub const READY: &str = "/v1/ready";

/// `GET` with [`ConnectionQuery`] in the URL: [`Connections`].
pub const CONNECTIONS: &str = "/v1/connections";
/// `GET` with [`ClosedQuery`] in the URL: [`ClosedConnections`].
pub const CLOSED: &str = "/v1/connections/closed";
/// `GET` with [`ChannelQuery`] in the URL: [`Channels`].
pub const CHANNELS: &str = "/v1/channels";
/// `POST` [`DisconnectRequest`]: [`Disconnected`].
pub const DISCONNECT: &str = "/v1/disconnect";
/// `GET`: [`RefusedSubjects`]; `DELETE` [`LiftRequest`]: [`Lifted`].
pub const REFUSED: &str = "/v1/refused";
/// `POST` [`PublishRequest`]: [`Published`].
pub const PUBLISH: &str = "/v1/publish";
/// `GET` with [`EventQuery`] in the URL: [`Event`]s, one a line, until either side ends it.
pub const EVENTS: &str = "/v1/events";
/// `GET`: [`Levels`]; `PUT` [`LevelRequest`]: [`Levels`].
pub const LOG_LEVEL: &str = "/v1/log-level";

/// How long a token lives when nobody says: long enough to try things for a week, short enough to be forgotten.
pub const DEFAULT_TOKEN_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A moment, to the second; in JSON RFC 3339 in UTC (`2026-11-22T10:45:00Z`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub SystemTime);

impl Timestamp {
    /// The moment that lies `seconds` after 1970, at most the end of the year 9999.
    #[must_use]
    pub fn from_unix(seconds: u64) -> Self {
        Self(moment(seconds))
    }

    /// Now, by the wall clock.
    #[must_use]
    pub fn now() -> Self {
        Self(SystemTime::now())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        rfc3339(self.0).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map(Self).map_err(de::Error::custom)
    }
}

/// A secret or a token: travels in JSON as it is, and shows as `[hidden]` wherever it is debugged by mistake.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// What the daemon is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not yet listening.
    Starting,
    /// Accepts clients.
    Serving,
    /// Says goodbye to its clients and takes no new ones.
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

/// How the daemon is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon, such as `1.0.0`.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// What it is about.
    pub state: State,
    /// When a drain in progress closes whoever is left; `None` unless draining.
    pub drain_ends_at: Option<Timestamp>,
    /// When the process started.
    pub started_at: Timestamp,
    /// Seconds since then, by a clock that is never set.
    pub uptime_seconds: u64,
    /// Addresses it accepts clients on, as an operator would write them (`[::]:6380`), and what is special about each
    /// (`[::]:443 (TLS)`, `unix:/run/philote/philote.sock`).
    pub listeners: Vec<String>,
    /// The certificate of the listeners that speak TLS, where `[tls]` is set.
    #[serde(default)]
    pub tls: Option<TlsStatus>,
    /// Where its settings come from (`/etc/philote/philote.toml`); `None` when there is no file.
    pub config_file: Option<PathBuf>,
    /// Open connections.
    pub connections: u64,
    /// The most it takes.
    pub max_connections: u64,
    /// The limit on open files, where that and not the setting `max_connections` bounds them.
    #[serde(default)]
    pub descriptor_limit: Option<u64>,
    /// Channels that somebody reads.
    pub channels: u64,
    /// Connections accepted (answered 101) since the start.
    pub accepted: u64,
    /// Handshakes refused since the start, for any reason.
    pub refused: u64,
    /// Connections closed since the start, for any reason.
    pub closed: u64,
    /// Messages published since the start, by any way.
    pub messages_in: u64,
    /// Messages queued to readers since the start: one message to ten readers is ten.
    pub deliveries: u64,
    /// Messages published a second, over the last few seconds.
    pub messages_in_per_second: f64,
    /// Deliveries a second, over the last few seconds.
    pub deliveries_per_second: f64,
    /// Resident memory of the process, in bytes.
    pub memory_bytes: u64,
    /// What sockets have refused and waits in queues, in bytes.
    pub queued_bytes: u64,
    /// The bound on that, in bytes.
    pub max_queued_bytes: u64,
    /// Where the secret came from, as a phrase (`the environment variable SECRET`, `/var/lib/philote/secret`).
    pub secret_source: String,
    /// How many secrets verify tokens; the first of them signs.
    pub secrets: u64,
    /// Messages, pings and pongs over `[limits] messages_per_second` or `bytes_per_second` since the start.
    #[serde(default)]
    pub rate_limited: u64,
    /// The last reload, if there was one.
    pub last_reload: Option<ReloadReport>,
    /// Log records dropped because the log could not be written fast enough.
    pub log_records_dropped: u64,
}

/// The certificate in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsStatus {
    /// Its file.
    pub certificate: PathBuf,
    /// When it is valid no longer.
    pub expires_at: Timestamp,
    /// Seconds until then; negative when it is past.
    pub expires_in_seconds: i64,
    /// Within 21 days: it should have been renewed by now.
    pub warning: bool,
}

/// How the last reload went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// When it ended.
    pub at: Timestamp,
    /// Whether the settings that were read are in use now.
    pub ok: bool,
    /// Keys that changed and are in use (`limits.queue_bytes`).
    pub applied: Vec<String>,
    /// Keys that changed and wait for a restart.
    pub needs_restart: Vec<String>,
    /// Why it was refused, as a sentence; `None` when `ok`.
    pub error: Option<String>,
}

/// Asks for a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Channels it may read. With `api` they also narrow what the HTTP API shows; with none it shows all.
    #[serde(default)]
    pub read: Vec<String>,
    /// Channels it may write. `None` leaves the claim out, which makes a difference with `api`: such a token may
    /// publish on any channel.
    #[serde(default)]
    pub write: Option<Vec<String>>,
    /// What it opens of the HTTP API: `true`, or an array of rights.
    #[serde(default)]
    pub api: ApiRights,
    /// Who it is for (`sub`).
    #[serde(default)]
    pub subject: Option<String>,
    /// Seconds until it expires: absent is [`DEFAULT_TOKEN_LIFE`], `null` is never.
    #[serde(default = "default_token_life")]
    pub expires_in: Option<u64>,
}

#[expect(clippy::unnecessary_wraps, reason = "the shape serde wants: absent differs from null")]
fn default_token_life() -> Option<u64> {
    Some(DEFAULT_TOKEN_LIFE.as_secs())
}

/// A token, fresh from the press.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// The token.
    pub token: Hidden,
    /// When it expires; `None` is never.
    pub expires_at: Option<Timestamp>,
}

/// Asks what a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectRequest {
    /// The token.
    pub token: Hidden,
}

/// What a token says, and what this daemon would say to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Whether this daemon would accept it now.
    pub accepted: bool,
    /// Why not, in the sentence that a client would get; `None` when accepted.
    pub reason: Option<String>,
    /// The decoded header; `None` where it cannot be decoded.
    pub header: Option<serde_json::Value>,
    /// The decoded claims, believed or not; `None` where they cannot be decoded.
    pub claims: Option<serde_json::Value>,
    /// Which key signed it (`secret, line 1`, `public_keys /path#kid`, `jwks_file /path#kid`); `None` when none did.
    pub signed_by: Option<String>,
    /// When it expires; `None` is never, or not known.
    pub expires_at: Option<Timestamp>,
}

/// The secrets in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// The first signs, all verify.
    pub secrets: Vec<Hidden>,
    /// Where they came from, as in [`Status::secret_source`].
    pub source: String,
}

/// Replaces the secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSet {
    /// One secret a line; the first signs, all verify.
    pub secret: Hidden,
}

/// What a change of the secrets came to. It never carries a secret: who may rotate may not therefore see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretChanged {
    /// The file that was written.
    pub path: PathBuf,
    /// How many secrets verify tokens now.
    pub secrets: u64,
    /// Connections that are being closed because the key of their token is gone.
    pub closing: u64,
}

/// What a reload came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// When it ended.
    pub at: Timestamp,
    /// Keys that changed and are in use now (`limits.queue_bytes`).
    pub applied: Vec<String>,
    /// Keys that changed and wait for a restart.
    pub needs_restart: Vec<String>,
    /// Connections that are being closed because the key of their token is gone.
    pub closing: u64,
    /// Nothing was changed: it is what a reload would come to.
    #[serde(default)]
    pub dry_run: bool,
}

/// The daemon serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Always [`State::Serving`]: all else is a [`Failure`] of [`Code::NotReady`].
    pub state: State,
}

/// Why something was not done, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is not what the route takes (400).
    BadRequest,
    /// The peer may not do this (403).
    Forbidden,
    /// There is no such route (404).
    NotFound,
    /// The route takes another method (405).
    MethodNotAllowed,
    /// The request did not arrive in time (408).
    RequestTimeout,
    /// It cannot be done as things stand, such as replacing a secret that the environment gave (409).
    Conflict,
    /// The request is too large (413).
    TooLarge,
    /// It was tried, found wrong, and nothing changed (422).
    Refused,
    /// The daemon failed (500).
    Internal,
    /// The daemon starts or drains (503).
    NotReady,
    /// A code that a newer daemon knows and this program does not.
    #[serde(other)]
    Unknown,
}

impl Code {
    /// The HTTP status it travels with.
    #[must_use]
    pub fn status(self) -> hyper::StatusCode {
        use hyper::StatusCode;
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Refused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Internal | Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Why something was not done: `{"error": CODE, "message": SENTENCE, "hint": SENTENCE or null}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind, for programs.
    #[serde(rename = "error")]
    pub code: Code,
    /// One sentence for people; never a secret or a token.
    pub message: String,
    /// What to do about it, where that can be said.
    #[serde(default)]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_request_tells_absent_from_never() {
        let read = |text| serde_json::from_str::<TokenRequest>(text).unwrap();
        assert_eq!(read("{}").expires_in, Some(604_800));
        assert_eq!(read(r#"{"expires_in": null}"#).expires_in, None);
        assert_eq!(read(r#"{"expires_in": 60}"#).expires_in, Some(60));
        assert_eq!(read("{}").write, None);
        assert_eq!(read(r#"{"write": []}"#).write, Some(Vec::new()));
        assert!(serde_json::from_str::<TokenRequest>(r#"{"reads": []}"#).is_err(), "a typo is told");
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let time = Timestamp::from_unix(1_795_344_300);
        let text = serde_json::to_string(&time).unwrap();
        assert_eq!(text, r#""2026-11-22T10:45:00Z""#);
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), time);
        assert_eq!(Timestamp::from_unix(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
        let before_1970 = Timestamp(SystemTime::UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(before_1970.to_string(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn secrets_and_tokens_do_not_show_in_debug() {
        let set = SecretSet { secret: Hidden("hunter2".into()) };
        assert_eq!(format!("{set:?}"), "SecretSet { secret: [hidden] }");
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"{"secret":"hunter2"}"#);
    }

    #[test]
    fn an_unknown_code_of_a_newer_daemon_is_still_a_failure() {
        let failure: Failure = serde_json::from_str(r#"{"error": "teapot", "message": "no"}"#).unwrap();
        assert_eq!((failure.code, failure.hint), (Code::Unknown, None));
    }
}
