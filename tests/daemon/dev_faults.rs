//! `POST /dev/fault` of `philote --dev`: each fault, and who may cause one.

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Error;

use crate::support::{Client, Daemon, body_of, header, philote, sign_with, status};

const SECRET: &str = "everybody-knows-this-secret-of-philote-dev";

fn start() -> Daemon {
    let directory = TempDir::new().unwrap();
    let mut command = philote(directory.path());
    command.env("PORT", "0").arg("--dev");
    Daemon::spawn(command, directory)
}

fn token(subject: &str) -> String {
    sign_with(&json!({"read": ["chat"], "write": ["chat"], "sub": subject}), SECRET)
}

/// Connects on philote.v1, and returns the answer to the token.
fn enter(daemon: &Daemon, subject: &str, since: &Value) -> (Client, Value) {
    let mut request = daemon.request("/");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
    let mut client = daemon.open(request).unwrap();
    client.send(json!({"auth": token(subject), "since": since}).to_string());
    let access = client.receive()["access"].take();
    (client, access)
}

fn post(daemon: &Daemon, headers: &str, body: &str) -> String {
    daemon.exchange(format!(
        "POST /dev/fault HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        daemon.port,
        body.len()
    ))
}

fn cause(daemon: &Daemon, body: &Value) -> u64 {
    let answer = post(daemon, "", &body.to_string());
    assert_eq!(status(&answer), 200, "{answer}");
    let answer = body_of(&answer);
    assert_eq!(answer["fault"], body["fault"]);
    answer["connections"].as_u64().unwrap()
}

#[test]
fn a_fault_ends_the_newest_connection_or_the_one_that_it_names() {
    let daemon = start();
    let (mut alice, access) = enter(&daemon, "alice", &json!({}));
    let (mut bob, _) = enter(&daemon, "bob", &json!({}));
    assert_eq!(cause(&daemon, &json!({"fault": "cut"})), 1);
    let end = bob.socket.read();
    assert!(!matches!(end, Ok(_) | Err(Error::ConnectionClosed)), "a Close came: {end:?}");
    assert_eq!(cause(&daemon, &json!({"fault": "expire", "connection": access["connection"]})), 1);
    assert_eq!(alice.closed().0, 4401);

    let (mut alice, access) = enter(&daemon, "alice", &json!({}));
    let (mut bob, _) = enter(&daemon, "bob", &json!({}));
    assert_eq!(cause(&daemon, &json!({"fault": "slow", "connection": access["connection"]})), 1);
    let (code, reason, _) = alice.closed();
    assert_eq!((code, reason.starts_with("too slow")), (4413, true));
    bob.settle();
    let (mut carol, _) = enter(&daemon, "carol", &json!({}));
    assert_eq!(cause(&daemon, &json!({"fault": "restart"})), 2);
    assert_eq!((bob.closed().0, carol.closed().0), (1012, 1012));
}

#[test]
fn a_history_that_was_forgotten_has_another_epoch_and_recovers_nobody() {
    let daemon = start();
    let (mut alice, before) = enter(&daemon, "alice", &json!({}));
    alice.publish("chat", "1");
    alice.settle();
    let id = &before["ids"]["chat"];
    assert_eq!(enter(&daemon, "bob", &json!({"chat": id})).1["recovered"]["chat"], true);
    assert_eq!(cause(&daemon, &json!({"fault": "forget"})), 0);
    let (_bob, after) = enter(&daemon, "bob", &json!({"chat": id}));
    assert_eq!(after["recovered"]["chat"], false);
    let epoch = |id: &Value| id.as_str().unwrap().split_once('-').unwrap().0.to_owned();
    assert_ne!(epoch(&after["ids"]["chat"]), epoch(id));
    alice.publish("chat", "2");
    alice.settle();
    let (mut carol, access) = enter(&daemon, "carol", &json!({"chat": null}));
    assert!(access["ids"]["chat"].as_str().unwrap().ends_with("-0"));
    assert_eq!(carol.data(), "2", "what was published before is gone");
}

