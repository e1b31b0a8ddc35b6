//! `GET /api/events`: who opens and closes connections, and who comes to the selected channels, as a backend sees it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::everywhere::{Everywhere, KINDS};
use crate::support::{Client, Daemon, PATIENCE, sign, status};

/// An open stream of events.
pub struct Events<S = TcpStream> {
    stream: BufReader<S>,
    pub head: String,
    /// Bytes behind the last whole line.
    rest: Vec<u8>,
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
        assert_eq!(status(&events.head), 200, "{}", events.head);
        events
    }
}

impl<S: Read + Write> Events<S> {
    /// Sends these bytes, and reads the head of the answer.
    fn on(mut stream: S, request: &str) -> Events<S> {
        stream.write_all(request.as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "no head: {head}");
        }
        Events { stream, head, rest: Vec::new() }
    }

    /// The next line as text; `None` at the end of the body.
    pub fn text(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let mut size = String::new();
            self.stream.read_line(&mut size).unwrap();
            let size =
                usize::from_str_radix(size.trim(), 16).unwrap_or_else(|_| panic!("no chunk: {size:?}"));
            let mut chunk = vec![0; size + 2];
            self.stream.read_exact(&mut chunk).unwrap();
            if size == 0 {
                assert!(self.rest.is_empty(), "a line is not complete");
                assert_eq!(self.stream.read(&mut [0]).unwrap(), 0, "the connection ends with the body");
                return None;
            }
            self.rest.extend_from_slice(&chunk[..size]);
        }
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
    assert_eq!(status(&refused.head), 400, "{}", refused.head);
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
        events.head.to_ascii_lowercase().contains("content-type: text/event-stream\r\n"),
        "{}",
        events.head
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
    let head = plain.head.to_ascii_lowercase();
    for line in ["content-type: application/x-ndjson", "cache-control: no-store", "connection: close"] {
        assert!(head.contains(line), "{head}");
    }
    let head = daemon.exchange(request("", &token, "").replace("GET", "HEAD"));
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/x-ndjson"), "{head}");
}

/// Also in TLS records and behind a header of the PROXY protocol. A client that goes without a word gives up its place.
#[test]
fn streams_resume_and_end_on_every_kind_of_listener() {
    let everywhere = Everywhere::start("[presence]\ngrace = \"0s\"\n");
    let daemon = &everywhere.daemon;
    let token = sign(&json!({"api": ["events"]}));
    for kind in KINDS {
        let open = |more: &str| Events::on(everywhere.connect(kind), &request("channel=hall", &token, more));
        let mut events = open("");
        assert_eq!((status(&events.head), &events.next()["event"]), (200, &json!("alive")), "{kind}");
        let ann = named(daemon, "ann", &["hall"]);
        let opened = events.next();
        assert_eq!(events.briefs(2), ["occupied hall", "joined hall ann"], "{kind}");
        drop(events);
        drop(ann);
        let mut again = open(&format!("Last-Event-ID: {}\r\n", opened["id"].as_str().unwrap()));
        let missed =
            ["occupied hall", "joined hall ann", "closed ann client_gone", "left hall ann", "vacated hall"];
        assert_eq!(again.briefs(missed.len()), missed, "{kind}");
        // A client that stops sending is gone, and more of them than there are places take none.
        again.stream.get_mut().stop_sending();
        let mut rest = Vec::new();
        let _ = again.stream.read_to_end(&mut rest);
        for _ in 0..33 {
            let mut events = open("");
            assert_eq!(status(&events.head), 200, "{kind}: {}", events.head);
            events.stream.get_mut().stop_sending();
            let _ = events.stream.read_to_end(&mut rest);
        }
    }
}

#[test]
fn there_are_32_streams_and_a_place_is_free_again_when_a_client_goes() {
    let daemon = Daemon::start("");
    let mut all: Vec<Events> = (0..32).map(|_| Events::of(&daemon, &["*"])).collect();
    let token = sign(&json!({"api": true}));
    let answers: Vec<String> =
        (0..100).map(|_| daemon.exchange(request("", &token, "Connection: close\r\n"))).collect();
    for answer in &answers {
        assert_eq!(status(answer), 503);
        assert!(answer.contains("32 streams of events are open already"), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("\r\nretry-after: "), "{answer}");
    }
    let retry = |all: &mut Vec<Events>| {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let again = Events::open(&daemon, "", &token, "");
            if status(&again.head) == 200 {
                all.push(again);
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{}", again.head);
            std::thread::yield_now();
        }
    };
    // One closes, one only stops sending.
    drop(all.pop());
    retry(&mut all);
    let mut half = all.remove(0);
    half.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    retry(&mut all);
    assert_eq!(half.brief(), "alive");
    let mut rest = Vec::new();
    let _ = half.stream.read_to_end(&mut rest);
    // Other requests are answered, and other streams go on.
    assert_eq!(daemon.http("GET", "/api/info", &token, "").0, 200);
    let _ann = named(&daemon, "ann", &[]);
    for events in &mut all {
        assert_eq!(events.briefs(2), ["alive", "opened ann"]);
    }
}

