//! Where jane's token comes from: given, signed with the server's secret, or asked of the daemon on this machine.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::args::Arguments;
use super::error::Error;
use crate::access_key::{ApiRights, Keys, NewToken, issue, signing_secret};
use crate::admin::api::{Hidden, TokenRequest};
use crate::admin::client::Client;
use crate::admin::path;

/// How long a token of our own is good: it is made anew for each connection, and one that leaks is soon worthless.
const LIFE: Duration = Duration::from_secs(3600);
/// For the daemon on this machine to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How to come by a token.
#[derive(Debug)]
pub(super) enum Access {
    /// It was given, and there will be no other.
    Token(Hidden),
    /// Sign one with this secret.
    Secret(Hidden),
    /// Ask the daemon on this machine.
    Daemon,
}

impl Access {
    /// As the command line says. Of a file of several secrets, one a line, the first signs.
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

    /// Whether a new token can be had when one is no longer good.
    pub(super) fn renews(&self) -> bool {
        !matches!(self, Self::Token(_))
    }

    /// What to do when the server does not take the token.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Token(_) => "ask who runs the server for a token: philotectl token",
            Self::Secret(_) => "give the secret of that server: sudo philotectl secret show",
            Self::Daemon => {
                "the token is good for the daemon on this machine; for another server give -t TOKEN or -S FILE"
            }
        }
    }

    /// A token that reads and writes `channels`, or one for the HTTP API.
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
                };
                let sockets: Vec<PathBuf> = path::for_client(None, |name| std::env::var_os(name));
                let issued = Client::new(sockets, ANSWER).issue_token(&request).await;
                issued.map(|issued| issued.token).map_err(Error::NoToken)
            }
        }
    }
}
