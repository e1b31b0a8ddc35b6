//! Settings in the making: each layer writes over the one below, and what is wrong is gathered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::command_line::Overrides;
use super::environment::Environment;
use super::error::{Problem, Situation};
use super::file::{self, Entry};
use super::keys::{self, KEYS, Key};
use super::kinds::{KIB, MIB, seconds, size};
use super::listen::{self, Listen};
use super::memory;
use super::networks::TrustedProxies;
use super::origin::Origin;
use super::raw::Raw;
use super::secret::{SecretSource, Secrets};
use super::settings::{
    AdminSettings, AdminSocket, AuthSettings, Drain, HistorySettings, HttpSettings, LimitSettings, LogFormat,
    LogLevel, LogSettings, MetricsSettings, Settings, ShutdownSettings, WebSocketSettings,
};

/// Names the configuration file; a setting of none of the keys.
const CONFIG_VARIABLE: &str = "PHILOTE_CONFIG";

/// Settings in the making. It has no `Debug`: it holds the secret as text.
pub(super) struct Draft {
    pub(super) settings: Settings,
    /// The text of `auth.secret`.
    pub(super) secret: Option<String>,
    pub(super) secret_file: Option<PathBuf>,
    /// The files of `[tls]`.
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    /// What relative paths of the layer at hand are relative to.
    pub(super) base: PathBuf,
    pub(super) origins: BTreeMap<&'static str, Origin>,
    pub(super) warnings: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

impl Draft {
    /// The defaults; for development, those of [`super::dev`].
    pub(super) fn new(dev: bool) -> Self {
        let mut settings = defaults(memory::allowed());
        if dev {
            super::dev::prepare(&mut settings);
        }
        Draft {
            settings,
            secret: None,
            secret_file: None,
            certificate: None,
            key: None,
            base: PathBuf::new(),
            origins: BTreeMap::new(),
            warnings: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Finds the configuration file and applies it; the path of what was used.
    pub(super) fn apply_file(
        &mut self,
        command_line: &Overrides,
        environment: &Environment,
    ) -> Option<PathBuf> {
        let named = command_line.config.clone();
        let named = named.or_else(|| environment.get(CONFIG_VARIABLE).map(PathBuf::from));
        // Only the system's own file may be missing; its absence is the state before the first configuration.
        // And what the system's daemon runs on is nothing to try things out with.
        let system_file =
            environment.system_file.clone().filter(|path| !command_line.dev && !is_missing(path));
        let path = named.or(system_file)?;
        self.base = path.parent().map(Path::to_owned).unwrap_or_default();
        match file::read(&path) {
            Ok(entries) => entries.into_iter().for_each(|entry| self.apply_entry(&path, entry)),
            Err(situation) => self.problems.push(Problem { origin: None, key: None, situation }),
        }
        self.base = PathBuf::new();
        Some(path)
    }

    fn apply_entry(&mut self, path: &Path, entry: Entry) {
        match entry {
            Entry::Value { key, line, value } => {
                self.set(&key, &value, Origin::File { path: path.to_owned(), line });
            }
            Entry::Problem { key, line, situation } => {
                let origin = Some(Origin::File { path: path.to_owned(), line });
                self.problems.push(Problem { origin, key, situation });
            }
        }
    }

    /// Applies the variables: a key's short one after, and so over, its long one.
    pub(super) fn apply_environment(&mut self, environment: &Environment) {
        for key in KEYS {
            self.apply_variable(environment, &key.variable(), |draft, raw| key.store(draft, raw), key);
            if let Some(short) = key.short_variable() {
                self.apply_variable(environment, short, |draft, raw| store_short(key, draft, raw), key);
            }
        }
        for path in keys::later_paths() {
            if let Some(Ok(raw)) = text(environment, &keys::variable(path)) {
                self.set(path, &raw, Origin::Environment(keys::variable(path)));
            }
        }
        let known: Vec<String> =
            KEYS.iter().map(Key::path).chain(keys::later_paths()).map(keys::variable).collect();
        for name in environment.names(keys::PREFIX) {
            if name != CONFIG_VARIABLE && !known.iter().any(|known| known == name) {
                let mut warning = format!("environment variable {} is not a setting", name.escape_debug());
                if let Some(nearest) = keys::nearest_variable(name) {
                    warning += &format!("; did you mean {nearest}?");
                }
                self.warnings.push(warning);
            }
        }
    }

    fn apply_variable(
        &mut self,
        environment: &Environment,
        name: &str,
        store: impl Fn(&mut Draft, &Raw) -> Result<(), Situation>,
        key: &'static Key,
    ) {
        if let Some(raw) = text(environment, name) {
            let stored = raw.and_then(|raw| store(self, &raw));
            self.note(key, stored, Origin::Environment(name.to_owned()));
        }
    }

    /// Applies the options: those for one key after, and so over, `--set`.
    pub(super) fn apply_command_line(&mut self, command_line: &Overrides) {
        for pair in &command_line.set {
            let origin = Origin::CommandLine("--set");
            match pair.split_once('=') {
                Some((path, value)) => self.set(path.trim(), &Raw::Text(value.to_owned()), origin),
                None => self.problems.push(Problem {
                    origin: Some(origin),
                    key: None,
                    situation: Situation::NoValue,
                }),
            }
        }
        if !command_line.listen.is_empty() {
            let addresses = command_line.listen.iter().cloned().map(Raw::String).collect();
            self.set("listen", &Raw::List(addresses), Origin::CommandLine("--listen"));
        }
        if let (Some(port), Some(key)) = (command_line.port, keys::find("listen")) {
            let stored = store_short(key, self, &Raw::Text(port.to_string()));
            self.note(key, stored, Origin::CommandLine("--port"));
        }
        if let Some(path) = &command_line.secret_file {
            let origin = Origin::CommandLine("--secret-file");
            match path.to_str() {
                Some(text) => self.set("auth.secret_file", &Raw::Text(text.to_owned()), origin),
                None => {
                    let key = Some("auth.secret_file".to_owned());
                    self.problems.push(Problem { origin: Some(origin), key, situation: Situation::NotText });
                }
            }
        }
        if let Some(level) = &command_line.log_level {
            self.set("log.level", &Raw::Text(level.clone()), Origin::CommandLine("--log-level"));
        }
    }

    /// Stores a value under a name that may be anything.
    fn set(&mut self, path: &str, raw: &Raw, origin: Origin) {
        if let Some(key) = keys::find(path) {
            let stored = key.store(self, raw);
            return self.note(key, stored, origin);
        }
        let situation = match keys::later(path) {
            Some(_) if raw.is_neutral() => return,
            Some(sentence) => Situation::NotYet(sentence),
            None => Situation::UnknownKey { nearest: keys::nearest_key(path) },
        };
        // Beside the secret, a name like no other may be the secret itself, pasted where the name belongs.
        let key = match &situation {
            Situation::UnknownKey { nearest: None } if path.starts_with("auth.") => "auth",
            _ => path,
        };
        self.problems.push(Problem { origin: Some(origin), key: Some(key.to_owned()), situation });
    }

    fn note(&mut self, key: &'static Key, stored: Result<(), Situation>, origin: Origin) {
        match stored {
            Ok(()) => {
                self.origins.insert(key.path(), origin);
            }
            Err(situation) => self.wrong(key.path(), Some(origin), situation),
        }
    }

    /// Notes a problem with a key.
    pub(super) fn wrong(&mut self, path: &str, origin: Option<Origin>, situation: Situation) {
        self.problems.push(Problem { origin, key: Some(path.to_owned()), situation });
    }

    /// Checks what several keys must agree on.
    pub(super) fn check(&mut self) {
        if !self.origins.contains_key("limits.total_queue_bytes") {
            let limits = &mut self.settings.limits;
            limits.total_queue_bytes = limits.total_queue_bytes.max(limits.queue_bytes);
        }
        let (limits, message) = (&self.settings.limits, self.settings.websocket.max_message_size);
        let mut small = |path: &'static str, found: usize, other, least: usize, reason| {
            if found < least {
                let (found, least) = (size(found), size(least));
                let situation = Situation::SmallerThan { found, other, least, reason };
                let origin = self.origins.get(path).or_else(|| self.origins.get(other)).cloned();
                self.problems.push(Problem { origin, key: Some(path.to_owned()), situation });
            }
        };
        small(
            "limits.queue_bytes",
            limits.queue_bytes,
            "websocket.max_message_size",
            message,
            "a single message would close its readers",
        );
        small(
            "limits.total_queue_bytes",
            limits.total_queue_bytes,
            "limits.queue_bytes",
            limits.queue_bytes,
            "no connection could use its own limit",
        );
        // What a connection gets at once is half of its queue at most.
        if self.settings.history.messages > limits.queue_messages / 2 {
            self.warnings.push(
                "history.messages is over half of limits.queue_messages: who missed more than that gets none of it"
                    .into(),
            );
        }
        super::dev::check(self);
        if !self.settings.websocket.allowed_origins.is_empty() && !self.settings.websocket.check_origin {
            self.warnings
                .push("websocket.allowed_origins is set, so origins are checked although websocket.check_origin is false".into());
        }
        if self.settings.admin.mode & 0o007 != 0 {
            self.warnings.push("admin.mode lets every user of this machine administer Philote".into());
        }
    }
}

/// The variable of the original where it differs from the key: `PORT` is the port alone.
fn store_short(key: &Key, draft: &mut Draft, raw: &Raw) -> Result<(), Situation> {
    match key.short_variable() {
        Some(keys::PORT) => listen::set_port(&mut draft.settings.listen, raw),
        _ => key.store(draft, raw),
    }
}

fn text(environment: &Environment, name: &str) -> Option<Result<Raw, Situation>> {
    let value = environment.get(name)?;
    Some(value.to_str().map(|text| Raw::Text(text.to_owned())).ok_or(Situation::NotText))
}

fn is_missing(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}

/// The defaults, on a machine that allows this much memory, in bytes.
fn defaults(memory: usize) -> Settings {
    Settings {
        dev: false,
        listen: Listen::default(),
        max_connections: 255,
        auth: AuthSettings {
            secrets: Secrets::new(Vec::new(), SecretSource::Missing(PathBuf::new())),
            public_keys: Vec::new(),
            jwks_file: None,
            allow_empty_secret: false,
            leeway: seconds(5),
            require_expiry: false,
            issuer: None,
            audience: None,
        },
        websocket: WebSocketSettings {
            read_buffer_size: KIB,
            write_buffer_size: KIB,
            max_message_size: 64 * KIB,
            check_origin: false,
            allowed_origins: Vec::new(),
            handshake_timeout: seconds(10),
            ping_interval: seconds(25),
            pong_timeout: seconds(10),
            show_subject: true,
        },
        http: HttpSettings { keep_alive_timeout: seconds(75) },
        limits: LimitSettings {
            queue_messages: 4096,
            queue_bytes: MIB,
            total_queue_bytes: memory / 4,
            channels_per_token: 1024,
            channel_name_bytes: 255,
            connections_per_address: 0,
            connections_per_subject: 0,
            handshakes_per_second: 0,
            messages_per_second: 0,
            bytes_per_second: 0,
            trusted_proxies: TrustedProxies::default(),
        },
        history: HistorySettings { messages: 0, ttl: seconds(5 * 60), bytes: 64 * MIB },
        tls: None,
        admin: AdminSettings { socket: AdminSocket::Usual, mode: 0o660, closed_ring: 10_000 },
        metrics: MetricsSettings { listen: None },
        log: LogSettings { level: LogLevel::Info, format: LogFormat::Auto },
        shutdown: ShutdownSettings { drain: Drain::Auto },
    }
}
