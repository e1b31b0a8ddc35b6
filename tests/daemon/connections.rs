//! Places, heartbeats and slow readers.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Client, Daemon, frame, sign, status, upgrade};

#[test]
fn fault_52_all_at_once_get_101_or_503() {
    let daemon = Daemon::start("max_connections = 100\n");
    let token = sign(&json!({"read": ["c"]}));
    let streams: Vec<_> = (0..400)
        .map(|_| {
            let mut stream = daemon.connect();
            stream.write_all(upgrade(&token, "").as_bytes()).unwrap();
            stream
        })
        .collect();
    let answers: Vec<u16> = streams
        .iter()
        .map(|stream| {
            let mut bytes = [0; 12];
            std::io::Read::read_exact(&mut &*stream, &mut bytes).unwrap();
            status(std::str::from_utf8(&bytes).unwrap())
        })
        .collect();
    assert_eq!(answers.iter().filter(|code| **code == 101).count(), 100);
    assert_eq!(answers.iter().filter(|code| **code == 503).count(), 300);
    drop(streams);
    daemon.wait_until("all places are free again", |status| status["connections"] == 0);
    daemon.client(&["c"]).settle();
}

#[test]
fn silent_connections_without_a_token_make_room() {
    let daemon = Daemon::start("[websocket]\nhandshake_timeout = \"60s\"\n");
    // As many as may wait, and none of them says a word.
    let silent: Vec<_> = (0..1024).map(|_| daemon.connect()).collect();
    daemon.client(&["c"]).settle();
    drop(silent);
}

#[test]
fn a_client_that_answers_no_ping_is_closed_and_one_that_does_is_not() {
    let daemon = Daemon::start("[websocket]\nping_interval = \"1s\"\npong_timeout = \"1s\"\n");
    let mut alive = daemon.client(&["c"]);
    let mut dead = daemon.client(&["c"]);
    // Raw bytes: a library would answer.
    let mut bytes = [0; 512];
    let mut seen = Vec::new();
    let alive = std::thread::spawn(move || {
        let mut pings = 0;
        while pings < 3 {
            if let Message::Ping(_) = alive.socket.read().unwrap() {
                pings += 1;
            }
        }
        alive.settle();
    });
    while let Ok(count @ 1..) = std::io::Read::read(dead.stream(), &mut bytes) {
        seen.extend_from_slice(&bytes[..count]);
    }
    assert_eq!(seen[..2], [0x89, 0], "a ping");
    assert_eq!(seen[2], 0x88, "then a Close");
    assert_eq!(u16::from_be_bytes([seen[4], seen[5]]), 4408);
    alive.join().unwrap();
}

#[test]
fn fault_35_a_message_is_dated_by_its_first_byte() {
    // No ping meanwhile: the client's pong would fall into the middle of its frame.
    let daemon = Daemon::start("[websocket]\nping_interval = \"5m\"\n");
    let mut client = daemon.client(&["c"]);
    let bytes = frame(0x81, br#"{"channel":"c","data":"x"}"#);
    let began = Instant::now();
    for byte in &bytes[..bytes.len() - 1] {
        client.stream().write_all(&[*byte]).unwrap();
    }
    client.stream().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let (code, reason, _) = client.closed();
    assert_eq!((code, reason.as_str()), (1008, "a message took too long to arrive"));
    assert!(began.elapsed() >= Duration::from_secs(29));
}

#[test]
fn fault_52_a_large_batch_closes_nobody() {
    const MESSAGES: usize = 2_000;
    const READERS: usize = 20;
    let daemon = Daemon::start("");
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let mut reader = daemon.client_with(&json!({"read": ["c"]}));
            std::thread::spawn(move || {
                for number in 0..MESSAGES * 2 {
                    assert_eq!(reader.data(), number.to_string());
                }
                reader.settle();
            })
        })
        .collect();
    let text = |number: usize| json!({"channel": "c", "data": number.to_string()}).to_string();
    let mut writer = daemon.client(&["c"]);
    let one_write: Vec<u8> = (0..MESSAGES).flat_map(|number| frame(0x81, text(number).as_bytes())).collect();
    writer.stream().write_all(&one_write).unwrap();
    // It reads the channel as well, and gets nothing of its own.
    writer.settle();
    let batch: Vec<String> = (MESSAGES..MESSAGES * 2).map(text).collect();
    let api = sign(&json!({"api": true}));
    let (code, answer) = daemon.http("POST", "/api/publish", &api, &format!("[{}]", batch.join(",")));
    assert_eq!((code, answer["published"].as_array().unwrap().len()), (200, MESSAGES));
    assert_eq!(answer["published"][MESSAGES - 1]["readers"], READERS + 1);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

