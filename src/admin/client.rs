//! Asks a daemon on its admin socket, and tells apart the ways in which that can fail.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, SERVER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::api::{
    self, ChannelQuery, Channels, ClosedConnections, ClosedQuery, Code, ConnectionQuery, Connections,
    DisconnectRequest, Disconnected, Event, EventQuery, Failure, InspectRequest, Inspection, IssuedToken,
    Level, LevelRequest, Levels, LiftRequest, Lifted, PublishRequest, Published, Ready, RefusedSubjects,
    ReloadRequest, Reloaded, SecretChanged, SecretSet, Secrets, Status, TokenRequest,
};
use crate::moment::span;

/// Bytes of an answer; far above any, so that only something that is no daemon reaches it.
pub const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Between two attempts to connect to a socket whose queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(50);
const OUR_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why a daemon could not be asked, or what it answered instead.
#[derive(Debug)]
pub enum Error {
    /// `none` stands in place of the socket's path.
    SwitchedOff,
    /// There is no socket.
    NotRunning {
        /// Where one was expected.
        path: PathBuf,
    },
    /// There is a socket, and nobody behind it.
    Dead {
        /// The socket.
        path: PathBuf,
    },
    /// The system does not let us connect.
    PermissionDenied {
        /// The socket.
        path: PathBuf,
    },
    /// No answer in time.
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The daemon understood and said no.
    Refused(Failure),
    /// The daemon is of another version, and does not know what was asked or answers in another shape.
    OtherVersion {
        /// The daemon's.
        theirs: String,
    },
    /// The connection ended before there was an answer.
    Gone {
        /// The socket.
        path: PathBuf,
    },
    /// What answers there is no Philote.
    NotPhilote {
        /// The socket.
        path: PathBuf,
    },
    /// The system refused otherwise.
    Io {
        /// The socket.
        path: PathBuf,
        /// What it said.
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
            Self::Dead { path } => write!(f, "philote is not running: nobody answers on {}", path.display()),
            Self::PermissionDenied { path } => write!(f, "permission denied on {}", path.display()),
            Self::TimedOut { path, after } => {
                let after = span(*after);
                write!(f, "philote did not answer within {after} on {}", path.display())
            }
            Self::Refused(failure) => failure.fmt(f),
            Self::OtherVersion { theirs } => write!(
                f,
                "the running philote is version {theirs}, this program is version {OUR_VERSION}, and they do \
                 not understand each other"
            ),
            Self::Gone { path } => {
                write!(f, "philote closed the connection on {} before it answered", path.display())
            }
            Self::NotPhilote { path } => write!(f, "what answers on {} is not philote", path.display()),
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
    /// The one thing to do about it, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::SwitchedOff => {
                Some("give it one by PHILOTE_ADMIN_SOCKET=/path/to.sock; without one it reloads at SIGHUP")
            }
            Self::NotRunning { .. } | Self::Dead { .. } => Some("start it: sudo systemctl start philote"),
            Self::PermissionDenied { .. } => {
                Some("join its group: sudo usermod -aG philote $USER, then log in again")
            }
            Self::TimedOut { .. } | Self::Gone { .. } => Some("see what it does: journalctl -u philote"),
            Self::OtherVersion { .. } => Some("restart it after an upgrade: sudo systemctl restart philote"),
            Self::NotPhilote { .. } => Some("name its socket: --socket PATH or PHILOTE_ADMIN_SOCKET"),
            Self::Refused(failure) => failure.hint.as_deref(),
            Self::Io { .. } => None,
        }
    }
}

/// Asks one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    paths: Vec<PathBuf>,
    within: Duration,
}

impl Client {
    /// Asks the daemon on the first of `paths` that lets us in; each question takes at most `within`.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>, within: Duration) -> Self {
        Self { paths, within }
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// As all of these: [`Error`].
    pub async fn status(&self) -> Result<Status, Error> {
        self.ask(Method::GET, api::STATUS, &()).await
    }

    /// `POST /v1/token`.
    pub async fn issue_token(&self, request: &TokenRequest) -> Result<IssuedToken, Error> {
        self.ask(Method::POST, api::TOKEN, request).await
    }

    /// `POST /v1/inspect`.
    pub async fn inspect(&self, request: &InspectRequest) -> Result<Inspection, Error> {
        self.ask(Method::POST, api::INSPECT, request).await
    }

    /// `GET /v1/secret`.
    pub async fn secret_show(&self) -> Result<Secrets, Error> {
        self.ask(Method::GET, api::SECRET, &()).await
    }

