//! A fake daemon: the real admin server over a `Control` with canned answers.

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};

use philote::admin::api::*;
use philote::admin::{Control, EventStream};

use crate::output;

/// Must appear in no log, and only in answers that contain the secret by design.
pub(crate) const SECRET: &str = "correct-horse-battery-staple";
/// The same for the issued token.
pub(crate) const TOKEN: &str = "header.claims.signature";

/// A `Control` whose answers the test sets.
pub(crate) struct Fake {
    pub(crate) status: Mutex<Status>,
    pub(crate) checkup: Mutex<Checkup>,
    pub(crate) reload: Mutex<Result<Reloaded, Failure>>,
    pub(crate) ready: Mutex<Result<Ready, Failure>>,
    pub(crate) inspection: Mutex<Inspection>,
    /// The requests that arrived, for the test to check.
    pub(crate) seen: Mutex<Vec<String>>,
    /// If set, a reload reports its start and waits here.
    pub(crate) gate: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl Control for Fake {
    fn status(&self) -> Result<Status, Failure> {
        Ok(self.status.lock().unwrap().clone())
    }
    fn doctor(&self) -> Result<Checkup, Failure> {
        Ok(self.checkup.lock().unwrap().clone())
    }
    fn metrics(&self) -> Result<String, Failure> {
        Ok("a 1\n".into())
    }
    fn issue_token(&self, request: TokenRequest) -> Result<IssuedToken, Failure> {
        let expires_at = request.expires_in.map(|seconds| Timestamp::from_unix(1_795_344_300 + seconds));
        self.see(&format!("{request:?}"));
        Ok(IssuedToken { token: Hidden(TOKEN.into()), expires_at })
    }
    fn inspect(&self, token: &str) -> Result<Inspection, Failure> {
        self.see(token);
        Ok(self.inspection.lock().unwrap().clone())
    }
    fn secret_show(&self) -> Result<Secrets, Failure> {
        let secrets = vec![Hidden(SECRET.into()), Hidden("older".into())];
        Ok(Secrets { secrets, source: "/var/lib/philote/secret".into() })
    }
    fn secret_set(&self, lines: &str) -> Result<SecretChanged, Failure> {
        self.see(lines);
        let secrets = lines.lines().count() as u64;
        Ok(SecretChanged { path: "/var/lib/philote/secret".into(), secrets, closing: 3 })
    }
    fn secret_rotate(&self) -> Result<SecretChanged, Failure> {
        Err(Failure::new(Code::Conflict, "the secret comes from the environment variable SECRET")
            .hint("change it where it is set, then restart"))
    }
    fn reload(&self, dry_run: bool) -> Result<Reloaded, Failure> {
        if dry_run {
            let result = self.reload.lock().unwrap().clone();
            return result.map(|reloaded| Reloaded { dry_run, ..reloaded });
        }
        if let Some((begun, go)) = self.gate.lock().unwrap().take() {
            begun.send(()).unwrap();
            go.recv().unwrap();
        }
        self.reload.lock().unwrap().clone()
    }
    fn ready(&self) -> Result<Ready, Failure> {
        self.see("ready");
        self.ready.lock().unwrap().clone()
    }
    fn connections(&self, query: &ConnectionQuery) -> Result<Connections, Failure> {
        self.see(&format!("{query:?}"));
        Ok(Connections { matched: 12_345, connections: vec![connection(), slow_connection()], nodes: None })
    }
    fn closed(&self, query: &ClosedQuery) -> Result<ClosedConnections, Failure> {
        self.see(&format!("{query:?}"));
        let reasons = vec![
            ReasonCount { reason: "bad_signature".into(), total: 40_001, remembered: 1 },
            ReasonCount { reason: "slow_consumer".into(), total: 1, remembered: 1 },
        ];
        Ok(ClosedConnections {
            matched: 2,
            connections: vec![slow_consumer(), bad_signature()],
            reasons,
            nodes: None,
        })
    }
    fn explain(&self, query: &ExplainQuery) -> Result<Explanation, Failure> {
        self.see(&format!("{query:?}"));
        Ok(explanation(query.id.as_deref()))
    }
    fn channels(&self, query: &ChannelQuery) -> Result<Channels, Failure> {
        self.see(&format!("{query:?}"));
        Ok(Channels { matched: 1, channels: vec![a_channel()], nodes: None })
    }
    fn disconnect(&self, request: &DisconnectRequest) -> Result<Disconnected, Failure> {
        self.see(&format!("{request:?}"));
        let matched = if request.subject.as_deref() == Some("nobody") { 0 } else { 2 };
        let refused_until = request.refuse_for.map(|seconds| Timestamp::from_unix(1_795_344_300 + seconds));
        Ok(Disconnected { matched, dry_run: request.dry_run, refused_until, nodes: None })
    }
    fn refused(&self, query: &RefusedQuery) -> Result<RefusedSubjects, Failure> {
        self.see(&format!("{query:?}"));
        let until = Timestamp::from_unix(1_795_344_300);
        Ok(RefusedSubjects { refused: vec![RefusedSubject { subject: "eve".into(), until }], nodes: None })
    }
    fn nodes(&self) -> Result<ClusterNodes, Failure> {
        Ok(ClusterNodes { nodes: vec![a_node("a", Link::Up), a_node("b\u{1b}", Link::Down)], steering: true })
    }
    fn lift(&self, subject: &str) -> Result<Lifted, Failure> {
        self.see(subject);
        Ok(Lifted { matched: u64::from(subject == "eve"), nodes: None })
    }
    fn publish(&self, request: &PublishRequest) -> Result<Published, Failure> {
        let published = |message: &Message| {
            self.see(&format!("{message:?}"));
            PublishedMessage {
                channel: message.channel.clone(),
                readers: Some(3),
                readers_here: None,
                id: None,
            }
        };
        Ok(Published { published: request.messages.iter().map(published).collect() })
    }
    fn log_level(&self) -> Result<Levels, Failure> {
        Ok(Levels { level: Level::Info, configured: Level::Info })
    }
    fn set_log_level(&self, level: Level) -> Result<Levels, Failure> {
        Ok(Levels { level, configured: Level::Info })
    }
    fn events(&self, query: EventQuery) -> Result<EventStream, Failure> {
        self.see(&format!("{query:?}"));
        Ok(Box::pin(futures_util::stream::iter(every_event())))
    }
}

/// A connection as `connections` lists it.
fn a_node(name: &str, link: Link) -> ClusterNode {
    ClusterNode {
        name: name.into(),
        this: link == Link::Up,
        start: "00000000000000ff".into(),
        version: "1.0.0".into(),
        mode: "relay".into(),
        connections: 1234,
        messages_per_second: 12.34,
        link,
        last_seen_at: Timestamp::from_unix(1_795_344_300),
    }
}

pub(crate) fn connection() -> Connection {
    Connection {
        node: None,
        id: "5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a".parse().unwrap(),
        subject: Some("alice\u{1b}".into()),
        address: "192.0.2.7:51234".parse().unwrap(),
        transport: "websocket".into(),
        connected_at: Timestamp::from_unix(1_795_344_300),
        age_seconds: 303,
        idle_seconds: 7,
        queued_messages: 1,
        queued_bytes: 2048,
        greatest_queue: 4,
        messages_in: 1234,
        messages_out: 56_789,
        bytes_in: 100_000,
        bytes_out: 5_000_000,
        read: vec!["chat".into(), "news".into()],
        read_count: 20,
        joined: vec!["news".into()],
        joined_count: 1,
        write: vec!["chat".into()],
        write_count: 1,
        may: philote::token::NewMay { read: vec!["ne*".into()], write: Vec::new() },
        expires_at: Some(Timestamp::from_unix(1_795_347_900)),
        closing: None,
        compression: true,
    }
}

fn slow_connection() -> Connection {
    let id = "00000001-6c3c-4c0e-9a53-0d8e3c1f3b7a".parse().unwrap();
    Connection {
        id,
        subject: None,
        closing: Some("slow_consumer".into()),
        compression: false,
        ..connection()
    }
}

/// A closed connection as `connections --state closed` lists it.
pub(crate) fn slow_consumer() -> ClosedConnection {
    ClosedConnection {
        node: None,
        at: Timestamp::from_unix(1_795_344_300),
        ending: Ending::Closed,
        id: Some("5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a".parse().unwrap()),
        subject: Some("alice".into()),
        subject_verified: true,
        address: "192.0.2.7:51234".parse().unwrap(),
        reason: "slow_consumer".into(),
        code: 4413,
        message: "too slow: more was waiting for this connection than queue limits allow".into(),
        duration_seconds: 12.5,
        messages_in: 0,
        messages_out: 4097,
        bytes_in: 5,
        bytes_out: 1_048_576,
        greatest_queue: 4096,
    }
}

/// A refused request as `connections --state closed` lists it.
pub(crate) fn bad_signature() -> ClosedConnection {
    ClosedConnection {
        ending: Ending::Refused,
        id: None,
        subject_verified: false,
        reason: "bad_signature".into(),
        code: 401,
        message: "the token has a bad signature".into(),
        duration_seconds: 0.0,
        messages_out: 0,
        bytes_in: 0,
        bytes_out: 0,
        greatest_queue: 0,
        ..slow_consumer()
    }
}

/// A subject that was cut off, came back, left without a gap, missed something, and is here.
pub(crate) fn explanation(id: Option<&str>) -> Explanation {
    let at = |seconds| Timestamp::from_unix(1_795_344_300 + seconds);
    let row = |from, until: Option<(u64, u16, &str)>, place: Option<[&str; 3]>| Reading {
        node: None,
        id: connection().id,
        address: connection().address,
        connected_at: at(from),
        closed: until.map(|(until, code, message)| ClosedReading {
            at: at(until),
            reason: "r".into(),
            code,
            message: message.into(),
        }),
        reads: until.is_none(),
        place: place.map(|[after, up_to, last]| ReadPlace {
            after: after.into(),
            up_to: (up_to != "?").then(|| up_to.into()),
            last: last.into(),
        }),
    };
    Explanation {
        subject: "alice".into(),
        channel: "room:42".into(),
        history: Some(KeptHistory {
            after: "a1-10".into(),
            last: "a1-50".into(),
            before_start: "a1-0".into(),
        }),
        connections: vec![
            row(0, Some((9, 4413, "too slow\u{1b}")), Some(["a1-0", "a1-41", "a1-43"])),
            row(10, Some((19, 1001, "stopping")), Some(["a1-41", "a1-43", "a1-43"])),
            row(20, Some((29, 1006, "gone")), Some(["a1-45", "a1-45", "a1-46"])),
            row(30, Some((39, 1006, "gone")), None),
            row(40, None, Some(["a1-46", "?", "a1-50"])),
        ],
        matched: 7,
        since: at(0),
        complete: false,
        verdict: id.map(|id| Judged {
            id: id.into(),
            verdict: if id == "a1-41" { MessageOutcome::Written } else { MessageOutcome::NotWritten },
            message: "because".into(),
        }),
        nodes: None,
    }
}

/// A channel as `channels` lists it.
pub(crate) fn a_channel() -> Channel {
    let messages_per_second = 12.5;
    Channel { channel: "chat".into(), readers: 1234, writers: 5, messages: 678, messages_per_second }
}

/// One event of each kind.
pub(crate) fn every_event() -> Vec<Event> {
    let at = Timestamp::from_unix(1_795_344_300);
    let Connection { id, subject, address, .. } = connection();
    vec![
        Event::Connected { at, id, subject, address },
        Event::Ended(slow_consumer()),
        Event::Ended(bad_signature()),
        Event::Reloaded {
            at,
            applied: vec!["log.level".into()],
            needs_restart: vec!["listen".into()],
            error: None,
        },
        Event::SecretChanged { at, secrets: 2 },
        Event::Message {
            at,
            issuer: id.to_string(),
            subject: Some("alice".into()),
            channel: "chat".into(),
            data: Some("hello\nworld".into()),
            readers: 3,
        },
        Event::Missed { missed: 7 },
    ]
}

impl Fake {
    fn see(&self, what: &str) {
        self.seen.lock().unwrap().push(what.into());
    }

