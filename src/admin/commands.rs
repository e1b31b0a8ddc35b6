//! The commands of the admin socket: their routes, who may use them, and their audit lines.

use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api::{
    self, Code, DisconnectRequest, Disconnected, EventQuery, Failure, InspectRequest, LevelRequest,
    LiftRequest, Lifted, PublishRequest, Published, ReloadRequest, Reloaded, SecretChanged, SecretSet,
    TokenRequest,
};
use super::socket::Access;
use super::{Control, EventStream};
use crate::orders::{Actor, audit};

/// The most bytes of a request's body.
pub const MAX_BODY: usize = 64 * 1024;
/// The most bytes of the body of a request that publishes messages.
pub const MAX_PUBLISH: usize = 1024 * 1024;

/// The process that sent a request, as the kernel reports it (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    uid: u32,
    gid: u32,
    /// 0 if the kernel does not report it.
    pid: i32,
}

impl From<&tokio::net::unix::UCred> for Peer {
    fn from(credentials: &tokio::net::unix::UCred) -> Self {
        Self { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid().unwrap_or(0) }
    }
}

impl Peer {
    fn actor(self) -> Actor<'static> {
        let Peer { uid, gid, pid } = self;
        Actor::Peer { uid, gid, pid }
    }

    /// Fails unless the peer is root or the daemon's own user. Setting a secret needs this too, because it reveals the
    /// secret.
    fn may_know_secrets(self) -> Result<(), Failure> {
        if self.uid == 0 || self.uid == rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        Err(Failure::new(Code::Forbidden, "only root and the daemon's own user may show or set the secret")
            .hint("use sudo"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Status,
    Doctor,
    Metrics,
    Token,
    Inspect,
    SecretShow,
    SecretSet,
    SecretRotate,
    Reload,
    Ready,
    Connections,
    Closed,
    Explain,
    Channels,
    Disconnect,
    Refused,
    Lift,
    Nodes,
    Publish,
    LogLevel,
    SetLogLevel,
    Events,
}

impl Command {
    /// Returns the most bytes of its request's body.
    pub(super) fn max_body(self) -> usize {
        if self == Command::Publish { MAX_PUBLISH } else { MAX_BODY }
    }
}

/// The answer to a command.
pub(super) enum Answer {
    /// One JSON document.
    Json(Vec<u8>),
    /// Metrics in text format.
    Text(String),
    /// One line for each event.
    Events(EventStream),
}

/// The routes, and what they need. Events with messages need more; see [`follow`].
const ROUTES: [(Method, &str, Command, Access); 22] = [
    (Method::GET, api::STATUS, Command::Status, Access::Observe),
    (Method::GET, api::DOCTOR, Command::Doctor, Access::Observe),
    (Method::GET, api::METRICS, Command::Metrics, Access::Observe),
    (Method::POST, api::TOKEN, Command::Token, Access::Administer),
    (Method::POST, api::INSPECT, Command::Inspect, Access::Administer),
    (Method::GET, api::SECRET, Command::SecretShow, Access::Administer),
    (Method::PUT, api::SECRET, Command::SecretSet, Access::Administer),
    (Method::POST, api::SECRET_ROTATE, Command::SecretRotate, Access::Administer),
    (Method::POST, api::RELOAD, Command::Reload, Access::Administer),
    (Method::GET, api::READY, Command::Ready, Access::Observe),
    (Method::GET, api::CONNECTIONS, Command::Connections, Access::Observe),
    (Method::GET, api::CLOSED, Command::Closed, Access::Observe),
    (Method::GET, api::EXPLAIN, Command::Explain, Access::Observe),
    (Method::GET, api::CHANNELS, Command::Channels, Access::Observe),
    (Method::POST, api::DISCONNECT, Command::Disconnect, Access::Administer),
    (Method::GET, api::REFUSED, Command::Refused, Access::Observe),
    (Method::DELETE, api::REFUSED, Command::Lift, Access::Administer),
    (Method::GET, api::NODES, Command::Nodes, Access::Observe),
    (Method::POST, api::PUBLISH, Command::Publish, Access::Administer),
    (Method::GET, api::LOG_LEVEL, Command::LogLevel, Access::Observe),
    (Method::PUT, api::LOG_LEVEL, Command::SetLogLevel, Access::Administer),
    (Method::GET, api::EVENTS, Command::Events, Access::Observe),
];

/// The answer to a request without a matching route.
#[derive(Debug)]
pub(super) struct NoSuchCommand {
    pub(super) failure: Failure,
    /// The methods that the path accepts.
    pub(super) allow: Option<String>,
}

impl From<Failure> for NoSuchCommand {
    fn from(failure: Failure) -> NoSuchCommand {
        NoSuchCommand { failure, allow: None }
    }
}

/// The answer to a request that a socket for observing does not take.
fn not_here(what: &str) -> Failure {
    Failure::new(
        Code::Forbidden,
        format!("this socket is for observing only, and {what} needs the admin socket"),
    )
    .hint("name the admin socket: --socket PATH")
}

/// Finds the command for a method and a path, if the socket gives access to it.
pub(super) fn find(method: &Method, path: &str, access: Access) -> Result<Command, NoSuchCommand> {
    let of_path = || ROUTES.iter().filter(|(_, route, ..)| *route == path);
    if let Some((_, _, command, needed)) = of_path().find(|(allowed, ..)| allowed == method) {
        return if *needed <= access {
            Ok(*command)
        } else {
            Err(not_here(&format!("{method} {path}")).into())
        };
    }
    let methods: Vec<_> = of_path().map(|(allowed, ..)| allowed.as_str()).collect();
    if methods.is_empty() {
        let message = format!("philote {} has no admin route {path}", env!("CARGO_PKG_VERSION"));
        return Err(NoSuchCommand { failure: Failure::new(Code::NotFound, message), allow: None });
    }
    let allow = methods.join(", ");
    let failure = Failure::new(Code::MethodNotAllowed, format!("{path} accepts {allow}"));
    Err(NoSuchCommand { failure, allow: Some(allow) })
}

/// Runs a command. `query` is that of the URL. May block.
pub(super) fn run(
    command: Command,
    query: &str,
    body: &[u8],
    (peer, access): (Peer, Access),
    control: &dyn Control,
) -> Result<Answer, Failure> {
    let json = match command {
        Command::Events => {
            return follow(&parse_query(query)?, (peer, access), control).map(Answer::Events);
        }
        Command::Metrics => return control.metrics().map(Answer::Text),
        Command::Status => json(control.status()),
        Command::Doctor => {
            let observes_only = access == Access::Observe;
            json(control.doctor().map(|checkup| api::Checkup { observes_only, ..checkup }))
        }
        Command::Ready => json(control.ready()),
        Command::Inspect => {
            let request: InspectRequest = parse(body, r#"{"token": "..."}"#)?;
            json(control.inspect(&request.token.0))
        }
        Command::Token => {
            let request: TokenRequest = parse(body, r#"{"read": ["chat"], "write": ["chat"]}"#)?;
            let what = describe(&request);
            audited(peer, "token", &what, control.issue_token(request), |_| "1 issued".into())
        }
        Command::SecretShow => {
            let answer = peer.may_know_secrets().and_then(|()| control.secret_show());
            audited(peer, "secret show", "", answer, |shown| format!("{} shown", shown.secrets.len()))
        }
        Command::SecretSet => {
            let answer = peer.may_know_secrets().and_then(|()| {
                let request: SecretSet = parse(body, r#"{"secret": "one a line, the first signs"}"#)?;
                control.secret_set(&request.secret.0)
            });
            audited(peer, "secret set", "", answer, changed)
        }
        Command::SecretRotate => audited(peer, "secret rotate", "", control.secret_rotate(), changed),
        Command::Reload => {
            let request =
                if body.is_empty() { ReloadRequest::default() } else { parse(body, r#"{"dry_run": true}"#)? };
            let answer = control.reload(request.dry_run);
            if request.dry_run { json(answer) } else { audited(peer, "reload", "", answer, reloaded) }
        }
        Command::Connections => json(control.connections(&parse_query(query)?)),
        Command::Closed => json(control.closed(&parse_query(query)?)),
        Command::Explain => json(control.explain(&parse_query(query)?)),
        Command::Channels => json(control.channels(&parse_query(query)?)),
        Command::Refused => json(control.refused(&parse_query(query)?)),
        Command::Nodes => json(control.nodes()),
        Command::LogLevel => json(control.log_level()),
        Command::Disconnect => {
            let request: DisconnectRequest = parse(body, r#"{"subject": "alice"}"#)?;
            let answer = control.disconnect(&request);
            if request.dry_run {
                return json(answer).map(Answer::Json);
            }
            let count = answer.as_ref().map_or(0, |answer| answer.matched);
            let closed = |answer: &Disconnected| format!("{} being closed", answer.matched);
            audited(peer, "disconnect", &format!("of {count}: {}", request.order()), answer, closed)
        }
        Command::Lift => {
            let LiftRequest { subject } = parse(body, r#"{"subject": "alice"}"#)?;
            let lifted = |answer: &Lifted| format!("{} lifted", answer.matched);
            audited(peer, "refused remove", &format!("{subject:?}"), control.lift(&subject), lifted)
        }
        Command::Publish => {
            let request: PublishRequest =
                parse(body, r#"{"messages": [{"channel": "chat", "data": "hello"}]}"#)?;
            let queued = |answer: &Published| {
                format!(
                    "queued for {}",
                    answer
                        .published
                        .iter()
                        .filter_map(|message| message.readers.or(message.readers_here))
                        .sum::<u64>()
                )
            };
            audited(peer, "publish", &what(&request), control.publish(&request), queued)
        }
        Command::SetLogLevel => {
            let LevelRequest { level } = parse(body, r#"{"level": "debug"}"#)?;
            audited(peer, "log-level", &format!("{level:?}"), control.set_log_level(level), |_| {
                "1 changed".into()
            })
        }
    };
    json.map(Answer::Json)
}

/// Starts a stream of events. Following messages leaves an audit line, because messages may be private.
fn follow(
    query: &EventQuery,
    (peer, access): (Peer, Access),
    control: &dyn Control,
) -> Result<EventStream, Failure> {
    if query.messages && access < Access::Administer {
        return Err(not_here("following messages"));
    }
    let answer = control.events(query.clone());
    if query.messages {
        let channel = query.channel.as_ref().map_or_else(|| "all".into(), |channel| format!("{channel:?}"));
        let outcome = answer.as_ref().err().map_or("done", |failure| failure.message.as_str());
        audit(peer.actor(), "events", &format!("with the messages of {channel}"), outcome);
    }
    answer
}

/// Describes a publish request for an audit line: the number of messages and their channels, but no data.
fn what(request: &PublishRequest) -> String {
    let mut channels: Vec<&str> = request.messages.iter().map(|message| message.channel.as_str()).collect();
    channels.sort_unstable();
    channels.dedup();
    let more = channels.len().saturating_sub(api::MAX_NAMES);
    channels.truncate(api::MAX_NAMES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("of {} on {channels:?}{more}", request.messages.len())
}

fn json<T: Serialize>(answer: Result<T, Failure>) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(&answer?).map_err(|error| {
        Failure::new(Code::Internal, format!("the answer could not be written as JSON: {error}"))
    })
}

/// Parses a body. The error contains only the position, because its text might quote a secret or a token from the body.
fn parse<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let message = format!("the request body is invalid at line {line}, column {column}");
        Failure::new(Code::BadRequest, message).hint(format!("send for example {example}"))
    })
}

/// Parses the query of a URL.
fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, Failure> {
    serde_urlencoded::from_str(query)
        .map_err(|error| Failure::new(Code::BadRequest, format!("the query of the URL is invalid: {error}")))
}

/// Writes the audit line of a command, which names the peer, the command and the outcome, and returns the answer as
/// JSON.
fn audited<T: Serialize>(
    peer: Peer,
    command: &'static str,
    what: &str,
    answer: Result<T, Failure>,
    came_to: impl FnOnce(&T) -> String,
) -> Result<Vec<u8>, Failure> {
    match &answer {
        Ok(answer) => audit(peer.actor(), command, what, &format!("done, {}", came_to(answer))),
        Err(failure) => audit(peer.actor(), command, what, &failure.message),
    }
    json(answer)
}

fn changed(answer: &SecretChanged) -> String {
    format!("{} in use, {} closing", answer.secrets, answer.closing)
}

fn reloaded(answer: &Reloaded) -> String {
    let Reloaded { applied, needs_restart, closing, .. } = answer;
    format!("{} applied, {} need a restart, {closing} closing", applied.len(), needs_restart.len())
}

/// Describes a token request for an audit line. Names are quoted, so that no name can look like another line.
fn describe(request: &TokenRequest) -> String {
    let TokenRequest { read, write, may, presence, info, api, subject, expires_in } = request;
    let life = expires_in.map_or_else(|| "that never expires".into(), |seconds| format!("for {seconds} s"));
    let subject = subject.as_ref().map_or_else(String::new, |subject| format!(" subject {subject:?}"));
    let write = write.as_deref().unwrap_or_default();
    let api = if api.is_none() { String::new() } else { format!(" with api: {api}") };
    let may = if may.is_empty() {
        String::new()
    } else {
        format!(" may read {:?} may write {:?}", may.read, may.write)
    };
    let presence = if *presence { " with presence" } else { "" };
    let info = info
        .as_ref()
        .map_or_else(String::new, |info| format!(" info {:?}", serde_json::json!(info).to_string()));
    format!("{life}{subject} read {read:?} write {write:?}{may}{presence}{info}{api}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::NewMay;

    #[test]
    fn routes_are_found_by_method_and_path() {
        let find = |method: &Method, path: &str| find(method, path, Access::Administer);
        for (method, path, command, _) in &ROUTES {
            assert_eq!(find(method, path).unwrap(), *command);
        }
        let refused = find(&Method::DELETE, "/v1/secret").unwrap_err();
        assert_eq!(
            (refused.failure.code, refused.allow.as_deref()),
            (Code::MethodNotAllowed, Some("GET, PUT"))
        );
        assert_eq!(find(&Method::GET, "/v2/status").unwrap_err().failure.code, Code::NotFound);
        assert_eq!(find(&Method::GET, "/v1/status/").unwrap_err().failure.code, Code::NotFound);
    }

    #[test]
    fn an_audit_line_cannot_be_forged_by_a_name() {
        let request = TokenRequest {
            read: vec!["a\nadmin: all is well".into()],
            subject: Some("eve\u{1b}[2J".into()),
            expires_in: Some(60),
            ..TokenRequest::default()
        };
        assert_eq!(
            describe(&request),
            r#"for 60 s subject "eve\u{1b}[2J" read ["a\nadmin: all is well"] write []"#
        );
        let may = NewMay { read: vec!["room:*\n".into()], write: Vec::new() };
        let request = TokenRequest { may, expires_in: None, ..TokenRequest::default() };
        assert_eq!(
            describe(&request),
            r#"that never expires read [] write [] may read ["room:*\n"] may write []"#
        );
    }

    #[test]
    fn an_error_does_not_quote_the_body() {
        let failure = parse::<SecretSet>(br#"{"secret": "hunter2", "x": "hunter3"}"#, "{}").unwrap_err();
        assert_eq!(failure.code, Code::BadRequest);
        assert!(!failure.message.contains("hunter"), "{failure}");
        let failure = parse::<SecretSet>(br#"["hunter2"#, "{}").unwrap_err();
        assert_eq!(failure.message, "the request body is invalid at line 1, column 9");
    }
}
