//! The process's environment, taken once and passed on: nothing else reads it, and tests never change it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

/// The file that is used if it exists and no other is named.
pub const SYSTEM_FILE: &str = "/etc/philote/philote.toml";

/// The one variable whose empty value counts.
const SECRET: &str = "SECRET";

/// The variables, and the place of the system's configuration file.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    pub(super) system_file: Option<PathBuf>,
}

impl Environment {
    /// These variables alone, with no system configuration file: for tests.
    pub fn new<N: Into<String>, V: Into<OsString>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        // Compose files and units write an empty variable for what is not set. An empty secret is no such case: it
        // would let anyone in.
        let variables =
            variables.filter(|(name, value): &(String, OsString)| name == SECRET || !value.is_empty());
        Environment { variables: variables.collect(), system_file: None }
    }

    /// What this process was started with, and [`SYSTEM_FILE`]. A variable whose name is not text cannot be
    /// one of ours.
    pub fn from_process() -> Self {
        let text = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Environment { system_file: Some(PathBuf::from(SYSTEM_FILE)), ..Environment::new(text) }
    }

    /// The value of a variable. An empty variable is not set; [`SECRET`] alone may be empty.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(name).map(OsString::as_os_str)
    }

    /// The names that begin with `prefix`.
    pub(super) fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.variables.keys().map(String::as_str).filter(move |name| name.starts_with(prefix))
    }

    /// A variable that holds a directory; a relative one is ignored, as the XDG specification wants it.
    pub(super) fn directory(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// Where the daemon keeps what must outlive it: systemd's `$STATE_DIRECTORY`, else the XDG state
    /// directory. `None` where there is not even a home.
    pub fn state_directory(&self) -> Option<PathBuf> {
        // With several StateDirectory= systemd separates them by colons; the first counts.
        let of_service = self.get("STATE_DIRECTORY").and_then(|paths| std::env::split_paths(paths).next());
        of_service
            .filter(|path| path.is_absolute())
            .or_else(|| Some(self.directory("XDG_STATE_HOME")?.join("philote")))
            .or_else(|| Some(self.directory("HOME")?.join(".local/state/philote")))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// Where the admin socket is looked for, and made, where no setting names it; the first that fits is taken.
pub fn admin_socket_places(environment: &Environment) -> Vec<PathBuf> {
    [
        Some(Path::new("/run/philote").to_owned()),
        environment.directory("XDG_RUNTIME_DIR").map(|directory| directory.join("philote")),
        environment.state_directory(),
    ]
    .into_iter()
    .flatten()
    .map(|directory| directory.join("admin.sock"))
    .collect()
}
