//! `GET /api/events`: who opens and closes connections, and who comes to the selected channels, as a backend sees it.

mod limits;

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::body::Body;
use crate::support::{Client, Daemon, sign, status};

/// An open stream of events.
pub struct Events<S: Read = TcpStream> {
    pub body: Body<S>,
}

impl Events {
    pub fn open(daemon: &Daemon, path: &str, token: &str, more: &str) -> Events {
        let stream = daemon.connect();
        Events::on(stream, &request(path, token, more))
    }

    /// With a token that may do all, and these channels selected.
    pub fn of(daemon: &Daemon, channels: &[&str]) -> Events {
        Events::after(daemon, channels, None)
    }

    fn after(daemon: &Daemon, channels: &[&str], last: Option<&str>) -> Events {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(channels.iter().map(|channel| ("channel", channel)));
        let header = last.map(|last| format!("Last-Event-ID: {last}\r\n")).unwrap_or_default();
        let events = Events::open(daemon, &query.finish(), &sign(&json!({"api": ["events"]})), &header);
        assert_eq!(status(&events.body.head), 200, "{}", events.body.head);
        events
    }
}

impl<S: Read + Write> Events<S> {
    fn on(stream: S, request: &str) -> Events<S> {
        Events { body: Body::of(stream, request) }
    }

    /// The next line as text; `None` at the end of the body.
    pub fn text(&mut self) -> Option<String> {
        self.body.line()
    }

    /// The next line.
    pub fn next(&mut self) -> Value {
        serde_json::from_str(&self.text().expect("the stream has ended")).unwrap()
    }

    /// The next line as `event channel subject reason`, without what is absent, and the rest checked.
    pub fn brief(&mut self) -> String {
        let line = self.next();
        assert!(line["at"].as_str().unwrap().ends_with('Z'), "{line}");
        let words = ["event", "channel", "subject", "reason"].map(|key| line[key].as_str());
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    fn briefs(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.brief()).collect()
    }

    /// The last line of the stream.
    fn ended(&mut self) -> Value {
        loop {
            let line = self.next();
            if line["event"] == "ended" {
                assert_eq!(self.text(), None);
                return line;
            }
        }
    }
}

fn request(path: &str, token: &str, more: &str) -> String {
    format!("GET /api/events?{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{more}\r\n")
}

/// A client that may join all rooms.
fn named(daemon: &Daemon, subject: &str, read: &[&str]) -> Client {
    daemon.client_with(&json!({"sub": subject, "read": read, "may": {"read": ["room:*"]}}))
}

fn ask(client: &mut Client, frame: &Value) -> Value {
    client.send(frame.to_string());
    client.receive()
}

#[test]
fn a_backend_learns_who_opens_and_closes_connections_and_who_comes_to_channels() {
    let daemon = Daemon::start("[presence]\ngrace = \"0s\"\n");
    let mut events = Events::of(&daemon, &["room:*", "hall"]);
    let first = events.next();
    assert_eq!((&first["event"], &first["node"]), (&json!("alive"), &Value::Null), "{first}");
    let mut ann = named(&daemon, "ann", &["hall", "lobby"]);
    assert_eq!(events.briefs(3), ["opened ann", "occupied hall", "joined hall ann"]);
    ask(&mut ann, &json!({"join": ["room:1"]}));
    let twin = named(&daemon, "ann", &["hall"]);
    let nobody = daemon.client(&["room:1", "lobby"]);
    assert_eq!(events.briefs(4), ["occupied room:1", "joined room:1 ann", "opened ann", "opened"]);
    ask(&mut ann, &json!({"leave": ["room:1"]}));
    assert_eq!(events.brief(), "left room:1 ann");
    drop(nobody);
    assert_eq!(events.briefs(2), ["closed client_gone", "vacated room:1"]);
    drop(twin);
    assert_eq!(events.brief(), "closed ann client_gone");
    ann.socket.close(None).unwrap();
    let closed = events.next();
    assert_eq!(
        (&closed["event"], &closed["code"], &closed["reason"]),
        (&json!("closed"), &json!(1000), &json!("client_closed"))
    );
    assert_eq!(events.briefs(2), ["left hall ann", "vacated hall"]);
}

