//! The table of keys: the file, the environment, `--set`, `--print-config`, reload and the manual all follow it.

use std::path::Path;
use std::time::Duration;

use super::cluster::{ClusterSettings, ClusterStorage};
use super::defaults::CLUSTER;
use super::error::ProblemKind;
use super::secret::{SecretSource, Secrets};
use super::settings::{AdminSocket, LogFormat, LogLevel, Settings};
use super::tls::{CERTIFICATE, KEY};
use super::unresolved::Unresolved;
use super::value_types::{
    ChannelHistories, Choice, DrainPeriod, Flag, GIB, JwksFile, KIB, MESSAGES, MIB, Mode, NatsServers,
    NodeName, Number, OptionalAddress, OptionalPath, OptionalSecretFile, OptionalText, Period, Proxies,
    PublicKeyFiles, Raw, Size, SizeOrOff, SubjectPrefix, TIB, TTL, ValueType, WebOrigins, quoted,
    read_listen, seconds, show_listen, socket_path,
};

/// The value of `admin.socket` for no admin socket.
const NO_ADMIN_SOCKET: &str = "none";

/// Whether a reload applies a changed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The reload applies it.
    Live,
    /// Only a restart applies it.
    Restart,
}

/// One key of the configuration file.
pub struct Key {
    path: &'static str,
    short: Option<&'static str>,
    reload: Reload,
    store: fn(&mut Unresolved, &Raw, &Path) -> Result<(), ProblemKind>,
    show: fn(&Settings) -> Option<String>,
    same: fn(&Settings, &Settings) -> bool,
    keep: fn(&Settings, &mut Settings),
}

impl Key {
    /// Returns `section.key`, or `key` for a key at the top of the file. A section may have a dot, as `cluster.tls`.
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// Returns the section; empty for a key at the top of the file.
    pub fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// Returns the name within the section.
    pub fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }

    /// Returns the environment variable that every key has, `PHILOTE_SECTION_KEY`.
    pub fn variable(&self) -> String {
        variable(self.path)
    }

    /// Returns the environment variable that the original used. It overrides the other. `PORT`, of the key `listen`,
    /// sets the port alone.
    pub fn short_variable(&self) -> Option<&'static str> {
        self.short
    }

    /// Returns whether a reload applies a changed value.
    pub fn reload(&self) -> Reload {
        self.reload
    }

    /// Returns the value as the file would write it; `None` if it is not set, and for the secret.
    pub fn show(&self, settings: &Settings) -> Option<String> {
        (self.show)(settings)
    }

    /// Returns whether both settings have the same value.
    pub(super) fn same(&self, a: &Settings, b: &Settings) -> bool {
        (self.same)(a, b)
    }

    /// Copies the value from one to the other.
    pub(super) fn keep(&self, from: &Settings, to: &mut Settings) {
        (self.keep)(from, to);
    }

    /// Reads, checks and stores a value. Relative paths are relative to `base`.
    pub(super) fn store(&self, to: &mut Unresolved, raw: &Raw, base: &Path) -> Result<(), ProblemKind> {
        (self.store)(to, raw, base)
    }
}

/// The prefix of every variable, except those of the original.
pub(super) const PREFIX: &str = "PHILOTE_";

/// Returns the variable for the path of a key.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.to_ascii_uppercase().replace('.', "_"))
}

/// A key whose value is one field of the settings and does not depend on the layer's directory.
macro_rules! key {
    ($path:literal, $short:expr, $reload:ident, $($field:ident).+, $type:expr) => {
        Key {
            path: $path,
            short: $short,
            reload: Reload::$reload,
            store: |to, raw, _| {
                to.settings.$($field).+ = $type.read(raw)?;
                Ok(())
            },
            show: |settings| $type.show(&settings.$($field).+),
            same: |a, b| a.$($field).+ == b.$($field).+,
            keep: |from, to| to.$($field).+.clone_from(&from.$($field).+),
        }
    };
}