    /// `PUT /v1/secret`.
    pub async fn secret_set(&self, request: &SecretSet) -> Result<SecretChanged, Error> {
        self.ask(Method::PUT, api::SECRET, request).await
    }

    /// `POST /v1/secret/rotate`.
    pub async fn secret_rotate(&self) -> Result<SecretChanged, Error> {
        self.ask(Method::POST, api::SECRET_ROTATE, &()).await
    }

    /// `POST /v1/reload`.
    pub async fn reload(&self, dry_run: bool) -> Result<Reloaded, Error> {
        self.ask(Method::POST, api::RELOAD, &ReloadRequest { dry_run }).await
    }

    /// `GET /v1/connections`.
    pub async fn connections(&self, query: &ConnectionQuery) -> Result<Connections, Error> {
        self.list(api::CONNECTIONS, query).await
    }

    /// `GET /v1/connections/closed`.
    pub async fn closed(&self, query: &ClosedQuery) -> Result<ClosedConnections, Error> {
        self.list(api::CLOSED, query).await
    }

    /// `GET /v1/channels`.
    pub async fn channels(&self, query: &ChannelQuery) -> Result<Channels, Error> {
        self.list(api::CHANNELS, query).await
    }

    /// `POST /v1/disconnect`.
    pub async fn disconnect(&self, request: &DisconnectRequest) -> Result<Disconnected, Error> {
        self.ask(Method::POST, api::DISCONNECT, request).await
    }

    /// `GET /v1/refused`.
    pub async fn refused(&self) -> Result<RefusedSubjects, Error> {
        self.ask(Method::GET, api::REFUSED, &()).await
    }

    /// `DELETE /v1/refused`.
    pub async fn lift(&self, subject: &str) -> Result<Lifted, Error> {
        let request = LiftRequest { subject: subject.to_owned() };
        self.ask(Method::DELETE, api::REFUSED, &request).await
    }

    /// `POST /v1/publish`.
    pub async fn publish(&self, request: &PublishRequest) -> Result<Published, Error> {
        self.ask(Method::POST, api::PUBLISH, request).await
    }

    /// `GET /v1/log-level`.
    pub async fn log_level(&self) -> Result<Levels, Error> {
        self.ask(Method::GET, api::LOG_LEVEL, &()).await
    }

    /// `PUT /v1/log-level`.
    pub async fn set_log_level(&self, level: Level) -> Result<Levels, Error> {
        self.ask(Method::PUT, api::LOG_LEVEL, &LevelRequest { level }).await
    }

    /// `GET /v1/events`. Only its beginning has to come in time.
    pub async fn events(&self, query: &EventQuery) -> Result<Events, Error> {
        let route = with_query(api::EVENTS, query);
        self.in_time(async |stream, path| {
            let answer = request(stream, path, Method::GET, &route, &()).await?;
            if answer.status == StatusCode::OK {
                return Ok(Events { path: path.to_owned(), body: answer.body, buffer: Vec::new() });
            }
            Err(answer.failure(path).await)
        })
        .await
    }

    /// `GET /v1/ready`.
    pub async fn ready(&self) -> Result<Ready, Error> {
        self.ask(Method::GET, api::READY, &()).await
    }

    async fn list<T: DeserializeOwned>(&self, route: &str, query: &impl Serialize) -> Result<T, Error> {
        self.ask(Method::GET, &with_query(route, query), &()).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.in_time(async |stream, path| exchange(stream, path, method, route, body).await).await
    }

    /// Connects and does something with the connection, all in the time there is.
    async fn in_time<T>(
        &self,
        talk: impl AsyncFnOnce(UnixStream, &Path) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut reached = self.first().to_owned();
        timeout(self.within, async {
            let (stream, path) = self.connect().await?;
            reached.clone_from(path);
            talk(stream, path).await
        })
        .await
        .unwrap_or(Err(Error::TimedOut { path: reached, after: self.within }))
    }

    fn first(&self) -> &Path {
        self.paths.first().map_or(Path::new(super::path::SYSTEM), PathBuf::as_path)
    }