#[test]
fn without_a_selection_only_connections_are_told() {
    let daemon = Daemon::start("[presence]\ngrace = \"0s\"\n");
    let mut events = Events::of(&daemon, &[]);
    let mut ann = named(&daemon, "ann", &["hall"]);
    ask(&mut ann, &json!({"join": ["room:1"]}));
    drop(ann);
    assert_eq!(events.briefs(3), ["alive", "opened ann", "closed ann client_gone"]);
    let _bob = named(&daemon, "bob", &["hall"]);
    assert_eq!(events.brief(), "opened bob");
}

#[test]
fn a_return_within_the_grace_is_no_event() {
    let daemon = Daemon::start("[presence]\ngrace = \"1h\"\n");
    let mut events = Events::of(&daemon, &["hall"]);
    let ann = named(&daemon, "ann", &["hall"]);
    drop(ann);
    let expected = ["alive", "opened ann", "occupied hall", "joined hall ann", "closed ann client_gone"];
    assert_eq!(events.briefs(5), expected);
    let _ann = named(&daemon, "ann", &["hall"]);
    let _bob = named(&daemon, "bob", &["hall"]);
    assert_eq!(events.briefs(3), ["opened ann", "opened bob", "joined hall bob"]);
}

#[test]
fn another_token_of_an_open_connection_changes_who_is_there() {
    let daemon = Daemon::start("[presence]\ngrace = \"0s\"\n");
    let mut events = Events::of(&daemon, &["hall"]);
    let mut ann = named(&daemon, "ann", &["hall"]);
    assert_eq!(events.briefs(4), ["alive", "opened ann", "occupied hall", "joined hall ann"]);
    ann.send(json!({"auth": sign(&json!({"sub": "bob", "read": ["hall"]}))}).to_string());
    assert_eq!(events.briefs(2), ["joined hall bob", "left hall ann"]);
    drop(ann);
    assert_eq!(events.briefs(3), ["closed bob client_gone", "left hall bob", "vacated hall"]);
}

#[test]
fn a_token_selects_only_channels_that_it_may_see() {
    let daemon = Daemon::start("");
    let token = sign(&json!({"api": ["events"], "read": ["hall"], "may": {"read": ["room:1*", "dm:7"]}}));
    for (path, hidden) in [
        ("channel=lobby", "lobby"),
        ("channel=hall&channel=room:2", "room:2"),
        ("channel=room:2*", "room:2*"),
        ("channel=halls*", "halls*"),
    ] {
        let (code, answer) = daemon.http("GET", &format!("/api/events?{path}"), &token, "");
        let sentence = format!("this token may not see channel \"{hidden}\"");
        assert_eq!((code, &answer["message"]), (403, &json!(sentence)), "{path}");
    }
    let mut events = Events::open(&daemon, "channel=*", &token, "");
    assert_eq!(events.brief(), "alive");
    let mut ann = named(&daemon, "ann", &["hall", "lobby", "dm:7", "dm:70"]);
    ask(&mut ann, &json!({"join": ["room:2", "room:1", "room:17"]}));
    let mut told: Vec<String> = events.briefs(9);
    told.retain(|line| line.starts_with("joined"));
    let channels = ["dm:7", "hall", "room:1", "room:17"];
    told.sort();
    assert_eq!(told, channels.map(|channel| format!("joined {channel} ann")));
    // Nothing of other channels came in between.
    named(&daemon, "bob", &["lobby"]);
    assert_eq!(events.brief(), "opened bob");
    for path in [
        "channel=".to_owned(),
        "channel=a%0a".to_owned(),
        format!("channel={}", "x".repeat(256)),
        "channel=hall&".repeat(65),
        "last_event_id=1-1&last_event_id=1-2".to_owned(),
    ] {
        let (code, answer) = daemon.http("GET", &format!("/api/events?{path}"), &token, "");
        assert_eq!((code, &answer["error"]), (400, &json!("bad_request")), "{path}");
    }
    let (code, answer) = daemon.http("GET", "/api/events", &sign(&json!({"api": ["channels"]})), "");
    assert_eq!((code, answer["message"].as_str().unwrap().contains("lacks \"events\"")), (403, true));
}

