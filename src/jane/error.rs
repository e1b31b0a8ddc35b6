//! jane's errors: their sentences, and whether reconnecting can help.

use std::io;
use std::path::PathBuf;

use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::admin::client;
use crate::root_certificates::TrustError;
use crate::token::SecretFileError;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Error {
    SecretFile {
        path: PathBuf,
        source: SecretFileError,
    },
    CannotSign,
    /// The certificate authorities to trust could not be loaded.
    Trust(TrustError),
    /// The daemon on this machine issued no token.
    NoToken(client::Error),
    /// The token contains characters that a header cannot contain.
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
    /// The server answered the upgrade with an error.
    Refused {
        server: String,
        status: u16,
        message: String,
    },
    NotWebSocket {
        server: String,
    },
    /// The connection broke, or ended without a Close frame.
    Lost {
        why: String,
    },
    Closed {
        code: u16,
        reason: String,
    },
    /// The server did not confirm that it received everything.
    Unconfirmed,
    /// Some lines were not published; an error was printed for each.
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
    /// Whether reconnecting later can help; `renews` says that there will be a new token.
    pub(super) fn is_temporary(&self, renews: bool) -> bool {
        match self {
            Self::Connect { .. } | Self::TimedOut { .. } | Self::Lost { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500..=599),
            // The daemon on this machine may be restarting.
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

    /// Returns what to do about it, if known; `advice` if the server rejected the token.
    pub(super) fn hint(&self, advice: &str) -> Option<String> {
        let hint = match self {
            Self::Refused { status: 401, .. } | Self::Closed { code: 4401, .. } => advice,
            Self::Connect { .. } | Self::TimedOut { .. } => {
                "check that the server is running, and -p HOST:PORT"
            }
            Self::NotWebSocket { .. } => "check -p HOST:PORT; a server with TLS needs -secure",
            Self::Tls { .. } => "a server without TLS needs no -secure; --ca FILE trusts your own authority",
            Self::NoToken(
                client::Error::SwitchedOff | client::Error::NotRunning { .. } | client::Error::Dead { .. },
            ) => "use the server's secret with -S FILE, or a token with -t TOKEN",
            Self::NoToken(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// The error for the end of a connection, with or without a Close frame.
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
            Self::NotAToken => f.write_str("the argument of -t is not a token: it has invalid characters"),
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
    fn only_temporary_errors_lead_to_a_reconnect() {
        let closed = |code| Error::Closed { code, reason: String::new() };
        for code in [1001, 1011, 1012, 1013, 4408, 4413] {
            assert!(closed(code).is_temporary(false), "{code}");
        }
        for code in [1000, 1002, 1007, 1008, 1009, 4403, 4429] {
            assert!(!closed(code).is_temporary(true), "{code}");
        }
        assert!(closed(4401).is_temporary(true) && !closed(4401).is_temporary(false));
        let refused = |status| Error::Refused { server: "s".into(), status, message: "m".into() };
        assert!(
            refused(503).is_temporary(true)
                && !refused(401).is_temporary(true)
                && !refused(403).is_temporary(true)
        );
    }
}