#[test]
fn a_second_request_on_the_connection_of_a_stream_is_not_answered() {
    let daemon = Daemon::start("");
    let token = sign(&json!({"api": true}));
    let twice = request("", &token, "") + &request("", &token, "");
    let mut events = Events::on(daemon.connect(), &twice);
    assert_eq!(events.brief(), "alive");
    events.stream.get_mut().write_all(request("", &token, "").as_bytes()).unwrap();
    let _ann = named(&daemon, "ann", &[]);
    assert_eq!(events.brief(), "opened ann");
    daemon.signal(Signal::TERM);
    assert_eq!(events.ended()["reason"], "stopping");
}

#[test]
fn a_stream_ends_behind_the_last_connection_when_the_daemon_stops() {
    let mut daemon = Daemon::start("");
    let mut events = Events::of(&daemon, &["hall"]);
    let mut ann = named(&daemon, "ann", &["hall"]);
    assert_eq!(events.briefs(4), ["alive", "opened ann", "occupied hall", "joined hall ann"]);
    daemon.signal(Signal::TERM);
    ann.closed();
    assert_eq!(events.brief(), "closed ann stopping");
    let line = events.next();
    assert_eq!((&line["event"], &line["reason"]), (&json!("ended"), &json!("stopping")));
    assert_eq!((&line["message"], &line["id"]), (&json!("the server is stopping; reconnect"), &Value::Null));
    assert_eq!(events.text(), None);
    assert!(daemon.wait().success());
}

#[test]
fn a_stream_ends_when_its_token_is_no_longer_valid() {
    let daemon = Daemon::start("[auth]\nleeway = \"0s\"\n");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let token = sign(&json!({"api": true, "exp": now + 3}));
    assert_eq!(Events::open(&daemon, "", &token, "").ended()["reason"], "token_expired");
    assert_eq!(daemon.http("GET", "/api/events", &token, "").0, 401, "as a new one is rejected");

    let mut refused = Events::open(&daemon, "", &sign(&json!({"api": true, "sub": "eve"})), "");
    let mut stays = Events::of(&daemon, &[]);
    let order = json!({"subject": "eve", "refuse_for": "1h"}).to_string();
    assert_eq!(daemon.http("POST", "/api/disconnect", &sign(&json!({"api": true})), &order).0, 200);
    assert_eq!(refused.ended()["reason"], "subject_refused");
    let _ann = named(&daemon, "ann", &[]);
    assert_eq!(stays.briefs(2), ["alive", "opened ann"]);
}

/// Joins and leaves many rooms with long names. Returns the client, and the number of events.
fn flood(daemon: &Daemon, long: &str) -> (Client, usize) {
    const JOINS: usize = 150;
    const CHANNELS: usize = 200;
    let mut ann = named(daemon, long, &[]);
    for join in 0..JOINS {
        let names: Vec<String> =
            (0..CHANNELS).map(|at| format!("room:{join}:{at}:{}", &long[10..])).collect();
        let answer = ask(&mut ann, &json!({"join": names}));
        assert!(answer["joined"].is_object(), "{answer}");
        assert!(ask(&mut ann, &json!({"leave": names}))["left"].is_array());
    }
    (ann, 1 + JOINS * CHANNELS * 2)
}

#[test]
fn a_client_that_takes_nothing_is_cut_and_gives_up_its_place() {
    let daemon = Daemon::start("[presence]\ngrace = \"1h\"\n");
    let mut stuck = Events::of(&daemon, &["room:*"]);
    let others: Vec<Events> = (1..32).map(|_| Events::of(&daemon, &[])).collect();
    let _ann = flood(&daemon, &"x".repeat(240));
    let token = sign(&json!({"api": true}));
    // It has 30 seconds, and is cut before twice that.
    let deadline = std::time::Instant::now() + 2 * PATIENCE;
    loop {
        let again = Events::open(&daemon, "", &token, "");
        if status(&again.head) == 200 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{}", again.head);
        std::thread::yield_now();
    }
    // Of what it was sent, nothing is damaged, and the end is not said to be one.
    let mut rest = Vec::new();
    let _ = stuck.stream.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("\"ended\""));
    drop(others);
}

#[test]
fn a_reader_that_is_too_slow_is_told_how_many_events_it_missed() {
    let daemon = Daemon::start("[presence]\ngrace = \"1h\"\n");
    let mut slow = Events::of(&daemon, &["room:*"]);
    let mut quick = Events::of(&daemon, &[]);
    let long = "x".repeat(240);
    let (ann, events) = flood(&daemon, &long);
    let (mut got, mut last) = (0, slow.next());
    while last["event"] != "ended" {
        got += usize::from(last["event"] != "alive");
        last = slow.next();
    }
    assert_eq!(slow.text(), None);
    assert_eq!(last["reason"], "slow_consumer", "{last}");
    let missed = last["missed"].as_u64().unwrap() as usize;
    assert_eq!(got + missed, events, "{got} of them came");
    assert!(missed > 10_000 - 1, "no more than the ring has room for were kept: {missed}");
    // A stream that has not selected them missed nothing.
    assert_eq!(quick.briefs(2), ["alive".to_owned(), format!("opened {long}")]);
    drop(ann);
    assert_eq!(quick.brief(), format!("closed {long} client_gone"));
}