    /// Connects to the first socket that takes us; when none does, the error is the most telling of theirs.
    async fn connect(&self) -> Result<(UnixStream, &PathBuf), Error> {
        if self.paths.is_empty() {
            return Err(Error::SwitchedOff);
        }
        let mut telling = Error::NotRunning { path: self.first().to_owned() };
        for path in &self.paths {
            let error = loop {
                match UnixStream::connect(path).await {
                    Ok(stream) => return Ok((stream, path)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(FULL_PAUSE).await,
                    Err(error) => break error,
                }
            };
            let path = path.clone();
            let found = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => continue,
                io::ErrorKind::ConnectionRefused => Error::Dead { path },
                io::ErrorKind::PermissionDenied => Error::PermissionDenied { path },
                _ => Error::Io { path, source: error },
            };
            if weight(&found) > weight(&telling) {
                telling = found;
            }
        }
        Err(telling)
    }
}

fn weight(error: &Error) -> u8 {
    match error {
        Error::NotRunning { .. } => 0,
        Error::Dead { .. } => 1,
        Error::Io { .. } => 2,
        _ => 3,
    }
}

fn with_query(route: &str, query: &impl Serialize) -> String {
    // Fails for what is no list of names and values, which these types all are.
    let query = serde_urlencoded::to_string(query).unwrap_or_default();
    if query.is_empty() { route.to_owned() } else { format!("{route}?{query}") }
}

/// Events as they happen.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// The next one; `None` once the daemon has ended it.
    ///
    /// # Errors
    /// The connection broke off, or what comes is no event.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let event = serde_json::from_slice(&line);
                return event.map(Some).map_err(|_| Error::NotPhilote { path: self.path.clone() });
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(_)) => return Err(Error::Gone { path: self.path.clone() }),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(Error::NotPhilote { path: self.path.clone() });
            }
        }
    }
}

/// The beginning of an answer.
struct Answer {
    status: StatusCode,
    /// The version of who answers.
    theirs: String,
    body: Incoming,
}

impl Answer {
    async fn read(self, path: &Path) -> Result<(StatusCode, String, Bytes), Error> {
        let body = Limited::new(self.body, MAX_ANSWER).collect().await;
        let body = body.map_err(|_| Error::Gone { path: path.to_owned() })?.to_bytes();
        Ok((self.status, self.theirs, body))
    }

    /// Why nothing was done.
    async fn failure(self, path: &Path) -> Error {
        let (theirs, body) = match self.read(path).await {
            Ok((_, theirs, body)) => (theirs, body),
            Err(error) => return error,
        };
        match serde_json::from_slice::<Failure>(&body) {
            Ok(Failure { code: Code::NotFound | Code::MethodNotAllowed, .. }) if theirs != OUR_VERSION => {
                Error::OtherVersion { theirs }
            }
            Ok(failure) => Error::Refused(failure),
            Err(_) => strange(theirs, path),
        }
    }
}

/// An answer in no shape that is known here.
fn strange(theirs: String, path: &Path) -> Error {
    if theirs == OUR_VERSION {
        Error::NotPhilote { path: path.to_owned() }
    } else {
        Error::OtherVersion { theirs }
    }
}

async fn exchange<T: DeserializeOwned>(
    stream: UnixStream,
    path: &Path,
    method: Method,
    route: &str,
    body: &impl Serialize,
) -> Result<T, Error> {
    let answer = request(stream, path, method, route, body).await?;
    if answer.status != StatusCode::OK {
        return Err(answer.failure(path).await);
    }
    let (_, theirs, body) = answer.read(path).await?;
    serde_json::from_slice(&body).map_err(|_| strange(theirs, path))
}

/// Sends a request and reads the beginning of its answer.
async fn request(
    stream: UnixStream,
    path: &Path,
    method: Method,
    route: &str,
    body: &impl Serialize,
) -> Result<Answer, Error> {
    let not_philote = || Error::NotPhilote { path: path.to_owned() };
    let lost = |error: &hyper::Error| {
        if error.is_parse() { not_philote() } else { Error::Gone { path: path.to_owned() } }
    };
    let body = if method == Method::GET { Vec::new() } else { serde_json::to_vec(body).unwrap_or_default() };
    let request = Request::builder()
        .method(method)
        .uri(route)
        .header(HOST, "philote")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::<Bytes>::from(body))
        .map_err(|error| Error::Io { path: path.to_owned(), source: io::Error::other(error) })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| lost(&error))?;

    let theirs = answer
        .headers()
        .get(SERVER)
        .and_then(|value| value.to_str().ok()?.strip_prefix("philote/"))
        .map(str::to_owned)
        .ok_or_else(not_philote)?;
    Ok(Answer { status: answer.status(), theirs, body: answer.into_body() })
}
