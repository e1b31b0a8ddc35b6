//! Limits for each client: a client over a limit is refused, others are not, and what is freed can be used again.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client};

use crate::support::{Client, Daemon, PATIENCE, body_of, frame, header, sign, status, upgrade};

/// The answer to an upgrade from this address: the head, and the body of a rejection.
fn handshake(daemon: &Daemon, last: u8, token: &str) -> (TcpStream, String) {
    let mut stream = daemon.connect_from(last);
    stream.write_all(upgrade(token, "").as_bytes()).unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).unwrap();
    (stream, String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn open_from(daemon: &Daemon, last: u8, claims: &Value) -> Client {
    let request = daemon.request(&format!("/?auth={}", sign(claims)));
    let (socket, _) = client::client(request, daemon.connect_from(last)).unwrap();
    Client { socket }
}

/// Connects repeatedly until it is admitted, as it must be once another connection has ended.
fn admitted(daemon: &Daemon, token: &str) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (stream, answer) = handshake(daemon, 1, token);
        match status(&answer) {
            101 => return stream,
            429 => assert!(Instant::now() < deadline, "no connection was freed: {answer}"),
            _ => panic!("{answer}"),
        }
    }
}

/// How many requests or connections ended for this reason. The list and the metrics must agree on it.
fn total(daemon: &Daemon, reason: &str) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let closed = daemon.admin("GET", "/v1/connections/closed", "");
        let reasons = closed["reasons"].as_array().unwrap();
        let found = reasons.iter().find(|count| count["reason"] == reason);
        let listed = found.map_or(0, |count| count["total"].as_u64().unwrap());
        let figure = |of: &str| daemon.metric(&format!("philote_{of}_total{{reason=\"{reason}\"}}"));
        let figures = figure("requests_refused") + figure("connections_closed");
        if figures == listed {
            return listed;
        }
        // One more ended between the two answers.
        assert!(Instant::now() < deadline, "{reason}: {listed} in the list, {figures} in the metrics");
    }
}