/// A key of `[cluster]`. Without a cluster it has its default. The last arguments are the type, and the directory that
/// its paths are relative to.
macro_rules! cluster_key {
    ($path:literal, $($field:ident).+, |$base:ident| $type:expr) => {
        Key {
            path: $path,
            short: None,
            reload: Reload::Restart,
            store: |to, raw, $base| {
                to.cluster.$($field).+ = $type.read(raw)?;
                Ok(())
            },
            show: |settings| {
                let $base = Path::new("");
                $type.show(&cluster(settings).$($field).+)
            },
            same: |a, b| cluster(a).$($field).+ == cluster(b).$($field).+,
            // As a whole, because there is none without servers.
            keep: |from, to| to.cluster.clone_from(&from.cluster),
        }
    };
    ($path:literal, $($field:ident).+, $type:expr) => {
        cluster_key!($path, $($field).+, |_base| $type)
    };
}

/// Returns the settings of the cluster, or their defaults.
fn cluster(settings: &Settings) -> &ClusterSettings {
    settings.cluster.as_ref().unwrap_or(&CLUSTER)
}

/// A clock that differs by more than this needs repair.
const LONGEST_LEEWAY: Duration = seconds(5 * 60);
/// One second is the resolution of the heartbeat. No middlebox keeps an idle connection for an hour.
const PERIODS: std::ops::RangeInclusive<Duration> = seconds(1)..=seconds(3600);
/// A connection may allocate this much before its client is authenticated.
const LARGEST_MESSAGE: usize = 64 * MIB;

const LEVELS: Choice<LogLevel> = Choice(&[
    ("trace", LogLevel::Trace),
    ("debug", LogLevel::Debug),
    ("info", LogLevel::Info),
    ("warning", LogLevel::Warning),
    ("warn", LogLevel::Warning),
    ("error", LogLevel::Error),
    ("fatal", LogLevel::Error),
    ("panic", LogLevel::Error),
]);
const FORMATS: Choice<LogFormat> = Choice(&[("auto", LogFormat::Auto), ("json", LogFormat::Json)]);

const STORAGES: Choice<ClusterStorage> =
    Choice(&[("file", ClusterStorage::File), ("memory", ClusterStorage::Memory)]);

