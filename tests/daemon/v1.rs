//! philote.v1: the token in a frame, rejections that a page can read, replaced access, and acknowledgements.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Client, Daemon, frame, sign, sign_with, unix_now};

/// A connection that has not sent its token.
fn silent(daemon: &Daemon) -> Client {
    let mut request = daemon.request("/");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
    daemon.open(request).unwrap()
}

fn show(client: &mut Client, token: &str) {
    client.send(json!({"auth": token}).to_string());
}

/// A connection that has sent these claims, and the access that it got.
fn enter(daemon: &Daemon, claims: &Value) -> (Client, Value) {
    let mut client = silent(daemon);
    show(&mut client, &sign(claims));
    let access = client.receive()["access"].take();
    assert!(access.is_object());
    (client, access)
}

/// This number of channel names of this length.
fn names(count: usize, length: usize) -> Vec<String> {
    (0..count).map(|number| format!("{number:0length$}")).collect()
}

#[test]
fn fault_25_a_long_token_is_accepted_in_a_message_and_can_be_replaced() {
    let daemon = Daemon::start("");
    for length in [20, 255] {
        let claims = |last: &str| {
            let mut names = names(1024, length);
            names[1023] = last.to_owned();
            json!({"read": names, "write": names})
        };
        let since: serde_json::Map<String, Value> =
            names(1024, length).into_iter().map(|name| (name, Value::Null)).collect();
        let mut client = silent(&daemon);
        client.send(json!({"auth": sign(&claims("old")), "since": since}).to_string());
        assert_eq!(client.receive()["access"]["read"].as_array().unwrap().len(), 1024);
        let token = sign(&claims(&"new".repeat(length / 3)));
        assert!(token.len() > 60_000);
        show(&mut client, &format!("{token}\n"));
        assert_eq!(client.receive()["access"]["write"][1023], "new".repeat(length / 3));
        // No other message may be longer than the limit of messages.
        client.send(json!({"channel": "old", "data": "x".repeat(65_600)}).to_string());
        let (code, reason, _) = client.closed();
        assert_eq!(
            (code, reason.as_str()),
            (1009, "a message is over this server's max_message_size"),
            "{length}"
        );
    }
    // The buffer of a client with a short token does not grow beyond a message.
    let (mut client, _) = enter(&daemon, &json!({"read": ["a"]}));
    show(&mut client, &"x".repeat(65_600));
    assert_eq!(client.closed().0, 1009);
}

#[test]
fn the_token_is_in_the_first_frame_and_access_is_the_first_answer() {
    let daemon = Daemon::start("");
    let mut classic = daemon.client(&["a", "b"]);
    let mut client = silent(&daemon);
    let token = sign(&json!({"read": ["b", "a"], "write": ["a"], "sub": "alice", "exp": 4_000_000_000_u64}));
    let both = [
        frame(0x81, json!({"auth": token}).to_string().as_bytes()),
        frame(0x81, br#"{"channel": "a", "data": "at once"}"#),
    ];
    client.stream().write_all(&both.concat()).unwrap();
    let access = client.receive()["access"].take();
    assert_eq!(
        access,
        json!({
            "connection": access["connection"], "subject": "alice", "read": ["a", "b"], "write": ["a"],
            "expires_at": "2096-10-02T07:06:40Z", "max_message_size": 65536,
        })
    );
    let message = classic.receive();
    assert_eq!((&message["data"], &message["issuer"]), (&json!("at once"), &access["connection"]));
    classic.publish("b", "back");
    assert_eq!(client.data(), "back");
    client.socket.send(Message::Ping("x".into())).unwrap();
    assert!(matches!(client.socket.read().unwrap(), Message::Pong(_)));

    let mut request = daemon.request("/");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "other, philote.v1".parse().unwrap());
    request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
    let mut by_header = daemon.open(request).unwrap();
    assert_eq!(by_header.receive()["access"]["subject"], "alice", "the token may come with the request, too");
}

