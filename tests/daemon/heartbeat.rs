//! Who is alive: readers that are frozen, gone or slow, on channels that are busy.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{HandshakeError, client};

use crate::support::{Client, Daemon, PATIENCE, sign};

const BEATS: &str = "[websocket]\nping_interval = \"1s\"\npong_timeout = \"1s\"\n";

/// Those that have ended, if it is this one alone.
fn ended(daemon: &Daemon, subject: &str) -> Option<Value> {
    let answer = daemon.admin("GET", "/v1/connections/closed", "");
    let rows = answer["connections"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["subject"] == subject), "{answer}");
    rows.first().cloned()
}

/// Its system goes on taking what a frozen client is sent, so that it was never pinged while its channel was busy.
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
        assert!(began.elapsed() < PATIENCE, "still there after {:?}", began.elapsed());
        // A busy channel, not a flood.
        std::thread::sleep(Duration::from_millis(100));
    };
    println!("closed after {:?}", began.elapsed());
    assert_eq!(row["reason"], "no_pong", "{row}");
}

/// Reads some 160 KB a second.
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

/// The ping lies behind a MiB in the kernel's buffers: the answer comes seconds after `pong_timeout`.
#[test]
fn a_slow_reader_that_still_reads_is_not_called_dead() {
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

/// The second line: the system itself gives up a client that lets nothing more be sent, long before it could have read
/// what waits for it at the pace of the slowest reader.
#[test]
fn fault_79_a_frozen_reader_with_full_buffers_is_closed_on_a_quiet_channel() {
    let daemon =
        Daemon::start(&format!("{BEATS}[limits]\nqueue_bytes = \"64MiB\"\nqueue_messages = 100000\n"));
    let _frozen = daemon.client_with(&json!({"read": ["c"], "sub": "frozen"}));
    let mut writer = daemon.client_with(&json!({"write": ["c"]}));
    let text = "x".repeat(50_000);
    let queued = |status: &Value| status["queued_bytes"].as_u64().unwrap() > 0;
    // Until its socket refuses, and then some.
    while !queued(&daemon.admin("GET", "/v1/status", "")) {
        writer.publish("c", &text);
        writer.settle();
    }
    let began = Instant::now();
    let row = loop {
        // It answers pings in between.
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

/// A paused container, a stopped process: what clients answered meanwhile lies in their sockets.
#[test]
fn a_daemon_that_was_stopped_reads_before_it_judges() {
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
