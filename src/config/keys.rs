//! The one table of keys, on which file, environment, `--set`, `--print-config`, reload and manual agree.

use std::time::Duration;

use super::draft::Draft;
use super::error::Situation;
use super::kinds::{
    DrainPeriod, Flag, GIB, KIB, Kind, MIB, Mode, Number, OptionalAddress, OptionalPath, OptionalText,
    Period, Size, TIB, WebOrigins, Word, quoted, seconds,
};
use super::listen;
use super::networks::Proxies;
use super::public_keys;
use super::raw::Raw;
use super::secret::{SecretSource, Secrets};
use super::settings::{AdminSocket, LogFormat, LogLevel, Settings};
use super::tls;

/// What stands in place of a path in `admin.socket` where there shall be none.
const NO_ADMIN_SOCKET: &str = "none";

/// Whether a reload applies a changed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// At once.
    Live,
    /// Not before the daemon is started again.
    Restart,
}

/// One key.
pub struct Key {
    path: &'static str,
    short: Option<&'static str>,
    reload: Reload,
    store: fn(&mut Draft, &Raw) -> Result<(), Situation>,
    show: fn(&Settings) -> Option<String>,
    same: fn(&Settings, &Settings) -> bool,
    keep: fn(&Settings, &mut Settings),
}

impl Key {
    /// `section.key`, or `key` alone at the top of the file.
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// The section, empty at the top of the file.
    pub fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    /// The name within the section.
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }

    /// The variable that every key has, `PHILOTE_SECTION_KEY`.
    pub fn variable(&self) -> String {
        variable(self.path)
    }

    /// The variable of the original, which wins over the other. `PORT`, that of `listen`, sets the port alone.
    pub fn short_variable(&self) -> Option<&'static str> {
        self.short
    }

    /// Whether a reload applies it.
    pub fn reload(&self) -> Reload {
        self.reload
    }

    /// The value as it would be written in the file; `None` where it is not set, and for the secret.
    pub fn show(&self, settings: &Settings) -> Option<String> {
        (self.show)(settings)
    }

    /// Whether both have the same value.
    pub(super) fn same(&self, a: &Settings, b: &Settings) -> bool {
        (self.same)(a, b)
    }

    /// Copies the value.
    pub(super) fn keep(&self, from: &Settings, to: &mut Settings) {
        (self.keep)(from, to);
    }

    /// Reads, checks and stores a value.
    pub(super) fn store(&self, draft: &mut Draft, raw: &Raw) -> Result<(), Situation> {
        (self.store)(draft, raw)
    }
}

/// What every variable but those of the original begins with.
pub(super) const PREFIX: &str = "PHILOTE_";

/// The variable for a path.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.to_ascii_uppercase().replace('.', "_"))
}

/// A key whose value is one field of the settings.
macro_rules! key {
    ($path:literal, $short:expr, $reload:ident, $($field:ident).+, $kind:expr) => {
        Key {
            path: $path,
            short: $short,
            reload: Reload::$reload,
            store: |draft, raw| {
                draft.settings.$($field).+ = $kind.read(raw)?;
                Ok(())
            },
            show: |settings| $kind.show(&settings.$($field).+),
            same: |a, b| a.$($field).+ == b.$($field).+,
            keep: |from, to| to.$($field).+.clone_from(&from.$($field).+),
        }
    };
}

/// A clock that is off by more than this should be mended, not allowed for.
const LONGEST_LEEWAY: Duration = seconds(5 * 60);
/// A second is the heartbeat's resolution; an hour is beyond what any middlebox keeps an idle connection.
const PERIODS: std::ops::RangeInclusive<Duration> = seconds(1)..=seconds(3600);
/// Memory is given to messages of this size before anything is known of their sender.
const LARGEST_MESSAGE: usize = 64 * MIB;

const LEVELS: Word<LogLevel> = Word(&[
    ("trace", LogLevel::Trace),
    ("debug", LogLevel::Debug),
    ("info", LogLevel::Info),
    ("warning", LogLevel::Warning),
    ("warn", LogLevel::Warning),
    ("error", LogLevel::Error),
    ("fatal", LogLevel::Error),
    ("panic", LogLevel::Error),
]);
const FORMATS: Word<LogFormat> = Word(&[("auto", LogFormat::Auto), ("json", LogFormat::Json)]);

