//! Why a load could not be put on a server.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::access_key::SecretFileError;
use crate::trust::TrustError;

/// Why a load could not be put on a server.
#[derive(Debug)]
pub enum BenchError {
    /// The URL is none that it can load.
    Url(String),
    /// The server listens on nothing that can be reached over loopback.
    NoListener(Vec<String>),
    /// The file gives no secret to sign with.
    SecretFile(PathBuf, SecretFileError),
    /// A token could not be signed.
    CannotSign,
    /// More connections than the server has places for.
    Full {
        /// How many are wanted.
        wanted: usize,
        /// How many places are free.
        free: usize,
    },
    /// More connections than this process may open.
    Descriptors {
        /// How many are wanted.
        wanted: usize,
        /// How many it may open.
        most: usize,
    },
    /// It is not known whom to trust.
    Trust(TrustError),
    /// No connection could be made.
    Connect(SocketAddr, io::Error),
    /// A connection could be made, and is no TLS or not to be trusted.
    Tls(SocketAddr, io::Error),
    /// The server answered the upgrade with something else.
    Refused {
        /// The answer's first line.
        status: String,
        /// Its sentence, where there is one.
        sentence: String,
    },
    /// Connections were not open in time.
    Slow {
        /// How many were.
        open: usize,
        /// How many were wanted.
        wanted: usize,
    },
    /// The server closed connections that it was to serve.
    Closed {
        /// How many.
        count: usize,
        /// The code and reason of the first.
        first: String,
    },
    /// The system refused.
    System(&'static str, io::Error),
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => {
                write!(f, "{url} is no address like ws://localhost:6380 or wss://localhost:6380")
            }
            Self::NoListener(listeners) => {
                write!(f, "the server listens on {}: nothing that loopback reaches", listeners.join(", "))
            }
            Self::SecretFile(path, error) => {
                write!(f, "cannot read the secret from {}: {error}", path.display())
            }
            Self::CannotSign => f.write_str("cannot sign a token with that secret"),
            Self::Full { wanted, free } => {
                write!(f, "the server has {free} places free, and this takes {wanted}")
            }
            Self::Descriptors { wanted, most } => {
                write!(f, "this process may open {most} connections, and this takes {wanted}")
            }
            Self::Trust(error) => error.fmt(f),
            Self::Tls(address, error) => write!(f, "no TLS connection to {address}: {error}"),
            Self::Connect(address, error) => write!(f, "cannot connect to {address}: {error}"),
            Self::Refused { status, sentence } => {
                write!(f, "the server refused a connection: {status}: {sentence}")
            }
            Self::Slow { open, wanted } => write!(f, "only {open} of {wanted} connections were open in time"),
            Self::Closed { count, first } => {
                write!(f, "the server closed {count} connections; the first with {first}")
            }
            Self::System(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for BenchError {}

impl BenchError {
    /// The one thing to do about it, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoListener(_) => Some("name its address: --url ws://HOST:PORT --secret-file FILE"),
            Self::Tls(..) => {
                Some("--ca FILE names an authority of your own; a server without TLS is at ws://")
            }
            Self::Full { .. } => Some("raise max_connections, or ask for fewer: --connections N"),
            Self::Descriptors { .. } => Some("raise the limit of open files (ulimit -n), or --connections N"),
            Self::Refused { .. } | Self::Closed { .. } => Some("see why: journalctl -u philote"),
            _ => None,
        }
    }
}
