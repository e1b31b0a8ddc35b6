//! The layers of settings: configuration file, environment, command line. Each overrides the ones before it.
//!
//! [`mod@file`] reads TOML, [`environment`] the variables and [`command_line`] the options. [`Layers`] merges them, notes the
//! source of each value, and collects every problem, even of a value that a later layer overrides.

pub(super) mod command_line;
pub(super) mod environment;
mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::command_line::Overrides;
use self::environment::Environment;
use self::file::Entry;
use super::error::{Problem, ProblemKind};
use super::keys::{self, KEYS, Key};
use super::source::Source;
use super::unknown_keys;
use super::unresolved::Unresolved;
use super::value_types::{Raw, set_port};

/// The variable that names the configuration file. It is no setting.
const CONFIG_VARIABLE: &str = "PHILOTE_CONFIG";

/// The merged layers. It has no `Debug` because it holds the secret as text.
pub(super) struct Layers {
    /// The values so far.
    pub(super) unresolved: Unresolved,
    /// The source of each key that a layer has set.
    pub(super) sources: BTreeMap<&'static str, Source>,
    /// Sentences about doubtful settings.
    pub(super) warnings: Vec<String>,
    /// What is wrong, in the order of the layers.
    pub(super) problems: Vec<Problem>,
    /// The directory that relative paths of the current layer are relative to.
    base: PathBuf,
}

impl Layers {
    /// Starts with these settings, before the first layer.
    pub(super) fn new(defaults: Unresolved) -> Self {
        Layers {
            unresolved: defaults,
            sources: BTreeMap::new(),
            warnings: Vec::new(),
            problems: Vec::new(),
            base: PathBuf::new(),
        }
    }

    /// Applies the configuration file, if there is one, and returns its path.
    pub(super) fn apply_file(
        &mut self,
        command_line: &Overrides,
        environment: &Environment,
    ) -> Option<PathBuf> {
        let named = command_line.config.clone();
        let named = named.or_else(|| environment.get(CONFIG_VARIABLE).map(PathBuf::from));
        // The system's file may be missing, because nobody has configured this machine yet. `--dev` does not use it,
        // because it configures the system's daemon.
        let system_file =
            environment.system_file.clone().filter(|path| !command_line.dev && !is_missing(path));
        let path = named.or(system_file)?;
        self.base = path.parent().map(Path::to_owned).unwrap_or_default();
        match file::read(&path) {
            Ok(entries) => entries.into_iter().for_each(|entry| self.apply_entry(&path, entry)),
            Err(kind) => self.problems.push(Problem { source: None, key: None, kind }),
        }
        self.base = PathBuf::new();
        Some(path)
    }

    fn apply_entry(&mut self, path: &Path, entry: Entry) {
        match entry {
            Entry::Value { key, line, value } => {
                self.set(&key, &value, Source::File { path: path.to_owned(), line });
            }
            Entry::Problem { key, line, kind } => {
                let source = Some(Source::File { path: path.to_owned(), line });
                self.problems.push(Problem { source, key, kind });
            }
        }
    }

    /// Applies the variables. The short variable of a key overrides its long one.
    pub(super) fn apply_environment(&mut self, environment: &Environment) {
        for key in KEYS {
            self.apply_variable(environment, &key.variable(), key, Key::store);
            if let Some(short) = key.short_variable() {
                self.apply_variable(environment, short, key, store_short);
            }
        }
        let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
        for name in environment.names(keys::PREFIX) {
            if name != CONFIG_VARIABLE && !known.iter().any(|known| known == name) {
                let mut warning = format!("environment variable {} is not a setting", name.escape_debug());
                if let Some(nearest) = unknown_keys::nearest_variable(name) {
                    warning += &format!("; did you mean {nearest}?");
                }
                self.warnings.push(warning);
            }
        }
    }

    fn apply_variable(&mut self, environment: &Environment, name: &str, key: &'static Key, store: Store) {
        if let Some(raw) = text(environment, name) {
            let stored = raw.and_then(|raw| store(key, &mut self.unresolved, &raw, &self.base));
            self.note(key, stored, Source::Environment(name.to_owned()));
        }
    }

    /// Applies the options. An option for one key overrides `--set`.
    pub(super) fn apply_command_line(&mut self, command_line: &Overrides) {
        for pair in &command_line.set {
            let source = Source::CommandLine("--set");
            match pair.split_once('=') {
                Some((path, value)) => self.set(path.trim(), &Raw::Untyped(value.to_owned()), source),
                None => self.problems.push(Problem {
                    source: Some(source),
                    key: None,
                    kind: ProblemKind::NoValue,
                }),
            }
        }
        if !command_line.listen.is_empty() {
            let addresses = command_line.listen.iter().cloned().map(Raw::String).collect();
            self.set("listen", &Raw::List(addresses), Source::CommandLine("--listen"));
        }
        if let (Some(port), Some(key)) = (command_line.port, keys::find("listen")) {
            let raw = Raw::Untyped(port.to_string());
            let stored = store_short(key, &mut self.unresolved, &raw, &self.base);
            self.note(key, stored, Source::CommandLine("--port"));
        }
        if let Some(path) = &command_line.secret_file {
            let source = Source::CommandLine("--secret-file");
            match path.to_str() {
                Some(text) => self.set("auth.secret_file", &Raw::Untyped(text.to_owned()), source),
                None => self.add_problem("auth.secret_file", Some(source), ProblemKind::NotText),
            }
        }
        if let Some(level) = &command_line.log_level {
            self.set("log.level", &Raw::Untyped(level.clone()), Source::CommandLine("--log-level"));
        }
    }

    /// Stores a value under a name that need not be a key.
    fn set(&mut self, path: &str, raw: &Raw, source: Source) {
        if let Some(key) = keys::find(path) {
            let stored = key.store(&mut self.unresolved, raw, &self.base);
            return self.note(key, stored, source);
        }
        let kind = ProblemKind::UnknownKey { nearest: unknown_keys::nearest_key(path) };
        // An unknown name in [auth] that resembles no key may be the secret itself, so it is not shown.
        let key = match &kind {
            ProblemKind::UnknownKey { nearest: None } if path.starts_with("auth.") => "auth",
            _ => path,
        };
        self.add_problem(key, Some(source), kind);
    }

    fn note(&mut self, key: &'static Key, stored: Result<(), ProblemKind>, source: Source) {
        match stored {
            Ok(()) => {
                self.sources.insert(key.path(), source);
            }
            Err(kind) => self.add_problem(key.path(), Some(source), kind),
        }
    }

    /// Adds a problem with a key.
    pub(super) fn add_problem(&mut self, path: &str, source: Option<Source>, kind: ProblemKind) {
        self.problems.push(Problem { source, key: Some(path.to_owned()), kind });
    }
}

/// Stores a value under a key; relative paths are relative to the last argument.
type Store = fn(&Key, &mut Unresolved, &Raw, &Path) -> Result<(), ProblemKind>;

/// Stores the value of a key's short variable. `PORT` sets only the port of `listen`.
fn store_short(key: &Key, to: &mut Unresolved, raw: &Raw, base: &Path) -> Result<(), ProblemKind> {
    match key.short_variable() {
        Some(keys::PORT) => set_port(&mut to.settings.listen, raw),
        _ => key.store(to, raw, base),
    }
}

fn text(environment: &Environment, name: &str) -> Option<Result<Raw, ProblemKind>> {
    let value = environment.get(name)?;
    Some(value.to_str().map(|text| Raw::Untyped(text.to_owned())).ok_or(ProblemKind::NotText))
}

fn is_missing(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}