/// Every key of this version, in the order in which `--print-config` prints them.
pub static KEYS: &[Key] = &[
    Key {
        path: "listen",
        short: Some(PORT),
        reload: Reload::Restart,
        store: |to, raw, _| {
            to.settings.listen = read_listen(raw)?;
            Ok(())
        },
        show: |settings| Some(show_listen(&settings.listen, settings.tls.is_some())),
        same: |a, b| a.listen == b.listen,
        keep: |from, to| to.listen.clone_from(&from.listen),
    },
    key!("max_connections", Some("MAX_CONNECTIONS"), Live, max_connections, Number(1..=10_000_000)),
    Key {
        path: "auth.secret",
        short: Some("SECRET"),
        reload: Reload::Live,
        store: |to, raw, _| {
            to.secret = Some(raw.text("text in quotes")?.to_owned());
            Ok(())
        },
        show: |_| None,
        same: |a, b| same_keys(&a.auth.secrets, &b.auth.secrets),
        keep: |from, to| to.auth.secrets.clone_from(&from.auth.secrets),
    },
    Key {
        path: "auth.secret_file",
        short: None,
        reload: Reload::Live,
        store: |to, raw, base| {
            to.secret_file = OptionalPath(base).read(raw)?;
            Ok(())
        },
        show: |settings| match settings.auth.secrets.source() {
            SecretSource::File(path) => Some(quoted(path.display())),
            _ => None,
        },
        // The secrets that were read from the file are compared as auth.secret.
        same: |_, _| true,
        keep: |_, _| (),
    },
    Key {
        path: "auth.public_keys",
        short: None,
        reload: Reload::Live,
        store: |to, raw, base| {
            to.settings.auth.public_keys = PublicKeyFiles(base).read(raw)?;
            Ok(())
        },
        show: |settings| PublicKeyFiles(Path::new("")).show(&settings.auth.public_keys),
        same: |a, b| a.auth.public_keys == b.auth.public_keys,
        keep: |from, to| to.auth.public_keys.clone_from(&from.auth.public_keys),
    },
    Key {
        path: "auth.jwks_file",
        short: None,
        reload: Reload::Live,
        store: |to, raw, base| {
            to.settings.auth.jwks_file = JwksFile(base).read(raw)?;
            Ok(())
        },
        show: |settings| JwksFile(Path::new("")).show(&settings.auth.jwks_file),
        same: |a, b| a.auth.jwks_file == b.auth.jwks_file,
        keep: |from, to| to.auth.jwks_file.clone_from(&from.auth.jwks_file),
    },
    key!("auth.allow_empty_secret", Some("ALLOW_EMPTY_SECRET"), Live, auth.allow_empty_secret, Flag),
    key!("auth.leeway", None, Live, auth.leeway, Period(Duration::ZERO..=LONGEST_LEEWAY)),
    key!("auth.require_expiry", None, Live, auth.require_expiry, Flag),
    key!("auth.issuer", None, Live, auth.issuer, OptionalText),
    key!("auth.audience", None, Live, auth.audience, OptionalText),
    key!(
        "websocket.read_buffer_size",
        Some("READ_BUFFER_SIZE"),
        Live,
        websocket.read_buffer_size,
        Size(0..=16 * MIB)
    ),
    key!(
        "websocket.write_buffer_size",
        Some("WRITE_BUFFER_SIZE"),
        Live,
        websocket.write_buffer_size,
        Size(0..=16 * MIB)
    ),
    key!("websocket.max_message_size", None, Live, websocket.max_message_size, Size(128..=LARGEST_MESSAGE)),
    key!("websocket.check_origin", Some("CHECK_ORIGIN"), Live, websocket.check_origin, Flag),
    key!("websocket.allowed_origins", None, Live, websocket.allowed_origins, WebOrigins),
    key!(
        "websocket.handshake_timeout",
        None,
        Live,
        websocket.handshake_timeout,
        Period(seconds(1)..=seconds(300))
    ),
    key!("websocket.ping_interval", None, Live, websocket.ping_interval, Period(PERIODS)),
    key!("websocket.pong_timeout", None, Live, websocket.pong_timeout, Period(PERIODS)),
    key!("websocket.show_subject", None, Live, websocket.show_subject, Flag),
    key!("websocket.compression", None, Live, websocket.compression, SizeOrOff(1..=LARGEST_MESSAGE)),
    key!("http.keep_alive_timeout", None, Live, http.keep_alive_timeout, Period(PERIODS)),
    key!("limits.queue_messages", None, Live, limits.queue_messages, Number(1..=10_000_000)),
    key!("limits.queue_bytes", None, Live, limits.queue_bytes, Size(4 * KIB..=GIB)),
    key!("limits.total_queue_bytes", None, Live, limits.total_queue_bytes, Size(MIB..=64 * TIB)),
    key!("limits.channels_per_token", None, Live, limits.channels_per_token, Number(1..=1_000_000)),
    key!("limits.channel_name_bytes", None, Live, limits.channel_name_bytes, Number(1..=4096)),
    key!(
        "limits.connections_per_address",
        None,
        Live,
        limits.connections_per_address,
        Number(0..=10_000_000)
    ),
    key!(
        "limits.connections_per_subject",
        None,
        Live,
        limits.connections_per_subject,
        Number(0..=10_000_000)
    ),
    key!("limits.handshakes_per_second", None, Live, limits.handshakes_per_second, Number(0..=1_000_000)),
    key!("limits.messages_per_second", None, Live, limits.messages_per_second, Number(0..=10_000_000)),
    key!("limits.bytes_per_second", None, Live, limits.bytes_per_second, Size(0..=64 * GIB)),
    key!("limits.trusted_proxies", None, Live, limits.trusted_proxies, Proxies),
    key!("history.messages", None, Live, history.messages, MESSAGES),
    key!("history.ttl", None, Live, history.ttl, TTL),
    key!("history.channels", None, Live, history.channels, ChannelHistories),
    key!("history.bytes", None, Live, history.bytes, Size(64 * KIB..=64 * TIB)),
    key!("presence.grace", None, Live, presence.grace, Period(seconds(0)..=seconds(3600))),
    key!("presence.subjects", None, Live, presence.subjects, Number(0..=10_000)),
    Key {
        path: CERTIFICATE,
        short: None,
        reload: Reload::Live,
        store: |to, raw, base| {
            to.certificate = OptionalPath(base).read(raw)?;
            Ok(())
        },
        show: |settings| settings.tls.as_ref().map(|tls| quoted(tls.certificate.display())),
        same: |a, b| a.tls == b.tls,
        keep: |from, to| to.tls.clone_from(&from.tls),
    },
    Key {
        path: KEY,
        short: None,
        reload: Reload::Live,
        store: |to, raw, base| {
            to.key = OptionalPath(base).read(raw)?;
            Ok(())
        },
        show: |settings| settings.tls.as_ref().map(|tls| quoted(tls.key.display())),
        // Certificate and key are compared as tls.certificate.
        same: |_, _| true,
        keep: |_, _| (),
    },
    cluster_key!("cluster.servers", servers, NatsServers),
    cluster_key!("cluster.subject_prefix", subject_prefix, SubjectPrefix),
    cluster_key!("cluster.name", name, NodeName),
    cluster_key!("cluster.credentials_file", credentials_file, |base| OptionalSecretFile(base)),
    cluster_key!("cluster.user", user, OptionalText),
    cluster_key!("cluster.password_file", password_file, |base| OptionalSecretFile(base)),
    cluster_key!("cluster.secret_file", secret_file, |base| OptionalSecretFile(base)),
    cluster_key!("cluster.storage", storage, STORAGES),
    cluster_key!("cluster.replicas", replicas, Number(1..=5)),
    cluster_key!("cluster.log_bytes", log_bytes, Size(MIB..=64 * TIB)),
    cluster_key!("cluster.patience", patience, Period(Duration::from_millis(100)..=seconds(60))),
    cluster_key!("cluster.required", required, Flag),
    cluster_key!("cluster.tls.ca", tls.ca, |base| OptionalPath(base)),
    cluster_key!("cluster.tls.certificate", tls.certificate, |base| OptionalPath(base)),
    cluster_key!("cluster.tls.key", tls.key, |base| OptionalPath(base)),
    Key {
        path: "admin.socket",
        short: None,
        reload: Reload::Restart,
        store: |to, raw, base| {
            to.settings.admin.socket = match raw {
                Raw::Untyped(text) | Raw::String(text) if text == NO_ADMIN_SOCKET => AdminSocket::None,
                _ => {
                    socket_path(OptionalPath(base).read(raw)?)?.map_or(AdminSocket::Default, AdminSocket::At)
                }
            };
            Ok(())
        },
        show: |settings| match &settings.admin.socket {
            AdminSocket::Default => None,
            AdminSocket::At(path) => Some(quoted(path.display())),
            AdminSocket::None => Some(quoted(NO_ADMIN_SOCKET)),
        },
        same: |a, b| a.admin.socket == b.admin.socket,
        keep: |from, to| to.admin.socket.clone_from(&from.admin.socket),
    },
    key!("admin.mode", None, Restart, admin.mode, Mode),
    Key {
        path: "admin.observe_socket",
        short: None,
        reload: Reload::Restart,
        store: |to, raw, base| {
            to.settings.admin.observe_socket = socket_path(OptionalPath(base).read(raw)?)?;
            Ok(())
        },
        show: |settings| settings.admin.observe_socket.as_ref().map(|path| quoted(path.display())),
        same: |a, b| a.admin.observe_socket == b.admin.observe_socket,
        keep: |from, to| to.admin.observe_socket.clone_from(&from.admin.observe_socket),
    },
    key!("admin.observe_mode", None, Restart, admin.observe_mode, Mode),
    key!("admin.closed_ring", None, Live, admin.closed_ring, Number(0..=1_000_000)),
    key!("metrics.listen", None, Restart, metrics.listen, OptionalAddress),
    key!("log.level", Some("LOGLEVEL"), Live, log.level, LEVELS),
    key!("log.format", None, Restart, log.format, FORMATS),
    key!("shutdown.drain", None, Live, shutdown.drain, DrainPeriod(Period(Duration::ZERO..=seconds(3600)))),
];

/// The variable that sets the port of the only TCP address in `listen`.
pub(super) const PORT: &str = "PORT";

/// Compares the secrets alone, because moving them to another file changes nothing for clients.
fn same_keys(a: &Secrets, b: &Secrets) -> bool {
    a.iter().eq(b.iter())
}

/// Finds the key with this path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}