    pub(crate) fn last_seen(&self) -> String {
        self.seen.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

pub(crate) fn status() -> Status {
    Status {
        version: "1.0.0".into(),
        pid: 4711,
        state: State::Serving,
        drain_ends_at: None,
        started_at: Timestamp::from_unix(1_795_344_300),
        uptime_seconds: 273_906,
        listeners: vec!["[::]:6380".into()],
        tls: None,
        config_file: Some("/etc/philote/philote.toml".into()),
        connections: 12,
        max_connections: 255,
        max_connections_source: Some("default".into()),
        descriptor_limit: None,
        channels: 3,
        accepted: 1234,
        refused: 5,
        closed: 1222,
        messages_in: 99_000,
        deliveries: 1_000_000,
        messages_in_per_second: 12.34,
        deliveries_per_second: 120.0,
        memory_bytes: 12_897_484,
        queued_bytes: 0,
        max_queued_bytes: 1 << 30,
        secret_source: "/var/lib/philote/secret".into(),
        secrets: 2,
        last_reload: None,
        rate_limited: 0,
        compression: None,
        log_records_dropped: 0,
        cluster: None,
    }
}

/// Everything that this process has logged, as text.
pub(crate) fn log() -> String {
    String::from_utf8(LOG.lock().unwrap().clone()).unwrap()
}

pub(crate) static LOG: LazyLock<Arc<Mutex<Vec<u8>>>> = LazyLock::new(|| {
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = {
        let log = Arc::clone(&log);
        move || Lines(Arc::clone(&log))
    };
    tracing_subscriber::fmt().with_writer(writer).with_ansi(false).init();
    log
});

struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        output::keep(&String::from_utf8_lossy(bytes));
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A gate at which a reload waits: `begun` yields when the reload is there; sending to `go` or dropping it opens the gate.
pub(crate) fn gate(fake: &Fake) -> (Receiver<()>, Sender<()>) {
    let ((begun_in, begun), (go, go_out)) = (channel(), channel());
    *fake.gate.lock().unwrap() = Some((begun_in, go_out));
    (begun, go)
}
