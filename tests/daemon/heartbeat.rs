//! Heartbeats: readers that are frozen, gone or slow, on busy channels.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{HandshakeError, client};

use crate::support::{Client, Daemon, PATIENCE, sign};

const BEATS: &str = "[websocket]\nping_interval = \"1s\"\npong_timeout = \"1s\"\n";

/// The closed connections, if this is the only one.
fn ended(daemon: &Daemon, subject: &str) -> Option<Value> {
    let answer = daemon.admin("GET", "/v1/connections/closed", "");
    let rows = answer["connections"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["subject"] == subject), "{answer}");
    rows.first().cloned()
}

/// The system of a frozen client still accepts data, so the client was never pinged while its channel was busy.
#[test]
fn fault_79_a_frozen_reader_of_a_busy_channel_is_closed() {
    let daemon = Daemon::start("[websocket]\nping_interval = \"2s\"\npong_timeout = \"2s\"\n");
    let _frozen = daemon.client_with(&json!({"read": ["c"], "sub": "frozen"}));
    let mut reader = daemon.client_with(&json!({"read": ["c"]}));
    let mut writer = daemon.client_with(&json!({"read": ["own"], "write": ["c"]}));
    let began = Instant::now();
    let row = loop {
        writer.publish("c", "again");
        assert_eq!(reader.data(), "again");
        writer.settle();
        if let Some(row) = ended(&daemon, "frozen") {
            break row;
        }
        assert!(began.elapsed() < PATIENCE, "the connection is still open after {:?}", began.elapsed());
        // A busy channel, but not a flood.
        std::thread::sleep(Duration::from_millis(100));
    };
    println!("closed after {:?}", began.elapsed());
    assert_eq!(row["reason"], "no_pong", "{row}");
}

/// Reads about 160 KB a second.
struct Slow(TcpStream);

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        std::thread::sleep(Duration::from_millis(50));
        let part = buffer.len().min(8 * 1024);
        self.0.read(&mut buffer[..part])
    }
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The ping waits behind a MiB in the kernel's buffers, so the answer arrives seconds after `pong_timeout`.
#[test]
fn a_slow_reader_that_still_reads_is_not_closed() {
    const MESSAGES: usize = 100;
    let daemon = Daemon::start(BEATS);
    let token = sign(&json!({"read": ["c"], "sub": "slow"}));
    let mut request = daemon.request("/");
    request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
    let Ok((socket, _)) = client::client(request, Slow(daemon.connect())).map_err(|error| match error {
        HandshakeError::Failure(error) => panic!("{error}"),
        HandshakeError::Interrupted(_) => panic!("the handshake blocked"),
    });
    let mut slow = Client { socket };
    let mut writer = daemon.client_with(&json!({"write": ["c"]}));
    let text = "x".repeat(10_000);
    for _ in 0..MESSAGES {
        writer.publish("c", &text);
    }
    writer.settle();
    let began = Instant::now();
    for _ in 0..MESSAGES {
        assert_eq!(slow.data().len(), text.len());
    }
    println!("{} bytes read in {:?}", MESSAGES * text.len(), began.elapsed());
    slow.settle();
    assert!(ended(&daemon, "nobody").is_none());
}

/// The second check: the daemon closes a client whose system accepts no more data, long before the client could have read
/// the waiting messages at the pace of the slowest reader.
#[test]
fn fault_79_a_frozen_reader_with_full_buffers_is_closed_on_a_quiet_channel() {
    let daemon =
        Daemon::start(&format!("{BEATS}[limits]\nqueue_bytes = \"64MiB\"\nqueue_messages = 100000\n"));
    let _frozen = daemon.client_with(&json!({"read": ["c"], "sub": "frozen"}));
    let mut writer = daemon.client_with(&json!({"write": ["c"]}));
    let text = "x".repeat(50_000);
    let queued = |status: &Value| status["queued_bytes"].as_u64().unwrap() > 0;
    // Until the socket is full, and somewhat more.
    while !queued(&daemon.admin("GET", "/v1/status", "")) {
        writer.publish("c", &text);
        writer.settle();
    }
    let began = Instant::now();
    let row = loop {
        // It answers pings meanwhile.
        writer.settle();
        if let Some(row) = ended(&daemon, "frozen") {
            break row;
        }
        assert!(began.elapsed() < 3 * PATIENCE, "still there");
        std::thread::sleep(Duration::from_millis(100));
    };
    println!("closed after {:?}", began.elapsed());
    assert_eq!(row["reason"], "no_pong", "{row}");
}

/// A paused container or a stopped process: the answers of clients wait in their sockets.
#[test]
fn a_daemon_that_was_stopped_reads_answers_before_it_closes_clients() {
    let daemon = Daemon::start("[websocket]\nping_interval = \"1s\"\npong_timeout = \"2s\"\n");
    let mut clients: Vec<Client> = (0..50).map(|_| daemon.client(&["c"])).collect();
    for client in &mut clients {
        let mut ping = [0; 2];
        client.stream().read_exact(&mut ping).unwrap();
        assert_eq!(ping, [0x89, 0]);
    }
    daemon.signal(Signal::STOP);
    for client in &mut clients {
        client.stream().write_all(&[0x8a, 0x80, 0, 0, 0, 0]).unwrap();
    }
    std::thread::sleep(Duration::from_secs(4));
    daemon.signal(Signal::CONT);
    for client in &mut clients {
        client.settle();
    }
    assert!(ended(&daemon, "nobody").is_none());
}