/// Every key that this version knows, in the order in which they are printed.
pub static KEYS: &[Key] = &[
    Key {
        path: "listen",
        short: Some(PORT),
        reload: Reload::Restart,
        store: |draft, raw| {
            draft.settings.listen = listen::read(raw)?;
            Ok(())
        },
        show: |settings| Some(listen::show(&settings.listen, settings.tls.is_some())),
        same: |a, b| a.listen == b.listen,
        keep: |from, to| to.listen.clone_from(&from.listen),
    },
    key!("max_connections", Some("MAX_CONNECTIONS"), Live, max_connections, Number(1..=10_000_000)),
    Key {
        path: "auth.secret",
        short: Some("SECRET"),
        reload: Reload::Live,
        store: |draft, raw| {
            draft.secret = Some(raw.text("text in quotes")?.to_owned());
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
        store: |draft, raw| {
            draft.secret_file = OptionalPath(&draft.base).read(raw)?;
            Ok(())
        },
        show: |settings| match settings.auth.secrets.source() {
            SecretSource::File(path) => Some(quoted(path.display())),
            _ => None,
        },
        // What matters is the keys that were read there, and those are auth.secret's.
        same: |_, _| true,
        keep: |_, _| (),
    },
    Key {
        path: "auth.public_keys",
        short: None,
        reload: Reload::Live,
        store: |draft, raw| {
            draft.settings.auth.public_keys = public_keys::read_names(raw, &draft.base)?;
            Ok(())
        },
        show: |settings| Some(public_keys::show_names(&settings.auth.public_keys)),
        same: |a, b| a.auth.public_keys == b.auth.public_keys,
        keep: |from, to| to.auth.public_keys.clone_from(&from.auth.public_keys),
    },
    Key {
        path: "auth.jwks_file",
        short: None,
        reload: Reload::Live,
        store: |draft, raw| {
            draft.settings.auth.jwks_file = public_keys::read_name(raw, &draft.base)?;
            Ok(())
        },
        show: |settings| public_keys::show_name(&settings.auth.jwks_file),
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
    key!("history.messages", None, Live, history.messages, Number(0..=100_000)),
    key!("history.ttl", None, Live, history.ttl, Period(seconds(1)..=seconds(7 * 24 * 3600))),
    key!("history.bytes", None, Live, history.bytes, Size(64 * KIB..=64 * TIB)),
    Key {
        path: tls::CERTIFICATE,
        short: None,
        reload: Reload::Live,
        store: |draft, raw| {
            draft.certificate = OptionalPath(&draft.base).read(raw)?;
            Ok(())
        },
        show: |settings| settings.tls.as_ref().map(|tls| quoted(tls.certificate.display())),
        same: |a, b| a.tls == b.tls,
        keep: |from, to| to.tls.clone_from(&from.tls),
    },
    Key {
        path: tls::KEY,
        short: None,
        reload: Reload::Live,
        store: |draft, raw| {
            draft.key = OptionalPath(&draft.base).read(raw)?;
            Ok(())
        },
        show: |settings| settings.tls.as_ref().map(|tls| quoted(tls.key.display())),
        // What matters is the pair, and that is tls.certificate's.
        same: |_, _| true,
        keep: |_, _| (),
    },
    Key {
        path: "admin.socket",
        short: None,
        reload: Reload::Restart,
        store: |draft, raw| {
            draft.settings.admin.socket = match raw {
                Raw::Text(text) | Raw::String(text) if text == NO_ADMIN_SOCKET => AdminSocket::None,
                _ => listen::socket_path(OptionalPath(&draft.base).read(raw)?)?
                    .map_or(AdminSocket::Usual, AdminSocket::At),
            };
            Ok(())
        },
        show: |settings| match &settings.admin.socket {
            AdminSocket::Usual => None,
            AdminSocket::At(path) => Some(quoted(path.display())),
            AdminSocket::None => Some(quoted(NO_ADMIN_SOCKET)),
        },
        same: |a, b| a.admin.socket == b.admin.socket,
        keep: |from, to| to.admin.socket.clone_from(&from.admin.socket),
    },
    key!("admin.mode", None, Restart, admin.mode, Mode),
    key!("admin.closed_ring", None, Live, admin.closed_ring, Number(0..=1_000_000)),
    key!("metrics.listen", None, Restart, metrics.listen, OptionalAddress),
    key!("log.level", Some("LOGLEVEL"), Live, log.level, LEVELS),
    key!("log.format", None, Restart, log.format, FORMATS),
    key!("shutdown.drain", None, Live, shutdown.drain, DrainPeriod(Period(Duration::ZERO..=seconds(3600)))),
];

/// The variable, and the option, that sets the port of the one address in `listen`.
pub(super) const PORT: &str = "PORT";

/// Who may come in depends on the keys alone, not on where they are kept.
fn same_keys(a: &Secrets, b: &Secrets) -> bool {
    a.iter().eq(b.iter())
}

/// The key of this path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether there are keys in this section.
pub(super) fn is_section(name: &str) -> bool {
    let mut sections = KEYS.iter().map(Key::section).chain(later_paths().map(section));
    !name.is_empty() && sections.any(|section| section == name)
}

const NO_CLUSTER: &str = "this version of Philote does not cluster yet: remove [cluster]";

/// Keys that a later version knows, and what to do until then.
const LATER: &[(&str, &str)] = &[
    ("cluster.servers", NO_CLUSTER),
    ("cluster.subject_prefix", NO_CLUSTER),
    ("cluster.credentials_file", NO_CLUSTER),
];

/// The keys that a later version knows.
pub(super) fn later_paths() -> impl Iterator<Item = &'static str> {
    LATER.iter().map(|(path, _)| *path)
}

/// What to say of a key that a later version knows; in a section wholly of a later version that is any key.
pub(super) fn later(path: &str) -> Option<&'static str> {
    let of_section = |name: &str| !KEYS.iter().any(|key| key.section() == name);
    LATER
        .iter()
        .find(|(known, _)| *known == path || (section(known) == section(path) && of_section(section(path))))
        .map(|(_, sentence)| *sentence)
}

