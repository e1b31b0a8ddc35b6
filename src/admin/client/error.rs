//! The errors of the client of the admin socket.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::admin::api::Failure;
use crate::admin::instance::unit;
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
    pub fn hint(&self) -> Option<Cow<'_, str>> {
        let hint = match self {
            Self::NotRunning { path } | Self::Dead { path } => {
                return Some(format!("start it: sudo systemctl start {}", unit(path)).into());
            }
            Self::TimedOut { path, .. } | Self::Gone { path } => {
                return Some(format!("see its log: journalctl -u {}", unit(path)).into());
            }
            Self::SwitchedOff => {
                "give it a socket with PHILOTE_ADMIN_SOCKET=/path/to.sock; without one, SIGHUP reloads it"
            }
            Self::PermissionDenied { .. } => {
                "join its group: sudo usermod -aG philote $USER, then log in again"
            }
            Self::OtherVersion { .. } => "restart it after an upgrade: sudo systemctl restart philote",
            Self::NotPhilote { .. } => "name its socket: --socket PATH or PHILOTE_ADMIN_SOCKET",
            Self::Refused(failure) => failure.hint.as_deref()?,
            Self::Io { .. } => return None,
        };
        Some(hint.into())
    }
}