/// Guarantees 1 to 4: the one that stops is closed, the others have everything, the publisher is never slowed, and
/// memory comes back.
#[test]
fn fault_50_a_reader_that_stops() {
    const MESSAGES: usize = 200_000;
    let daemon = Daemon::start("");
    let before = daemon.memory().0;
    let mut stopped = daemon.client_with(&json!({"read": ["c"], "sub": "stopped"}));
    let readers: Vec<_> = (0..9)
        .map(|_| {
            let reader = daemon.client_with(&json!({"read": ["c"]}));
            std::thread::spawn(move || read_all(reader, MESSAGES))
        })
        .collect();
    let mut writer = daemon.client_with(&json!({"write": ["c"]}));
    let began = Instant::now();
    let mut at = 0;
    let publish = || {
        while at < MESSAGES {
            let end = (at + 100).min(MESSAGES);
            let text = |number: usize| json!({"channel": "c", "data": number.to_string()}).to_string();
            let bytes: Vec<u8> = (at..end).flat_map(|number| frame(0x81, text(number).as_bytes())).collect();
            writer.stream().write_all(&bytes).unwrap();
            at = end;
        }
        writer.settle();
        began.elapsed()
    };
    // It reads again once it has been judged, while the others go on.
    let (published, (code, messages)) = std::thread::scope(|scope| {
        let publishing = scope.spawn(publish);
        let judged = || daemon.admin("GET", "/v1/connections", "").to_string().contains("slow_consumer");
        while !judged() {
            std::thread::yield_now();
        }
        let (code, _, messages) = stopped.closed();
        (publishing.join().unwrap(), (code, messages))
    });
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    let peak = daemon.memory().0;
    assert_eq!(code, 4413);
    for (number, message) in messages.iter().enumerate() {
        assert_eq!(message["data"], number.to_string(), "what came before is without a gap");
    }
    drop((writer, stopped));
    daemon.wait_until("all are gone", |status| status["connections"] == 0 && status["queued_bytes"] == 0);
    let after = daemon.memory().0;
    println!(
        "published {MESSAGES} messages to 10 readers in {published:?}; the one that stopped had {} of them; \
         resident KiB before {}, at the end {}, after {}",
        messages.len(),
        before >> 10,
        peak >> 10,
        after >> 10
    );
    assert!(after < before + (8 << 20), "memory did not come back: {before} to {after}");
}

fn read_all(mut reader: Client, messages: usize) {
    for number in 0..messages {
        assert_eq!(reader.data(), number.to_string());
    }
}

#[test]
fn fault_51_all_stop_at_once() {
    let daemon = Daemon::start(
        "[limits]\nqueue_messages = 100000\nqueue_bytes = \"16MiB\"\ntotal_queue_bytes = \"24MiB\"\n",
    );
    let mut stopped: Vec<Client> = (0..20).map(|_| daemon.client_with(&json!({"read": ["c"]}))).collect();
    let mut writer = daemon.client_with(&json!({"write": ["c"]}));
    let text = json!({"channel": "c", "data": "x".repeat(10_000)}).to_string();
    let mut greatest = 0;
    for _ in 0..1_500 {
        writer.send(text.clone());
    }
    writer.settle();
    let status = daemon.wait_until("they are closed for memory", |status| {
        status["queued_bytes"].as_u64().unwrap() <= 24 << 20
    });
    greatest = greatest.max(status["queued_bytes"].as_u64().unwrap());
    assert!(greatest <= 24 << 20);
    let codes: Vec<u16> = stopped.iter_mut().map(client_end).collect();
    assert!(codes.contains(&4413), "{codes:?}");
    writer.settle();
}

/// The close code of a client that reads again; 0 if it was not closed and had everything.
fn client_end(client: &mut Client) -> u16 {
    for _ in 0..1_500 {
        match client.socket.read() {
            Ok(Message::Close(Some(close))) => return close.code.into(),
            Ok(_) => {}
            Err(_) => return 1006,
        }
    }
    0
}