fn section(path: &str) -> &str {
    path.split_once('.').map_or("", |(section, _)| section)
}

/// The section whose name is nearest.
pub(super) fn nearest_section(name: &str) -> Option<String> {
    let top = KEYS.iter().filter(|key| key.section().is_empty()).map(Key::path);
    nearest(name, KEYS.iter().map(Key::section).filter(|section| !section.is_empty()).chain(top))
        .map(str::to_owned)
}

/// The key that was probably meant: the nearest name of the same section, else the same name elsewhere.
pub(super) fn nearest_key(path: &str) -> Option<String> {
    let (section, name) = path.split_once('.').unwrap_or(("", path));
    let siblings = KEYS.iter().filter(|key| key.section() == section).map(Key::name);
    nearest(name, siblings).map(str::to_owned).or_else(|| {
        // In TOML a key below a section's header is that section's, however far below it stands.
        KEYS.iter().find(|key| key.name() == name).map(|key| match key.section() {
            "" => format!("{name} at the top of the file, above the first [section]"),
            _ => key.path.to_owned(),
        })
    })
}

/// The variable that was probably meant.
pub(super) fn nearest_variable(name: &str) -> Option<String> {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    let short = KEYS.iter().filter_map(|key| key.short).find(|short| *short == name);
    // Compared without what all of them begin with, which would make any two look alike.
    let long: Vec<String> = KEYS.iter().map(|key| key.path.replace('.', "_")).collect();
    let near = || nearest(name, long.iter().map(String::as_str)).map(variable);
    short.map(str::to_owned).or_else(near)
}

fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this, names have little more in common than their letters.
    const SIMILAR: f64 = 0.85;
    let name = name.to_ascii_lowercase();
    candidates
        .map(|candidate| (strsim::jaro_winkler(&name, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}