#[test]
fn a_stream_that_returns_gets_exactly_what_it_missed() {
    let daemon = Daemon::start("[presence]\ngrace = \"0s\"\n");
    let mut events = Events::of(&daemon, &["room:*"]);
    let position = events.next()["id"].as_str().unwrap().to_owned();
    drop(events);
    let mut ann = named(&daemon, "ann", &["hall"]);
    ask(&mut ann, &json!({"join": ["room:1", "room:2"]}));
    // Recorded although nobody was connected, and no more than was selected.
    let mut events = Events::after(&daemon, &["room:*"], Some(&position));
    let all: Vec<Value> = (0..5).map(|_| events.next()).collect();
    let names: Vec<&str> = all.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["opened", "occupied", "joined", "occupied", "joined"]);
    for (at, line) in all.iter().enumerate() {
        let last = line["id"].as_str().unwrap();
        let mut again = Events::after(&daemon, &["room:*"], Some(last));
        for later in &all[at + 1..] {
            assert_eq!(again.next(), *later);
        }
        // By the query, which the header overrules.
        let more = format!("Last-Event-ID: {last}\r\n");
        let path = format!("channel=room:*&last_event_id={position}");
        let token = sign(&json!({"api": true}));
        let mut overruled = Events::open(&daemon, &path, &token, &more);
        let mut by_query = Events::open(&daemon, &path, &token, "");
        assert_eq!(by_query.next(), all[0]);
        if let Some(next) = all.get(at + 1) {
            assert_eq!(overruled.next(), *next);
        }
        ask(&mut ann, &json!({"join": ["room:1"]}));
    }
    let last = all[4]["id"].as_str().unwrap();
    // A part of what was recorded; and what was not, or is no position.
    let (epoch, number) = last.split_once('-').unwrap();
    assert_eq!(Events::after(&daemon, &["room:2", "room:3*"], Some(&position)).next()["event"], "opened");
    for (channels, id) in [
        (&["hall", "room:*"][..], last.to_owned()),
        (&["room:*"], "1-1".to_owned()),
        (&["room:*"], "x".to_owned()),
        (&["room:*"], format!("{epoch}-{}", number.parse::<u64>().unwrap() + 100)),
        (&["room:*"], format!("{epoch}-18446744073709551615")),
    ] {
        let mut lost = Events::after(&daemon, channels, Some(&id));
        let first = lost.next();
        assert_eq!(first["event"], "missed", "{first}");
        assert_eq!(first["message"], "not all events since the last one are kept: load the state again");
        let from_here = first["id"].as_str().unwrap();
        let bob = named(&daemon, "bob", &[]);
        assert_eq!(lost.brief(), "opened bob");
        drop(bob);
        assert_eq!(Events::after(&daemon, channels, Some(from_here)).brief(), "opened bob");
        assert_eq!(lost.brief(), "closed bob client_gone");
    }
    let twice = "Last-Event-ID: 0-1\r\nLast-Event-ID: 0-2\r\n";
    let refused = Events::open(&daemon, "", &sign(&json!({"api": ["events"]})), twice);
    assert_eq!(status(&refused.body.head), 400, "{}", refused.body.head);
}

#[test]
fn a_restart_is_told_as_a_gap() {
    let daemon = Daemon::start("");
    let last = Events::of(&daemon, &[]).next()["id"].as_str().unwrap().to_owned();
    let directory = daemon.take_directory();
    let mut command = crate::support::philote(directory.path());
    command.env("SECRET", crate::support::SECRET).env("PORT", "0");
    let daemon = Daemon::spawn(command, directory);
    assert_eq!(Events::after(&daemon, &[], Some(&last)).next()["event"], "missed");
}

#[test]
fn server_sent_events_have_the_same_lines() {
    let daemon = Daemon::start("");
    let token = sign(&json!({"api": true}));
    let mut events = Events::open(
        &daemon,
        "channel=hall",
        &token,
        "Accept: text/event-stream, application/json;q=0.5\r\n",
    );
    assert!(
        events.body.head.to_ascii_lowercase().contains("content-type: text/event-stream\r\n"),
        "{}",
        events.body.head
    );
    let _ann = named(&daemon, "ann", &["hall"]);
    for expected in ["alive", "opened", "occupied", "joined"] {
        let id = events.text().unwrap();
        let data = events.text().unwrap();
        assert_eq!(events.text().unwrap(), "");
        let line: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!((line["event"].as_str(), id.strip_prefix("id: ")), (Some(expected), line["id"].as_str()));
    }
    let plain = Events::of(&daemon, &[]);
    let head = plain.body.head.to_ascii_lowercase();
    for line in ["content-type: application/x-ndjson", "cache-control: no-store", "connection: close"] {
        assert!(head.contains(line), "{head}");
    }
    let head = daemon.exchange(request("", &token, "").replace("GET", "HEAD"));
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/x-ndjson"), "{head}");
}