#[test]
fn rejections_are_close_codes_with_sentences() {
    let daemon = Daemon::start(
        "max_connections = 2\n[auth]\nleeway = \"0s\"\n[websocket]\nhandshake_timeout = \"1s\"\n\
         max_message_size = \"32KiB\"\n",
    );
    let refused = |first: &str| {
        let mut client = silent(&daemon);
        client.send(first);
        let (code, sentence, messages) = client.closed();
        assert!(messages.is_empty());
        (code, sentence)
    };
    let shown = |token: &str| refused(&json!({"auth": token}).to_string());
    let sentence = |text: &str| (4401, text.to_owned());
    let good = sign(&json!({"read": ["a"]}));
    assert_eq!(
        shown(&sign_with(&json!({}), "another secret of more than 32 bytes")),
        sentence("the token has a bad signature: it was not signed with this server's secret")
    );
    assert_eq!(shown(&sign(&json!({"exp": unix_now() - 1}))), sentence("the token has expired"));
    assert_eq!(shown("x").0, 4401);
    for first in [r#"{"auth": ""}"#, r#"{"channel": "a", "data": "x"}"#, "x", r#"{"auth": 7}"#, "{}"] {
        assert_eq!(refused(first), sentence("the first message must be {\"auth\": TOKEN}"), "{first}");
    }
    assert_eq!(silent(&daemon).closed().1, "no token: send {\"auth\": TOKEN} as the first frame");
    let long = "x".repeat(33 * 1024);
    assert_eq!(
        refused(&long),
        sentence("the first message must be {\"auth\": TOKEN}"),
        "a long first message could be a token"
    );
    let mut longer = silent(&daemon);
    longer.stream().write_all(&frame(0x81, &vec![b'x'; 4_000_000])[..14]).unwrap();
    assert_eq!(longer.closed().0, 1009);
    let mut request = daemon.request(&format!("/?auth={}", sign(&json!({"exp": 1}))));
    request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
    assert_eq!(daemon.open(request).unwrap().closed().1, "the token has expired");

    let refuse = json!({"subject": "mallory", "refuse_for": 3600}).to_string();
    daemon.admin("POST", "/v1/disconnect", &refuse);
    let (code, sentence) = shown(&sign(&json!({"sub": "mallory"})));
    assert!(code == 4403 && sentence.starts_with("an administrator refuses"), "{code} {sentence}");

    let mut late = silent(&daemon);
    let _places = [daemon.client(&[]), daemon.client(&[])];
    let full = (1013, "the server is full: max_connections is 2".to_owned());
    let (code, sentence, _) = silent(&daemon).closed();
    assert_eq!((code, sentence), full, "before the token is requested");
    show(&mut late, &good);
    let (code, sentence, _) = late.closed();
    assert_eq!((code, sentence), full, "and when it arrives");

    let closed = daemon.admin("GET", "/v1/connections/closed?limit=1000", "");
    let codes: BTreeSet<u64> =
        closed["connections"].as_array().unwrap().iter().map(|one| one["code"].as_u64().unwrap()).collect();
    assert_eq!(codes, BTreeSet::from([1009, 1013, 4401, 4403]), "administrators see these codes");
    daemon.wait_until("no client waits", |status| status["connections"] == 2);
}

#[test]
fn a_token_replaces_the_access_in_place() {
    let daemon = Daemon::start("");
    for v1 in [true, false] {
        let claims = json!({"read": ["a", "b"], "write": ["w"]});
        let mut other = daemon.client(&["a", "b", "c", "w", "v"]);
        let mut client = if v1 { enter(&daemon, &claims).0 } else { daemon.client_with(&claims) };
        client.publish("w", "old");
        client.publish("v", "not yet");
        show(&mut client, &sign(&json!({"read": ["b", "c"], "write": ["v"], "sub": "bob"})));
        client.publish("v", "new");
        client.publish("w", "no more");
        assert_eq!(client.receive()["error"], "forbidden");
        let access = client.receive()["access"].take();
        assert_eq!((&access["read"], &access["subject"]), (&json!(["b", "c"]), &json!("bob")));
        assert_eq!(client.receive()["channel"], "w");
        let (old, new) = (other.receive(), other.receive());
        assert_eq!((&old["data"], old.get("subject")), (&json!("old"), None));
        assert_eq!((&new["data"], &new["subject"]), (&json!("new"), &json!("bob")));
        for channel in ["a", "b", "c"] {
            other.publish(channel, channel);
        }
        assert_eq!((client.data(), client.data()), ("b".to_owned(), "c".to_owned()));

        show(&mut client, "nonsense");
        let error = client.receive();
        assert_eq!(error["error"], "unauthorized");
        assert!(error["message"].as_str().unwrap().contains("malformed"));
        other.publish("c", "the old access stays");
        assert_eq!(client.data(), "the old access stays");
    }
}