#[test]
fn fault_53_connections_of_an_address_are_freed_on_every_kind_of_close() {
    let daemon = Daemon::start("max_connections = 4\n[limits]\nconnections_per_address = 2\n");
    let token = sign(&json!({"read": ["c"]}));
    let mut open: Vec<TcpStream> = (0..2).map(|_| admitted(&daemon, &token)).collect();
    let (_, answer) = handshake(&daemon, 1, &token);
    assert_eq!((status(&answer), header(&answer, "Retry-After")), (429, Some("5")));
    let sentence = "this address has too many connections: connections_per_address is 2";
    assert_eq!(body_of(&answer), json!({"error": "rate_limited", "message": sentence}));
    let mut other = open_from(&daemon, 2, &json!({"read": ["c"]}));
    assert_eq!(total(&daemon, "connections_per_address"), 1);

    type End<'a> = &'a dyn Fn(&mut TcpStream);
    let ways: [(&str, End<'_>); 7] = [
        ("a silent end", &|stream| stream.shutdown(std::net::Shutdown::Write).unwrap()),
        ("a message that is too large", &|stream| {
            stream.write_all(&[&[0x81, 0xff][..], &(1_u64 << 40).to_be_bytes(), &[0; 4]].concat()).unwrap();
        }),
        ("a close", &|stream| stream.write_all(&frame(0x88, &1000_u16.to_be_bytes())).unwrap()),
        ("gone", &|stream| stream.shutdown(std::net::Shutdown::Both).unwrap()),
        ("a reset", &|stream| {
            socket2::SockRef::from(&*stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }),
        ("a protocol error", &|stream| stream.write_all(&frame(0xf1, b"x")).unwrap()),
        ("an administrator", &|_| {
            daemon.admin("POST", "/v1/disconnect", r#"{"address": "127.0.0.1"}"#);
        }),
    ];
    for (way, end) in ways {
        let mut stream = open.pop().unwrap();
        end(&mut stream);
        drop(stream);
        if way == "an administrator" {
            // Both clients were told.
            open.clear();
        }
        while open.len() < 2 {
            open.push(admitted(&daemon, &token));
        }
    }
    other.settle();
    // A bad token counts only until its answer is sent.
    drop(open);
    for _ in 0..5 {
        let deadline = Instant::now() + PATIENCE;
        while status(&handshake(&daemon, 1, "bad").1) == 429 {
            assert!(Instant::now() < deadline);
        }
    }
    drop(other);
    let status = daemon.wait_until("all are gone", |status| status["connections"] == 0);
    assert_eq!(status["accepted"], status["closed"]);
}

#[test]
fn connections_are_limited_for_each_subject_separately() {
    let daemon = Daemon::start("[limits]\nconnections_per_subject = 1\n");
    let of = |subject: &str| json!({"sub": subject, "read": ["c"], "write": ["c"]});
    let mut alice = daemon.client_with(&of("alice"));
    let (_, answer) = handshake(&daemon, 2, &sign(&of("alice")));
    assert_eq!(status(&answer), 429, "the limit applies to all addresses");
    assert!(answer.contains("connections_per_subject is 1"), "{answer}");
    let mut bob = daemon.client_with(&of("bob"));
    let mut nobody = [daemon.client(&["c"]), daemon.client(&["c"])];
    // A token with another subject moves the connection to that subject's count.
    bob.send(json!({"auth": sign(&of("alice"))}).to_string());
    assert_eq!(bob.receive()["error"], "unauthorized");
    alice.send(json!({"auth": sign(&of("carol"))}).to_string());
    assert_eq!(alice.receive()["access"]["subject"], "carol");
    bob.send(json!({"auth": sign(&of("alice"))}).to_string());
    assert_eq!(bob.receive()["access"]["subject"], "alice");
    assert_eq!(status(&handshake(&daemon, 1, &sign(&of("carol"))).1), 429);
    assert_eq!(status(&handshake(&daemon, 1, &sign(&of("bob"))).1), 101);
    assert_eq!(total(&daemon, "connections_per_subject"), 2);
    nobody.iter_mut().for_each(Client::settle);
}

#[test]
fn a_client_of_v1_over_a_limit_gets_a_close_with_a_sentence() {
    let daemon = Daemon::start("");
    let v1 = |last: u8| {
        let mut request = daemon.request("/");
        request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
        let (socket, _) = client::client(request, daemon.connect_from(last)).unwrap();
        Client { socket }
    };
    let show = |client: &mut Client, subject: &str| {
        let token = sign(&json!({"sub": subject, "read": ["c"], "write": ["c"]}));
        client.send(json!({"auth": token}).to_string());
    };
    let enter = |last: u8, subject: &str| {
        let mut client = v1(last);
        show(&mut client, subject);
        assert_eq!(client.receive()["access"]["subject"], subject);
        client
    };
    let refused = |last: u8, subject: &str| {
        let mut client = v1(last);
        show(&mut client, subject);
        let (code, sentence, messages) = client.closed();
        assert!(messages.is_empty(), "{messages:?}");
        (code, sentence)
    };
    let limit = |setting: &str| {
        crate::support::config_file(daemon.directory.path(), &format!("[limits]\n{setting} = 1\n"));
        daemon.admin("POST", "/v1/reload", "");
    };

    limit("connections_per_address");
    let (mut one, mut other) = (enter(1, "alice"), enter(2, "bob"));
    let sentence = "this address has too many connections: connections_per_address is 1";
    assert_eq!(refused(1, "carol"), (4429, sentence.to_owned()));
    one.publish("c", "hello");
    assert_eq!(other.data(), "hello");
    drop((one, other));
    daemon.wait_until("both are gone", |status| status["connections"] == 0);

    limit("connections_per_subject");
    let (mut one, mut other) = (enter(1, "alice"), enter(1, "bob"));
    let (code, sentence) = refused(2, "alice");
    assert_eq!(code, 4429);
    assert!(sentence.contains("connections_per_subject is 1"), "{sentence}");
    one.publish("c", "hello");
    assert_eq!(other.data(), "hello");

    limit("handshakes_per_second");
    // One a second is allowed, so the second of these is refused unless the machine takes a second between them.
    let deadline = Instant::now() + PATIENCE;
    let close = loop {
        let mut client = v1(1);
        // A refused client may be disconnected before it has sent its token.
        let _ = client.socket.send(Message::text(json!({"auth": sign(&json!({"read": ["c"]}))}).to_string()));
        match client.socket.read() {
            Ok(Message::Close(Some(close))) => break close,
            Ok(Message::Text(_)) => assert!(Instant::now() < deadline, "no client was refused"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(u16::from(close.code), 4429);
    assert!(close.reason.contains("handshakes_per_second is 1"), "{close}");
    enter(3, "dora").settle();
    one.settle();
    assert_eq!(
        (total(&daemon, "connections_per_address"), total(&daemon, "connections_per_subject")),
        (1, 1)
    );
    assert!(total(&daemon, "handshakes_per_second") >= 1);
}

#[test]
fn fault_31_an_address_that_connects_too_often_gets_429_before_other_checks() {
    let daemon = Daemon::start("max_connections = 1\n[limits]\nhandshakes_per_second = 1\n");
    let token = sign(&json!({"read": ["c"]}));
    let (mut open, answer) = handshake(&daemon, 2, &token);
    assert_eq!(status(&answer), 101);
    // The server is full and the token is bad: 429 comes before 503, and 503 before 401.
    let mut answers: Vec<u16> = (0..20).map(|_| status(&handshake(&daemon, 1, "bad").1)).collect();
    assert_eq!(answers[0], 503);
    assert!(
        answers.contains(&429) && answers.iter().all(|status| [429, 503].contains(status)),
        "{answers:?}"
    );
    assert_eq!(
        answers.iter().filter(|status| **status == 429).count() as u64,
        total(&daemon, "handshakes_per_second")
    );
    assert_eq!(status(&handshake(&daemon, 3, "bad").1), 503, "another address");
    // Guessing tokens at the API counts as well.
    answers = (0..20).map(|_| daemon.http("GET", "/api/info", "bad", "").0).collect();
    assert!(
        answers.contains(&429) && answers.iter().all(|status| [429, 401].contains(status)),
        "{answers:?}"
    );
    assert_eq!(daemon.http("GET", "/api/info", &sign(&json!({"api": true})), "").0, 200);
    open.write_all(&frame(0x89, b"")).unwrap();
}

#[test]
fn fault_31_a_flood_of_rejections_is_logged_at_a_limited_rate() {
    const TIMES: u64 = 1_000;
    let daemon = Daemon::start("");
    for _ in 0..TIMES / 2 {
        assert_eq!(status(&handshake(&daemon, 1, "bad").1), 401);
        assert_eq!(daemon.http("GET", "/api/info", "bad", "").0, 401);
    }
    let lines = daemon.log().lines().count();
    // Of each kind 20 lines within 10 s are written in full, then a summary; a slow machine needs a few times as long.
    assert!(lines < 200, "{lines} lines for {TIMES} refusals");
    assert_eq!(total(&daemon, "token_malformed"), TIMES);
}

/// Sends `bytes` until the connection is closed, and returns the messages before the Close and its code.
fn flood(client: &mut Client, bytes: &[u8]) -> (u16, Vec<Value>) {
    client.stream().write_all(bytes).unwrap();
    let (code, _, messages) = client.closed();
    (code, messages)
}

#[test]
fn fault_38_45_excess_messages_are_answered_once_and_lasting_excess_is_closed() {
    let daemon = Daemon::start("[limits]\nmessages_per_second = 10\n");
    let mut reader = daemon.client(&["c"]);
    let mut other = daemon.client(&["c"]);
    let message =
        |channel: &str| frame(0x81, json!({"channel": channel, "data": "flood"}).to_string().as_bytes());
    let mut client = daemon.client(&["c"]);
    let (code, answers) = flood(&mut client, &message("c").repeat(200));
    assert_eq!(code, 4429);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0]["error"], "rate_limited");
    // Other clients are not affected, and they receive as many messages as the daemon says it accepted.
    other.publish("c", "calm");
    let read: Vec<String> =
        std::iter::repeat_with(|| reader.data()).take_while(|data| data != "calm").collect();
    daemon.wait_until("it is gone", |_| total(&daemon, "rate_limited") == 1);
    let closed = daemon.admin("GET", "/v1/connections/closed?reason=rate_limited", "");
    let row = &closed["connections"][0];
    assert_eq!((&row["code"], &row["messages_in"]), (&json!(4429), &json!(read.len())), "{row}");
    assert!((10..60).contains(&read.len()), "{}", read.len());
    let refused = daemon.admin("GET", "/v1/status", "")["rate_limited"].as_u64().unwrap();
    assert!(refused > 50 && refused as usize + read.len() <= 200, "{refused}");
    assert_eq!(daemon.metric("philote_messages_rate_limited_total"), refused);

    // Errors, forbidden channels, pings and pongs count as well.
    let floods = [message("not mine"), frame(0x81, b"{"), frame(0x89, b"ping"), frame(0x8a, b"pong")];
    for flooded in floods {
        let mut client = daemon.client(&["c"]);
        assert_eq!(flood(&mut client, &flooded.repeat(200)).0, 4429);
    }
    daemon.wait_until("all are gone", |_| total(&daemon, "rate_limited") == 5);
    reader.settle();
    other.publish("c", "still here");
    assert_eq!(reader.data(), "still here");
}

#[test]
fn the_rate_in_bytes_is_enforced_and_a_reload_changes_it_for_open_connections() {
    let daemon = Daemon::start("");
    let (mut reader, mut client) = (daemon.client(&["c"]), daemon.client(&["c"]));
    let large = "x".repeat(10_000);
    let message = frame(0x81, json!({"channel": "c", "data": large}).to_string().as_bytes());
    client.stream().write_all(&message.repeat(20)).unwrap();
    client.settle();
    crate::support::config_file(daemon.directory.path(), "[limits]\nbytes_per_second = \"10KiB\"\n");
    assert_eq!(daemon.admin("POST", "/v1/reload", "")["applied"], json!(["limits.bytes_per_second"]));
    let (code, answers) = flood(&mut client, &message.repeat(50));
    assert_eq!((code, answers.len()), (4429, 1));
    assert_eq!(answers[0]["error"], "rate_limited");
    for _ in 0..21 {
        assert_eq!(reader.data().len(), large.len());
    }
    // A client within the rate continues, and no message over it was delivered.
    reader.settle();
    let mut other = daemon.client(&["c"]);
    other.publish("c", "calm");
    assert_eq!(reader.data(), "calm");
    daemon.wait_until("it is gone", |_| total(&daemon, "rate_limited") == 1);
    let closed = daemon.admin("GET", "/v1/connections/closed?reason=rate_limited", "");
    assert_eq!(closed["connections"][0]["messages_in"], 21, "{closed}");
    let over = daemon.admin("GET", "/v1/status", "")["rate_limited"].as_u64().unwrap();
    assert!((1..=49).contains(&over), "{over}");
    assert_eq!(daemon.metric("philote_messages_rate_limited_total"), over);
}
