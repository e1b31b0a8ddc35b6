//! The path of the admin socket, by one rule for the daemon and its clients.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// The environment variable with the path of the socket, for the daemon and its clients.
pub const ENVIRONMENT: &str = "PHILOTE_ADMIN_SOCKET";
/// The path that means that there is no socket.
pub const NONE: &str = "none";
/// The path for a system's daemon.
pub const SYSTEM: &str = "/run/philote/admin.sock";

const NAME: &str = "admin.sock";

/// Returns the default paths in order: [`SYSTEM`], the user's runtime directory, the state directory. `environment`
/// returns the value of a variable.
pub fn candidates(environment: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let directory = |name: &str| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // systemd separates state directories by colons; the first is the unit's own.
    let given_state = environment("STATE_DIRECTORY")
        .and_then(|list| list.to_str()?.split(':').next().map(PathBuf::from))
        .filter(|path| path.is_absolute());
    let state = given_state
        .or_else(|| directory("XDG_STATE_HOME").map(|path| path.join("philote")))
        .or_else(|| directory("HOME").map(|path| path.join(".local/state/philote")));
    let runtime = directory("XDG_RUNTIME_DIR").map(|path| path.join("philote"));
    let mut all = vec![PathBuf::from(SYSTEM)];
    all.extend([runtime, state].into_iter().flatten().map(|path| path.join(NAME)));
    all
}

/// Returns the default path for a daemon: the first of `candidates` whose directory it may write to, and creates that
/// directory if necessary. If there is none it returns the last candidate, and binding to it reports the error.
#[must_use]
pub fn for_daemon(candidates: &[PathBuf]) -> PathBuf {
    let usable = candidates.iter().find(|path| path.parent().is_some_and(usable_directory));
    usable.or(candidates.last()).cloned().unwrap_or_else(|| PathBuf::from(SYSTEM))
}

fn usable_directory(directory: &Path) -> bool {
    // Members of the group must pass through the system's directory. The others belong to one user.
    let mode = if directory.starts_with("/run/philote") { 0o755 } else { 0o700 };
    let made = DirBuilder::new().recursive(true).mode(mode).create(directory).is_ok();
    made && access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Returns the paths that a client tries: only `named` or the path in [`ENVIRONMENT`] if there is one, otherwise all
/// [`candidates`]. If that one path is [`NONE`], it returns no path.
pub fn for_client(named: Option<PathBuf>, environment: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let from_environment = || environment(ENVIRONMENT).filter(|value| !value.is_empty()).map(PathBuf::from);
    match named.or_else(from_environment) {
        Some(path) if path.as_os_str() == NONE => Vec::new(),
        Some(path) => vec![path],
        None => candidates(environment),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Vec<PathBuf> {
        candidates(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn candidates_are_the_system_the_runtime_and_the_state_directory() {
        assert_eq!(with(&[]), [Path::new(SYSTEM)]);
        assert_eq!(
            with(&[("XDG_RUNTIME_DIR", "/run/user/7"), ("HOME", "/home/ada")]),
            [SYSTEM, "/run/user/7/philote/admin.sock", "/home/ada/.local/state/philote/admin.sock"]
                .map(PathBuf::from)
        );
        assert_eq!(
            with(&[("STATE_DIRECTORY", "/var/lib/philote:/b"), ("XDG_STATE_HOME", "/s"), ("HOME", "/h")])[1],
            Path::new("/var/lib/philote/admin.sock")
        );
        assert_eq!(with(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")])[1], Path::new("/s/philote/admin.sock"));
        assert_eq!(with(&[("XDG_RUNTIME_DIR", "not/absolute"), ("HOME", "")]), [Path::new(SYSTEM)]);
    }

    #[test]
    fn the_daemon_uses_the_first_directory_that_it_may_write_to() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        std::fs::write(&file, "").unwrap();
        let (bad, good) = (file.join("philote/admin.sock"), scratch.path().join("a/b/admin.sock"));
        assert_eq!(for_daemon(&[bad.clone(), good.clone()]), good);
        assert!(good.parent().unwrap().is_dir());
        assert_eq!(for_daemon(std::slice::from_ref(&bad)), bad, "binding reports the error");
    }

    #[test]
    fn a_client_tries_only_a_named_socket() {
        let environment = |name: &str| (name == ENVIRONMENT).then(|| OsString::from("/b"));
        assert_eq!(for_client(Some("/a".into()), environment), [Path::new("/a")]);
        assert_eq!(for_client(None, environment), [Path::new("/b")]);
        assert_eq!(
            for_client(None, |name| (name == ENVIRONMENT).then(|| NONE.into())),
            <[PathBuf; 0]>::default()
        );
        assert_eq!(for_client(None, |name| (name == ENVIRONMENT).then(OsString::new)), [Path::new(SYSTEM)]);
    }
}
