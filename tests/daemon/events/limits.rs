//! How streams of events end, and their limits.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Events, ask, named, request};
use crate::everywhere::{Everywhere, KINDS};
use crate::support::{Client, Daemon, PATIENCE, sign, status};

/// Also in TLS records and behind a header of the PROXY protocol. A client that goes without a word gives up its place.
#[test]
fn streams_resume_and_end_on_every_kind_of_listener() {
    let everywhere = Everywhere::start("[presence]\ngrace = \"0s\"\n");
    let daemon = &everywhere.daemon;
    let token = sign(&json!({"api": ["events"]}));
    for kind in KINDS {
        let open = |more: &str| Events::on(everywhere.connect(kind), &request("channel=hall", &token, more));
        let mut events = open("");
        assert_eq!((status(&events.body.head), &events.next()["event"]), (200, &json!("alive")), "{kind}");
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
        again.body.stream.get_mut().stop_sending();
        let mut rest = Vec::new();
        let _ = again.body.stream.read_to_end(&mut rest);
        for _ in 0..33 {
            let mut events = open("");
            assert_eq!(status(&events.body.head), 200, "{kind}: {}", events.body.head);
            events.body.stream.get_mut().stop_sending();
            let _ = events.body.stream.read_to_end(&mut rest);
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
        let deadline = Instant::now() + PATIENCE;
        loop {
            let again = Events::open(&daemon, "", &token, "");
            if status(&again.body.head) == 200 {
                all.push(again);
                return;
            }
            assert!(Instant::now() < deadline, "{}", again.body.head);
            std::thread::yield_now();
        }
    };
    // One closes, one only stops sending.
    drop(all.pop());
    retry(&mut all);
    let mut half = all.remove(0);
    half.body.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    retry(&mut all);
    assert_eq!(half.brief(), "alive");
    let mut rest = Vec::new();
    let _ = half.body.stream.read_to_end(&mut rest);
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
    events.body.stream.get_mut().write_all(request("", &token, "").as_bytes()).unwrap();
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
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
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
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let again = Events::open(&daemon, "", &token, "");
        if status(&again.body.head) == 200 {
            break;
        }
        assert!(Instant::now() < deadline, "{}", again.body.head);
        std::thread::yield_now();
    }
    // Of what it was sent, nothing is damaged, and the end is not said to be one.
    let mut rest = Vec::new();
    let _ = stuck.body.stream.read_to_end(&mut rest);
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
    // On a busy machine it is ended before the last of them; src/feed/tests.rs counts exactly.
    assert!(missed > 10_000 && got + missed <= events, "{got} of {events} came, {missed} did not");
    assert!(missed > 10_000 - 1, "no more than the ring has room for were kept: {missed}");
    // A stream that has not selected them missed nothing.
    assert_eq!(quick.briefs(2), ["alive".to_owned(), format!("opened {long}")]);
    drop(ann);
    assert_eq!(quick.brief(), format!("closed {long} client_gone"));
}
