//! The client of the admin socket, for `philotectl` and `jane`.

mod error;
mod events;

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

pub use self::error::Error;
use self::error::OUR_VERSION;
pub use self::events::Events;
use super::api::{
    self, ChannelQuery, Channels, Checkup, ClosedConnections, ClosedQuery, ClusterNodes, Code,
    ConnectionQuery, Connections, DisconnectRequest, Disconnected, EventQuery, ExplainQuery, Explanation,
    Failure, InspectRequest, Inspection, IssuedToken, Level, LevelRequest, Levels, LiftRequest, Lifted,
    PublishRequest, Published, Ready, RefusedQuery, RefusedSubjects, ReloadRequest, Reloaded, SecretChanged,
    SecretSet, Secrets, Status, TokenRequest,
};

/// The most bytes of an answer, far more than a daemon sends.
pub const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// The pause between two attempts to connect to a socket whose backlog is full.
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// A client of one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    paths: Vec<PathBuf>,
    within: Duration,
}

impl Client {
    /// Creates a client of the daemon on the first of `paths` that accepts a connection. Each request takes at most
    /// `within`.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>, within: Duration) -> Self {
        Self { paths, within }
    }

    /// Returns the socket that requests reach, and those after it on which other daemons run. `None` if there are none: the
    /// usual case.
    #[must_use]
    pub fn others(&self) -> Option<(&Path, Vec<&Path>)> {
        if self.paths.len() < 2 {
            return None;
        }
        let runs = |path: &&Path| std::os::unix::net::UnixStream::connect(path).is_ok();
        let mut running = self.paths.iter().map(PathBuf::as_path).filter(runs);
        let reached = running.next()?;
        let others: Vec<_> = running.collect();
        (!others.is_empty()).then_some((reached, others))
    }

    /// Returns the socket that requests reach.
    #[must_use]
    pub fn reached(&self) -> Option<PathBuf> {
        let runs = |path: &&PathBuf| std::os::unix::net::UnixStream::connect(path).is_ok();
        self.paths.iter().find(runs).cloned()
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// All requests fail with [`Error`].
    pub async fn status(&self) -> Result<Status, Error> {
        self.ask(Method::GET, api::STATUS, &()).await
    }

    /// `GET /v1/doctor`.
    pub async fn doctor(&self) -> Result<Checkup, Error> {
        self.ask(Method::GET, api::DOCTOR, &()).await
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

    /// `GET /v1/explain`.
    pub async fn explain(&self, query: &ExplainQuery) -> Result<Explanation, Error> {
        self.list(api::EXPLAIN, query).await
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
    pub async fn refused(&self, query: &RefusedQuery) -> Result<RefusedSubjects, Error> {
        self.list(api::REFUSED, query).await
    }

    /// `GET /v1/nodes`.
    pub async fn nodes(&self) -> Result<ClusterNodes, Error> {
        self.ask(Method::GET, api::NODES, &()).await
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

    /// `GET /v1/events`. The time limit applies only to the head of the answer.
    pub async fn events(&self, query: &EventQuery) -> Result<Events, Error> {
        let route = with_query(api::EVENTS, query);
        self.in_time(async |stream, path| {
            let answer = request(stream, path, Method::GET, &route, &()).await?;
            if answer.status == StatusCode::OK {
                return Ok(Events::new(path, answer.body));
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

    /// Connects and runs `talk` on the connection, within the time limit.
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

    /// Returns the user of the process that listens, if it is a stranger's. One path was named by the user of this program; of
    /// several, each but the system's is in a directory whose name comes from the environment, which root may have kept from
    /// another user.
    fn stranger(&self, path: &Path, stream: &UnixStream) -> Option<u32> {
        if self.paths.len() < 2 || path == Path::new(super::path::SYSTEM) {
            return None;
        }
        let own = rustix::process::geteuid().as_raw();
        // Linux always tells it.
        let user = stream.peer_cred().ok()?.uid();
        (user != own && user != 0).then_some(user)
    }

    fn first(&self) -> &Path {
        self.paths.first().map_or(Path::new(super::path::SYSTEM), PathBuf::as_path)
    }

    /// Connects to the first socket that accepts the connection; if none does, returns the most specific error.
    async fn connect(&self) -> Result<(UnixStream, &PathBuf), Error> {
        if self.paths.is_empty() {
            return Err(Error::SwitchedOff);
        }
        let mut best = Error::NotRunning { path: self.first().to_owned() };
        for path in &self.paths {
            let error = loop {
                match UnixStream::connect(path).await {
                    Ok(stream) => match self.stranger(path, &stream) {
                        None => return Ok((stream, path)),
                        Some(user) => return Err(Error::OfAnotherUser { path: path.clone(), user }),
                    },
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
            if specificity(&found) > specificity(&best) {
                best = found;
            }
        }
        Err(best)
    }
}

fn specificity(error: &Error) -> u8 {
    match error {
        Error::NotRunning { .. } => 0,
        Error::Dead { .. } => 1,
        Error::Io { .. } => 2,
        _ => 3,
    }
}

fn with_query(route: &str, query: &impl Serialize) -> String {
    // It fails only for types that are not lists of names and values.
    let query = serde_urlencoded::to_string(query).unwrap_or_default();
    if query.is_empty() { route.to_owned() } else { format!("{route}?{query}") }
}

/// The head of an answer, and its body, which is not read yet.
struct Answer {
    status: StatusCode,
    /// The version of the daemon.
    theirs: String,
    body: Incoming,
}

impl Answer {
    async fn read(self, path: &Path) -> Result<(StatusCode, String, Bytes), Error> {
        let body = Limited::new(self.body, MAX_ANSWER).collect().await;
        let body = body.map_err(|_| Error::Gone { path: path.to_owned() })?.to_bytes();
        Ok((self.status, self.theirs, body))
    }

    /// Reads the error in an answer.
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
            Err(_) => unknown_answer(theirs, path),
        }
    }
}

/// The error for an answer that is not the expected document.
fn unknown_answer(theirs: String, path: &Path) -> Error {
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
    serde_json::from_slice(&body).map_err(|_| unknown_answer(theirs, path))
}

/// Sends a request, and reads the head of its answer.
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