#[test]
fn new_connections_are_refused_and_open_ones_stay() {
    let daemon = start();
    let (mut alice, _) = enter(&daemon, "alice", &json!({}));
    assert_eq!(cause(&daemon, &json!({"fault": "refuse"})), 0);
    match *daemon.try_client(&token("bob")).err().unwrap() {
        Error::Http(answer) => {
            assert_eq!(answer.status(), 503);
            assert!(answer.headers().contains_key("retry-after"));
        }
        other => panic!("{other}"),
    }
    let mut request = daemon.request("/");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
    assert_eq!(daemon.open(request).unwrap().closed().0, 1013);
    alice.settle();
    assert_eq!(cause(&daemon, &json!({"fault": "cut"})), 1, "the page still works");
}

#[test]
fn a_fault_that_is_unclear_changes_nothing() {
    let daemon = start();
    let (mut alice, access) = enter(&daemon, "alice", &json!({}));
    let id = access["connection"].as_str().unwrap();
    for body in [
        "".to_owned(),
        "[]".into(),
        "{}".into(),
        r#"{"fault": "explode"}"#.into(),
        r#"{"fault": null}"#.into(),
        r#"{"fault": "cut", "conection": "newest"}"#.into(),
        r#"{"fault": "cut", "connection": "oldest"}"#.into(),
        r#"{"fault": "cut", "connection": "00000000-0000-0000-0000-000000000000"}"#.into(),
        format!(r#"{{"fault": "cut", "connection": "{}"}}"#, &id[..8]),
        format!(r#"{{"fault": "restart", "connection": "{id}"}}"#),
    ] {
        let answer = post(&daemon, "", &body);
        assert_eq!(status(&answer), 400, "{body}: {answer}");
    }
    let long = format!(r#"{{"fault": "cut"{}}}"#, " ".repeat(2000));
    assert_eq!(status(&post(&daemon, "", &long)), 413);
    alice.settle();
}

/// An application that is developed on this machine may connect, but a script in it must not cause faults.
#[test]
fn only_the_page_itself_and_programs_cause_faults() {
    let daemon = start();
    let (mut alice, _) = enter(&daemon, "alice", &json!({}));
    let body = r#"{"fault": "restart"}"#;
    for origin in [
        "http://localhost:5173".to_owned(),
        format!("http://localhost:{}", daemon.port),
        "https://evil.test".into(),
        "null".into(),
    ] {
        let answer = post(&daemon, &format!("Origin: {origin}\r\nContent-Type: text/plain\r\n"), body);
        assert_eq!(status(&answer), 403, "{origin}");
    }
    alice.settle();
    assert_eq!(status(&post(&daemon, "", body)), 200);
    assert_eq!(alice.closed().0, 1012, "a program without an origin may");
    let (mut alice, _) = enter(&daemon, "alice", &json!({}));
    let own = format!("Origin: http://127.0.0.1:{}\r\n", daemon.port);
    assert_eq!(status(&post(&daemon, &own, body)), 200);
    assert_eq!(alice.closed().0, 1012);
    let (mut alice, _) = enter(&daemon, "alice", &json!({}));
    let answer = daemon.exchange(format!(
        "POST /dev/fault HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert_eq!(status(&answer), 403, "a rebound name");
    let get = daemon.exchange("GET /dev/fault HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&get), 426);
    alice.settle();
}

#[test]
fn without_dev_there_are_no_faults() {
    let daemon = Daemon::start("");
    let mut client = daemon.client(&["chat"]);
    let ask = |path: &str, body: &str| {
        let answer = daemon.exchange(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        (status(&answer), header(&answer, "allow").map(str::to_owned), body_of(&answer))
    };
    for fault in ["cut", "expire", "slow", "restart", "forget", "refuse"] {
        let body = json!({"fault": fault}).to_string();
        assert_eq!(ask("/dev/fault", &body), ask("/other", &body), "{fault}");
    }
    client.settle();
    daemon.client(&["chat"]).settle();
}