#[test]
fn a_connection_expires_with_its_last_token() {
    let daemon = Daemon::start("[auth]\nleeway = \"0s\"\n");
    let short = json!({"read": ["c"], "exp": unix_now() + 3});
    let (mut renewed, _) = enter(&daemon, &short);
    let (mut expires, _) = enter(&daemon, &short);
    let (mut shortened, _) = enter(&daemon, &json!({"read": ["c"]}));
    show(&mut renewed, &sign(&json!({"read": ["c"]})));
    assert!(renewed.receive()["access"]["expires_at"].is_null());
    show(&mut shortened, &sign(&short));
    assert!(shortened.receive()["access"]["expires_at"].is_string());
    assert_eq!((expires.closed().0, shortened.closed().0), (4401, 4401));
    renewed.settle();
}

#[test]
fn an_ack_gives_the_number_of_readers_in_order_with_other_answers() {
    let daemon = Daemon::start("");
    let claims = json!({"read": ["c"], "write": ["c", "d"]});
    let (mut client, _) = enter(&daemon, &claims);
    let mut reader = daemon.client(&["c"]);
    let ack = |channel: &str, ack: &str| json!({"channel": channel, "data": "x", "ack": ack}).to_string();
    let sent = [
        ack("c", "1"),
        ack("c", "a \"quoted\" one"),
        ack("no", "3"),
        json!({"channel": "c", "data": "x"}).to_string(),
        ack("d", "4"),
        ack("c", &"x".repeat(65)),
        json!({"channel": "c", "data": "x", "ack": 7}).to_string(),
    ];
    let bytes: Vec<u8> = sent.iter().flat_map(|text| frame(0x81, text.as_bytes())).collect();
    client.stream().write_all(&bytes).unwrap();
    assert_eq!(client.receive(), json!({"ack": "1", "readers": 1}));
    assert_eq!(client.receive(), json!({"ack": "a \"quoted\" one", "readers": 1}));
    let error = client.receive();
    assert_eq!((&error["error"], &error["ack"]), (&json!("forbidden"), &json!("3")));
    assert_eq!(client.receive(), json!({"ack": "4", "readers": 0}));
    let bad = json!("bad_message");
    for _ in 0..2 {
        let error = client.receive();
        assert_eq!((&error["error"], error.get("ack")), (&bad, None), "an invalid ack is not returned");
    }
    client.send(json!({"channel": "c", "data": 7, "ack": "5"}).to_string());
    let error = client.receive();
    assert_eq!((&error["error"], &error["ack"]), (&bad, &json!("5")));
    for _ in 0..3 {
        reader.data();
    }
    let mut classic = daemon.client(&["c"]);
    classic.send(ack("c", "1"));
    classic.settle();
    assert_eq!(reader.data(), "x", "the classic protocol ignores the key");
    classic.send(json!({"channel": "c", "data": 7, "ack": "5"}).to_string());
    assert_eq!(classic.receive().get("ack"), None);
}

#[test]
fn a_message_over_the_rate_is_answered_with_its_ack() {
    let daemon = Daemon::start("[limits]\nmessages_per_second = 1\n");
    let (mut client, _) = enter(&daemon, &json!({"write": ["c"]}));
    let text = |number: usize| json!({"channel": "c", "data": "x", "ack": number.to_string()}).to_string();
    let bytes: Vec<u8> = (0..100).flat_map(|number| frame(0x81, text(number).as_bytes())).collect();
    client.stream().write_all(&bytes).unwrap();
    let (_, _, answers) = client.closed();
    let taken = answers.iter().take_while(|answer| answer.get("error").is_none()).count();
    // Every message up to the Close must be answered; the client could not send an unanswered one again.
    assert!(answers.len() > taken + 1, "{answers:?}");
    for (at, refused) in answers.iter().enumerate().skip(taken) {
        assert_eq!((&refused["error"], &refused["ack"]), (&json!("rate_limited"), &json!(at.to_string())));
    }
}

#[test]
fn access_has_the_limits_in_force_and_rate_limited_those_after_a_reload() {
    let daemon = Daemon::start(
        "[limits]\nmessages_per_second = 50\nbytes_per_second = \"4KiB\"\n[websocket]\nmax_message_size = \"8KiB\"\n",
    );
    let limits = |told: &Value| {
        ["max_message_size", "messages_per_second", "bytes_per_second"].map(|key| told[key].as_u64())
    };
    let claims = json!({"read": ["c"], "write": ["c"]});
    let (mut client, access) = enter(&daemon, &claims);
    assert_eq!(limits(&access), [Some(8192), Some(50), Some(4096)]);
    crate::support::config_file(daemon.directory.path(), "[limits]\nmessages_per_second = 1\n");
    daemon.admin("POST", "/v1/reload", "");
    // A token over the rate is answered, too, because the client waits for the answer. All three arrive with one read.
    let show = frame(0x81, json!({"auth": sign(&claims)}).to_string().as_bytes());
    client.stream().write_all(&show.repeat(3)).unwrap();
    assert_eq!(limits(&client.receive()["access"]), [Some(65536), Some(1), None]);
    for _ in 0..2 {
        let refused = client.receive();
        assert_eq!((&refused["error"], limits(&refused)), (&json!("rate_limited"), [None, Some(1), None]));
    }
}

