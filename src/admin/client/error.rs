//! The errors of the client of the admin socket.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::admin::api::Failure;
use crate::admin::instance::unit;
use crate::installation;
use crate::timestamp::span;

/// The version of this program.
pub(super) const OUR_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why a request to a daemon failed.
#[derive(Debug)]
pub enum Error {
    /// The path of the socket is `none`.
    SwitchedOff,
    /// There is no socket.
    NotRunning {
        /// The expected path.
        path: PathBuf,
    },
    /// There is a socket, but no process listens on it.
    Dead {
        /// The socket.
        path: PathBuf,
    },
    /// This user may not connect to the socket.
    PermissionDenied {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon did not answer in time.
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long the client waited.
        after: Duration,
    },
    /// The daemon answered with a failure.
    Refused(Failure),
    /// The daemon has another version, and does not know the route or answers with another document.
    OtherVersion {
        /// The daemon's version.
        theirs: String,
    },
    /// The connection ended before the answer was complete.
    Gone {
        /// The socket.
        path: PathBuf,
    },
    /// The process that answers is not Philote.
    NotPhilote {
        /// The socket.
        path: PathBuf,
    },
    /// The process that listens is one of another user, who is not root, and its path was not named.
    OfAnotherUser {
        /// The socket.
        path: PathBuf,
        /// The number of the user.
        user: u32,
    },
    /// Another system error.
    Io {
        /// The socket.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SwitchedOff => {
                f.write_str("philote runs without an admin socket: --socket or PHILOTE_ADMIN_SOCKET is none")
            }
            Self::NotRunning { path } => {
                write!(f, "philote is not running: no socket at {}", path.display())
            }
            Self::Dead { path } => write!(f, "philote is not running: nothing listens on {}", path.display()),
            Self::PermissionDenied { path } => write!(f, "permission denied on {}", path.display()),
            Self::TimedOut { path, after } => {
                let after = span(*after);
                write!(f, "philote did not answer within {after} on {}", path.display())
            }
            Self::Refused(failure) => failure.fmt(f),
            Self::OtherVersion { theirs } => write!(
                f,
                "the running philote is version {theirs}, this program is version {OUR_VERSION}, and these \
                 versions are not compatible"
            ),
            Self::Gone { path } => {
                write!(f, "philote closed the connection on {} before it answered", path.display())
            }
            Self::NotPhilote { path } => write!(f, "the server on {} is not philote", path.display()),
            Self::OfAnotherUser { path, user } => {
                write!(f, "the program on {} is one of another user, {user}", path.display())
            }
            Self::Io { path, source } => write!(f, "cannot reach philote on {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Error {
    /// Returns what to do about it, if known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::SwitchedOff => {
                "give it a socket with PHILOTE_ADMIN_SOCKET=/path/to.sock; without one, SIGHUP reloads it"
                    .to_owned()
            }
            Self::NotRunning { path } | Self::Dead { path } => installation::start_it(&unit(path)),
            Self::PermissionDenied { path } => join_its_group(path),
            Self::TimedOut { path, .. } | Self::Gone { path } => {
                format!("see its log: {}", installation::its_log(&unit(path)))
            }
            Self::OtherVersion { .. } => {
                format!("restart it after an upgrade: {}", installation::restart_it("philote"))
            }
            Self::NotPhilote { .. } | Self::OfAnotherUser { .. } => {
                "name its socket: --socket PATH or PHILOTE_ADMIN_SOCKET".to_owned()
            }
            Self::Refused(failure) => return failure.hint.clone(),
            Self::Io { .. } => return None,
        })
    }
}

/// Tells how to get access to the socket. Only the service has a group for administrators; a daemon that somebody started by
/// hand belongs to that user.
fn join_its_group(path: &Path) -> String {
    const GROUP: &str = "philote";
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let id = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(GROUP)).then(|| fields.nth(1)?.parse::<u32>().ok()).flatten()
    });
    // A directory that may not be entered hides the socket's group.
    let known = std::fs::metadata(path).map(|socket| socket.gid()).ok();
    if id.is_some() && (known.is_none() || known == id) {
        return format!("join its group: sudo usermod -aG {GROUP} $USER, then log in again");
    }
    "run this command as the user who started philote, or with sudo".to_owned()
}
