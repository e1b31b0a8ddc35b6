//! The environment of the process. It is read once, so that tests need not change it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

/// The configuration file that is used if it exists and no other is named.
pub const SYSTEM_FILE: &str = "/etc/philote/philote.toml";

/// The only variable that may be set to an empty value.
const SECRET: &str = "SECRET";

/// The environment variables, and the path of the system's configuration file.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    pub(in crate::config) system_file: Option<PathBuf>,
}

impl Environment {
    /// Returns an environment of these variables without a system configuration file, for tests.
    pub fn new<N: Into<String>, V: Into<OsString>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        // Compose files and units write an empty variable for one that is not set. An empty secret stays, so
        // that it is refused: it would let anyone sign tokens.
        let variables =
            variables.filter(|(name, value): &(String, OsString)| name == SECRET || !value.is_empty());
        Environment { variables: variables.collect(), system_file: None }
    }

    /// Returns the environment of this process, and [`SYSTEM_FILE`]. Variables whose names are not UTF-8 are left out.
    pub fn from_process() -> Self {
        let text = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Environment { system_file: Some(PathBuf::from(SYSTEM_FILE)), ..Environment::new(text) }
    }

    /// Returns the value of a variable. An empty variable counts as not set, except [`SECRET`].
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(name).map(OsString::as_os_str)
    }

    /// Returns the names that begin with `prefix`.
    pub(super) fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.variables.keys().map(String::as_str).filter(move |name| name.starts_with(prefix))
    }

    /// Returns the directory in a variable. A relative path is ignored, as the XDG specification requires.
    pub(in crate::config) fn directory(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// Returns the directory for files that outlive the daemon: systemd's `$STATE_DIRECTORY`, else the XDG state
    /// directory. Returns `None` without a home directory.
    pub fn state_directory(&self) -> Option<PathBuf> {
        // systemd separates several directories with colons.
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
