//! Why a server could not be loaded.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::root_certificates::TrustError;
use crate::token::SecretFileError;

/// Why a server could not be loaded.
#[derive(Debug)]
pub enum BenchError {
    /// The URL is not one of a WebSocket server.
    Url(String),
    /// The server has no address that can be reached over loopback.
    NoListener(Vec<String>),
    /// The file contains no secret that can sign.
    SecretFile(PathBuf, SecretFileError),
    /// A token could not be signed.
    CannotSign,
    /// The server accepts fewer connections than are needed.
    Full {
        /// How many are needed.
        wanted: usize,
        /// How many more it accepts.
        free: usize,
    },
    /// This process may open fewer connections than are needed.
    Descriptors {
        /// How many are needed.
        wanted: usize,
        /// How many it may open.
        most: usize,
    },
    /// The authorities to trust could not be loaded.
    Trust(TrustError),
    /// A connection could not be opened.
    Connect(SocketAddr, io::Error),
    /// The server does not speak TLS, or its certificate is not trusted.
    Tls(SocketAddr, io::Error),
    /// The server refused the upgrade.
    Refused {
        /// The status line of its response.
        status: String,
        /// The message in the response, if there is one.
        sentence: String,
    },
    /// Connections were not opened in time.
    Slow {
        /// How many were opened.
        open: usize,
        /// How many were needed.
        wanted: usize,
    },
    /// Requests to join or leave channels were not answered in time.
    Silent {
        /// How many connections asked.
        asked: usize,
        /// How many wait for their answer.
        waiting: usize,
    },
    /// The server closed connections during the run.
    Closed {
        /// How many.
        count: usize,
        /// The code and reason of the first.
        first: String,
    },
    /// A system call failed.
    System(&'static str, io::Error),
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => {
                write!(f, "{url} is not a URL such as ws://localhost:6380 or wss://localhost:6380")
            }
            Self::NoListener(listeners) => {
                write!(
                    f,
                    "the server listens on {}, and none of these can be reached over loopback",
                    listeners.join(", ")
                )
            }
            Self::SecretFile(path, error) => {
                write!(f, "cannot read the secret from {}: {error}", path.display())
            }
            Self::CannotSign => f.write_str("cannot sign a token with that secret"),
            Self::Full { wanted, free } => {
                write!(f, "the server accepts {free} more connections, and this needs {wanted}")
            }
            Self::Descriptors { wanted, most } => {
                write!(f, "this process may open {most} connections, and this needs {wanted}")
            }
            Self::Trust(error) => error.fmt(f),
            Self::Tls(address, error) => write!(f, "no TLS connection to {address}: {error}"),
            Self::Connect(address, error) => write!(f, "cannot connect to {address}: {error}"),
            Self::Refused { status, sentence } => {
                write!(f, "the server refused a connection: {status}: {sentence}")
            }
            Self::Silent { asked, waiting } => {
                write!(f, "{waiting} of {asked} connections got no answer to a join or leave in time")
            }
            Self::Slow { open, wanted } => {
                write!(f, "only {open} of {wanted} connections were opened in time")
            }
            Self::Closed { count, first } => {
                write!(f, "the server closed {count} connections; the first with {first}")
            }
            Self::System(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for BenchError {}

impl BenchError {
    /// What to do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoListener(_) => Some("give its address: --url ws://HOST:PORT --secret-file FILE"),
            Self::Tls(..) => {
                Some("--ca FILE trusts an authority of your own; a server without TLS needs ws://")
            }
            Self::Full { .. } => Some(
                "raise max_connections, or the limit of open files where that is lower, or give a smaller --connections N",
            ),
            Self::Descriptors { .. } => {
                Some("raise the limit of open files (ulimit -n), or give a smaller --connections N")
            }
            Self::Refused { .. } | Self::Closed { .. } => {
                Some("the log has the reason: journalctl -u philote")
            }
            _ => None,
        }
    }
}
