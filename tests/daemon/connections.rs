//! Slots for connections, heartbeats and slow readers.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Client, Daemon, frame, header, sign, status, upgrade};

#[test]
fn fault_52_connections_at_once_get_101_or_503() {
    let daemon = Daemon::start("max_connections = 100\n");
    let token = sign(&json!({"read": ["c"]}));
    let streams: Vec<_> = (0..400)
        .map(|_| {
            let mut stream = daemon.connect();
            stream.write_all(upgrade(&token, "").as_bytes()).unwrap();
            stream
        })
        .collect();
    let answers: Vec<String> = streams
        .iter()
        .map(|mut stream| {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..count]).into_owned()
        })
        .collect();
    assert_eq!(answers.iter().filter(|answer| status(answer) == 101).count(), 100);
    let refused: Vec<_> = answers.iter().filter(|answer| status(answer) == 503).collect();
    assert_eq!(refused.len(), 300);
    assert!(refused.iter().all(|answer| header(answer, "Retry-After") == Some("5")), "{refused:?}");
    drop(streams);
    daemon.wait_until("all connections are closed", |status| status["connections"] == 0);
    daemon.client(&["c"]).settle();
}

#[test]
fn a_client_that_answers_no_ping_is_closed_and_another_is_not() {
    let daemon = Daemon::start("[websocket]\nping_interval = \"1s\"\npong_timeout = \"1s\"\n");
    let mut alive = daemon.client(&["c"]);
    let mut dead = daemon.client(&["c"]);
    // Raw bytes, because a library would answer.
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

/// A slow message is not kept alive by more bytes or whole frames, because its age counts from its first byte.
#[test]
fn fault_35_a_slow_message_is_cut_by_the_age_of_its_first_byte() {
    // No ping is sent meanwhile, because the client's pong would fall into the middle of its frame.
    let daemon = Daemon::start("[websocket]\nping_interval = \"5m\"\n");
    let whole = frame(0x81, br#"{"channel":"c","data":"a longer one"}"#);
    let bytes: Vec<Vec<u8>> = whole.iter().map(|byte| vec![*byte]).collect();
    let mut frames = vec![frame(0x01, b"{\"channel\":")];
    frames.resize(bytes.len(), frame(0x00, b" "));
    let began = Instant::now();
    let slow = [bytes, frames].map(|pieces| {
        let client = daemon.client(&["c"]);
        std::thread::spawn(move || trickle(client, pieces))
    });
    for client in slow {
        let answer = client.join().unwrap();
        assert_eq!(answer[2..4], 1008_u16.to_be_bytes(), "{answer:?}");
        assert_eq!(&answer[4..], b"a message took too long to arrive");
        // Each message would have taken 80 s.
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(29) && took < Duration::from_secs(60), "{took:?}");
    }
    daemon.wait_until("the connections are closed", |status| status["connections"] == 0);
}

/// Sends a piece every two seconds until the server ends the connection, and returns everything received.
fn trickle(mut client: Client, pieces: Vec<Vec<u8>>) -> Vec<u8> {
    let stream = client.stream();
    let mut answer = Vec::new();
    let mut buffer = [0; 256];
    // The read timeout is the pause.
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    for piece in pieces {
        stream.write_all(&piece).unwrap();
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return answer,
                Ok(count) => answer.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    panic!("never closed")
}

#[test]
fn fault_52_a_large_batch_closes_no_reader() {
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
    // The publisher reads the channel as well, and gets none of its own messages.
    writer.settle();
    let batch: Vec<String> = (MESSAGES..MESSAGES * 2).map(text).collect();
    let api = sign(&json!({"api": true}));
    let (code, answer) = daemon.http("POST", "/api/publish", &api, &format!("[{}]", batch.join(",")));
    assert_eq!((code, answer["published"].as_array().unwrap().len()), (200, MESSAGES));
    assert_eq!(answer["published"][MESSAGES - 1]["readers"], READERS + 1);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

/// Guarantees 1 to 4: the reader that stops is closed, the others get everything, the publisher is never slowed, and
/// the memory is freed.
#[test]
fn fault_50_a_reader_that_stops_is_closed_and_slows_nothing() {
    const MESSAGES: usize = 200_000;
    let daemon = Daemon::start("");
    let before = daemon.memory().0;
    daemon.forget_peak();
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
    // It reads again once the daemon has judged it, while the others go on.
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
    let peak = daemon.peak();
    assert_eq!(code, 4413);
    for (number, message) in messages.iter().enumerate() {
        assert_eq!(message["data"], number.to_string(), "no message before the Close is missing");
    }
    drop((writer, stopped));
    daemon.wait_until("all are gone", |status| status["connections"] == 0 && status["queued_bytes"] == 0);
    let after = daemon.memory().0;
    println!(
        "published {MESSAGES} messages to 10 readers in {published:?}; the one that stopped had {} of them; \
         resident KiB before {}, at the most {}, after {}",
        messages.len(),
        before >> 10,
        peak >> 10,
        after >> 10
    );
    // queue_bytes is 1 MiB; 16 MiB are published in total.
    assert!(peak < before + (12 << 20), "memory was not flat: {before} to {peak}");
    assert!(after < before + (8 << 20), "memory was not freed: {before} to {after}");
}

fn read_all(mut reader: Client, messages: usize) {
    for number in 0..messages {
        assert_eq!(reader.data(), number.to_string());
    }
}

/// Each reader has its own channel, so that no two queues share a message.
#[test]
fn fault_51_memory_is_bounded_when_all_readers_stop() {
    const READERS: usize = 20;
    const TOTAL: u64 = 24 << 20;
    const DATA: usize = 50_000;
    const MESSAGES: usize = 160;
    // No ping is sent meanwhile, because no client reads it.
    let daemon = Daemon::start(
        "[websocket]\nping_interval = \"5m\"\n\
         [limits]\nqueue_messages = 100000\nqueue_bytes = \"16MiB\"\ntotal_queue_bytes = \"24MiB\"\n",
    );
    let names: Vec<String> = (0..READERS).map(|number| number.to_string()).collect();
    let stopped: Vec<Client> =
        names.iter().map(|name| daemon.client_with(&json!({"read": [name]}))).collect();
    let mut writer = daemon.client_with(&json!({"write": names}));
    writer.settle();
    daemon.forget_peak();
    let before = daemon.peak();
    let data = "x".repeat(DATA);
    let round: Vec<u8> = names
        .iter()
        .flat_map(|name| frame(0x81, json!({"channel": name, "data": data}).to_string().as_bytes()))
        .collect();
    let mut greatest = 0;
    for _ in 0..MESSAGES {
        writer.stream().write_all(&round).unwrap();
        writer.settle();
        greatest = greatest.max(daemon.metric("philote_queued_bytes"));
    }
    daemon.wait_until("the total holds", |status| status["queued_bytes"].as_u64().unwrap() <= TOTAL);
    let grown = daemon.peak() - before;
    println!(
        "{} MiB for {READERS} readers that stopped: {} KiB queued at the most, resident grew by {} KiB",
        (READERS * MESSAGES * DATA) >> 20,
        greatest >> 10,
        grown >> 10
    );
    // A batch may exceed the limit before the longest queues are closed. The allocator keeps some freed memory, hence twice.
    assert!((TOTAL / 2..=TOTAL + (4 << 20)).contains(&greatest), "{greatest}");
    assert!(grown < 2 * TOTAL, "{grown}");
    let ended = daemon.ended(1);
    assert!(ended.iter().all(|row| row["code"] == 4413), "{ended:?}");
    writer.settle();
    drop(stopped);
}

/// The burst would exceed `total_queue_bytes` many times if it were counted for each reader before a socket was full.
#[test]
fn fault_51_a_burst_closes_none_of_a_thousand_readers_that_read() {
    const READERS: usize = 1_000;
    const MESSAGES: usize = 100;
    let daemon = Daemon::start(
        "max_connections = 2000\n[limits]\nqueue_messages = 1000\nqueue_bytes = \"1MiB\"\ntotal_queue_bytes = \"1MiB\"\n",
    );
    let token = sign(&json!({"read": ["c"]}));
    let mut readers: Vec<Client> = (0..READERS).map(|_| daemon.try_client(&token).unwrap()).collect();
    let mut writer = daemon.client_with(&json!({"write": ["c"]}));
    let text = |number: usize| json!({"channel": "c", "data": format!("{number:0500}")}).to_string();
    let burst: Vec<u8> = (0..MESSAGES).flat_map(|number| frame(0x81, text(number).as_bytes())).collect();
    writer.stream().write_all(&burst).unwrap();
    for reader in &mut readers {
        for number in 0..MESSAGES {
            assert_eq!(reader.data().parse(), Ok(number));
        }
    }
    writer.settle();
    readers.iter_mut().for_each(Client::settle);
    assert_eq!(daemon.metric("philote_connections"), READERS as u64 + 1);
}
