//! Why jane gives up, in the sentence that is read, and which reasons pass if one waits.

use std::io;
use std::path::PathBuf;

use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::access_key::SecretFileError;
use crate::admin::client;
use crate::trust::TrustError;

/// Why there is no connection, or no longer one.
#[derive(Debug)]
pub(super) enum Error {
    SecretFile {
        path: PathBuf,
        source: SecretFileError,
    },
    CannotSign,
    /// It is not known whom to trust.
    Trust(TrustError),
    /// The daemon on this machine gave no token.
    NoToken(client::Error),
    /// A token or a channel that cannot stand in a request.
    NotAToken,
    Connect {
        server: String,
        source: io::Error,
    },
    Tls {
        server: String,
        source: io::Error,
    },
    TimedOut {
        server: String,
    },
    /// The server answered with something else than a WebSocket.
    Refused {
        server: String,
        status: u16,
        message: String,
    },
    NotWebSocket {
        server: String,
    },
    /// The connection broke, or ended without a word.
    Lost {
        why: String,
    },
    Closed {
        code: u16,
        reason: String,
    },
    /// The server did not say that it has all that was sent.
    Unconfirmed,
    /// Some lines did not get through; each was told when it happened.
    NotPublished {
        lines: u64,
    },
    Input(io::Error),
    LongLine {
        limit: usize,
    },
    Output(io::Error),
    Runtime(io::Error),
}

impl Error {
    /// Whether it is worth coming back after a while. `renews`: another token can be had then.
    pub(super) fn passes(&self, renews: bool) -> bool {
        match self {
            Self::Connect { .. } | Self::TimedOut { .. } | Self::Lost { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500..=599),
            // The daemon on this machine restarts.
            Self::NoToken(
                client::Error::NotRunning { .. } | client::Error::Dead { .. } | client::Error::Gone { .. },
            ) => true,
            Self::Closed { code, .. } => match code {
                1001 | 1011 | 1012 | 1013 | 4408 | 4413 => true,
                4401 => renews,
                _ => false,
            },
            _ => false,
        }
    }

    /// The one thing to do about it, where there is one: `advice` if the server did not accept the token.
    pub(super) fn hint<'a>(&'a self, advice: &'a str) -> Option<&'a str> {
        match self {
            Self::Refused { status: 401, .. } | Self::Closed { code: 4401, .. } => Some(advice),
            Self::Connect { .. } | Self::TimedOut { .. } => {
                Some("check that the server runs, and -p HOST:PORT")
            }
            Self::NotWebSocket { .. } => Some("check -p HOST:PORT; a server with TLS needs -secure"),
            Self::Tls { .. } => {
                Some("a server without TLS needs no -secure; --ca FILE names an authority of your own")
            }
            Self::NoToken(
                client::Error::SwitchedOff | client::Error::NotRunning { .. } | client::Error::Dead { .. },
            ) => Some("give the server's secret with -S FILE, or a token with -t TOKEN"),
            Self::NoToken(error) => error.hint(),
            _ => None,
        }
    }

    /// A server's close frame, or none.
    pub(super) fn closed(frame: Option<CloseFrame>) -> Self {
        match frame {
            Some(frame) => Self::Closed { code: frame.code.into(), reason: frame.reason.to_string() },
            None => Self::Lost { why: "the server closed it without a reason".into() },
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SecretFile { path, source } => {
                write!(f, "cannot read the secret from {}: {source}", path.display())
            }
            Self::CannotSign => f.write_str("cannot sign a token with this secret"),
            Self::Trust(error) => error.fmt(f),
            Self::NoToken(error) => write!(f, "no token from the daemon on this machine: {error}"),
            Self::NotAToken => f.write_str("what -t gives is no token: it has characters that no token has"),
            Self::Connect { server, source } => write!(f, "cannot connect to {server}: {source}"),
            Self::Tls { server, source } => write!(f, "no TLS connection to {server}: {source}"),
            Self::TimedOut { server } => write!(f, "{server} did not answer in time"),
            Self::Refused { server, status, message } => write!(f, "{server} refused: {message} ({status})"),
            Self::NotWebSocket { server } => write!(f, "{server} does not speak WebSocket"),
            Self::Lost { why } => write!(f, "connection lost: {why}"),
            Self::Closed { code, reason } if reason.is_empty() => write!(f, "closed by the server ({code})"),
            Self::Closed { code, reason } => write!(f, "closed by the server: {reason} ({code})"),
            Self::Unconfirmed => {
                f.write_str("the server did not confirm what was sent; some of it may be lost")
            }
            Self::NotPublished { lines: 1 } => f.write_str("1 line was not published"),
            Self::NotPublished { lines } => write!(f, "{lines} lines were not published"),
            Self::Input(error) => write!(f, "cannot read standard input: {error}"),
            Self::LongLine { limit } => write!(f, "a line on standard input has more than {limit} bytes"),
            Self::Output(error) => write!(f, "cannot write to standard output: {error}"),
            Self::Runtime(error) => write!(f, "cannot start: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::SecretFile { source, .. } => Some(source),
            Self::Connect { source, .. } | Self::Tls { source, .. } => Some(source),
            Self::Input(source) | Self::Output(source) | Self::Runtime(source) => Some(source),
            Self::NoToken(source) => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_only_where_that_can_help() {
        let closed = |code| Error::Closed { code, reason: String::new() };
        for code in [1001, 1011, 1012, 1013, 4408, 4413] {
            assert!(closed(code).passes(false), "{code}");
        }
        for code in [1000, 1002, 1007, 1008, 1009, 4403, 4429] {
            assert!(!closed(code).passes(true), "{code}");
        }
        assert!(closed(4401).passes(true) && !closed(4401).passes(false));
        let refused = |status| Error::Refused { server: "s".into(), status, message: "m".into() };
        assert!(refused(503).passes(true) && !refused(401).passes(true) && !refused(403).passes(true));
    }
}
