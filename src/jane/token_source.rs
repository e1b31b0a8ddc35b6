//! The source of jane's token: the command line, the server's secret, or the daemon on this machine.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::args::Arguments;
use super::error::Error;
use crate::admin::api::{Hidden, TokenRequest};
use crate::admin::client::Client;
use crate::admin::path;
use crate::token::{ApiRights, Keys, NewToken, issue, signing_secret};

/// How long a token is valid. Each connection gets a new one, and a leaked token soon becomes useless.
const LIFE: Duration = Duration::from_secs(3600);
/// The time limit for an answer of the daemon on this machine.
const ANSWER: Duration = Duration::from_secs(10);

/// The source of tokens.
#[derive(Debug)]
pub(super) enum TokenSource {
    /// Only this token.
    Token(Hidden),
    /// A secret that signs tokens.
    Secret(Hidden),
    /// The daemon on this machine.
    Daemon,
}

impl TokenSource {
    /// Chooses the source by the command line. In a file with several secrets, the first line signs.
    pub(super) fn new(arguments: &Arguments) -> Result<Self, Error> {
        let Arguments { token, secret, secret_file, .. } = arguments;
        if let Some(token) = token {
            return Ok(Self::Token(Hidden(token.trim().into())));
        }
        if let Some(secret) = secret {
            return Ok(Self::Secret(Hidden(secret.clone())));
        }
        let Some(file) = secret_file else { return Ok(Self::Daemon) };
        match signing_secret(file) {
            Ok(secret) => Ok(Self::Secret(Hidden(secret))),
            Err(source) => Err(Error::SecretFile { path: file.clone(), source }),
        }
    }

    /// Whether there can be a new token when one has expired.
    pub(super) fn renews(&self) -> bool {
        !matches!(self, Self::Token(_))
    }

    /// Returns what to do if the server rejects the token.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Token(_) => "ask the server's administrator for a token: philotectl token",
            Self::Secret(_) => "use the secret of that server: sudo philotectl secret show",
            Self::Daemon => {
                "the token is for the daemon on this machine; for another server use -t TOKEN or -S FILE"
            }
        }
    }

    /// Returns a token that may read and write `channels`, or has rights to the HTTP API.
    pub(super) async fn token(&self, channels: &[String], api: ApiRights) -> Result<Hidden, Error> {
        let subject = std::env::var("USER").ok().filter(|user| !user.is_empty());
        match self {
            Self::Token(token) => Ok(token.clone()),
            Self::Secret(secret) => {
                let expires =
                    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + LIFE;
                let token = NewToken {
                    read: channels.to_vec(),
                    write: Some(channels.to_vec()),
                    api,
                    subject,
                    expires: Some(expires.as_secs()),
                    ..NewToken::default()
                };
                let keys = Keys::new([secret.0.as_bytes()]);
                issue(&token, &keys).map(Hidden).map_err(|_| Error::CannotSign)
            }
            Self::Daemon => {
                let request = TokenRequest {
                    read: channels.to_vec(),
                    write: Some(channels.to_vec()),
                    api,
                    subject,
                    expires_in: Some(LIFE.as_secs()),
                    ..TokenRequest::default()
                };
                let sockets: Vec<PathBuf> = path::for_client(None, |name| std::env::var_os(name));
                let issued = Client::new(sockets, ANSWER).issue_token(&request).await;
                issued.map(|issued| issued.token).map_err(Error::NoToken)
            }
        }
    }
}