#[test]
fn the_number_of_tokens_in_frames_is_limited() {
    let daemon = Daemon::start("");
    let (mut client, _) = enter(&daemon, &json!({"read": ["c"]}));
    let token = sign(&json!({"read": ["c"]}));
    // Less than three seconds pass between the first and the last of these, because they arrive with a few reads.
    let bytes = frame(0x81, json!({"auth": token}).to_string().as_bytes()).repeat(400);
    client.stream().write_all(&bytes).unwrap();
    let answers: Vec<Value> = (0..400).map(|_| client.receive()).collect();
    let limited = answers.iter().filter(|answer| answer["error"] == "rate_limited").count();
    assert!((100..=300).contains(&limited), "{limited}");
    client.settle();
}

/// Publishes numbered messages to all rooms in turn until `done`.
fn publish_until(done: &AtomicBool, mut client: Client, rooms: &[String]) {
    let mut round = 0_u64;
    while !done.load(Relaxed) {
        for (at, room) in rooms.iter().enumerate() {
            let mut message = json!({"channel": room, "data": round.to_string()});
            // It waits now and then, so that it does not get ahead of its server.
            if at % 100 == 99 {
                message["ack"] = json!("a");
            }
            client.send(message.to_string());
            if at % 100 == 99 {
                client.receive();
            }
        }
        round += 1;
    }
}

/// Joins and leaves 1,000 rooms while messages are published in all of them.
///
/// The model: between two answers to `auth` exactly the messages of the first token's rooms arrive, without a gap in any
/// room. One publisher numbers the messages of each room, so a gap shows when the next message arrives.
#[test]
fn a_thousand_rooms_are_joined_and_left_while_messages_are_published() {
    const ROOMS: usize = 1000;
    let daemon = Daemon::start("");
    let rooms: Vec<String> = (0..ROOMS).map(|room| format!("room {room}")).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (client, _) = enter(&daemon, &json!({"write": rooms}));
        let publisher = scope.spawn(|| publish_until(&done, client, &rooms));
        let (mut client, _) = enter(&daemon, &json!({}));
        let mut seed = 1_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        let mut reads: BTreeSet<usize> = BTreeSet::new();
        // The last number of each room since it was joined.
        let mut last: Vec<Option<u64>> = vec![None; ROOMS];
        let (mut visited, mut received) = (BTreeSet::<usize>::new(), 0_u64);
        for turn in 0..120 {
            let mut wanted = reads.clone();
            match turn % 6 {
                0 => wanted = (0..ROOMS).collect(),
                3 => wanted.clear(),
                _ => {
                    for _ in 0..200 {
                        let room = next() % ROOMS;
                        if !wanted.remove(&room) {
                            wanted.insert(room);
                        }
                    }
                }
            }
            let names: Vec<&String> = wanted.iter().map(|room| &rooms[*room]).collect();
            show(&mut client, &sign(&json!({"read": names})));
            let mut entered = false;
            let mut after = 0;
            // Continue until some messages have arrived with the new access.
            while !entered || (after < 300 && !reads.is_empty()) {
                let message = client.receive();
                if message["access"].is_object() {
                    for room in reads.difference(&wanted) {
                        last[*room] = None;
                    }
                    reads = wanted.clone();
                    visited.extend(&reads);
                    entered = true;
                    continue;
                }
                assert!(message["error"].is_null(), "{message}");
                let room: usize = message["channel"].as_str().unwrap()[5..].parse().unwrap();
                let number: u64 = message["data"].as_str().unwrap().parse().unwrap();
                assert!(reads.contains(&room), "a message of a room that it may not read");
                if let Some(last) = last[room].replace(number) {
                    assert_eq!(number, last + 1, "room {room} in turn {turn}");
                }
                received += 1;
                if entered {
                    after += 1;
                }
            }
        }
        done.store(true, Relaxed);
        publisher.join().unwrap();
        assert_eq!(visited.len(), ROOMS);
        println!("{received} messages in 120 turns");
    });
}
