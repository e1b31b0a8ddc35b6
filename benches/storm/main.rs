//! Clients that lose their connections all at once and come back at once, as when a proxy in front of the server is
//! reloaded.
//!
//! `storm PORT DIRECT COUNT TOKEN` opens COUNT WebSockets through the proxy at PORT, prints a line, and waits until each has
//! been lost and has been opened again. Meanwhile it connects to the server itself, at DIRECT, to measure how long a client
//! without the proxy waits. Its figures are JSON. `benches/run storm` calls it.

#![allow(clippy::unwrap_used, reason = "a measurement that fails should say where")]

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::json;

/// Handshakes in progress while the first connections are opened. Later there is no such limit: all come back at once.
const OPENING: usize = 128;
/// Addresses of the proxy, so that each has ports enough for the old and the new connections.
const ADDRESSES: usize = 4;
/// The pause after a refused attempt. A client adds up to as much again.
const PAUSE: Duration = Duration::from_millis(500);
/// The pause between two connections that bypass the proxy.
const PROBE: Duration = Duration::from_millis(10);
/// How long the storm may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// A client and its current connection.
struct Client {
    stream: Option<TcpStream>,
    stage: Stage,
    /// When the current attempt began, or the next one begins.
    at: Instant,
    /// When its first connection was lost.
    lost: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Connecting,
    Upgrading,
    Open,
}

struct Storm {
    poll: Poll,
    port: u16,
    request: Vec<u8>,
    clients: Vec<Client>,
    open: usize,
    /// How long each attempt took that succeeded after the loss.
    waits: Vec<Duration>,
    refusals: BTreeMap<String, usize>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [port, direct, count, token] = &arguments[..] else {
        return println!("usage: storm PORT DIRECT COUNT TOKEN; benches/run storm calls it");
    };
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: cGhpbG90ZWN0bCBiZW5jaA==\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    let (direct, count): (u16, usize) = (direct.parse().unwrap(), count.parse().unwrap());
    let mut storm = Storm {
        poll: Poll::new().unwrap(),
        port: port.parse().unwrap(),
        request: request.clone().into_bytes(),
        clients: Vec::with_capacity(count),
        open: 0,
        waits: Vec::new(),
        refusals: BTreeMap::new(),
    };
    storm.open_all(count);
    let over = Arc::new(AtomicBool::new(false));
    let probe = thread::spawn({
        let over = over.clone();
        move || probe(direct, request.as_bytes(), &over)
    });
    println!("open");
    storm.wait_out();
    over.store(true, Ordering::Relaxed);
    println!("{}", storm.figures(&probe.join().unwrap()));
    // The connections stay until the caller has looked at the server.
    let _ = io::stdin().read(&mut [0]);
}

impl Storm {
    fn open_all(&mut self, count: usize) {
        let began = Instant::now();
        while self.open < count {
            while self.clients.len() < count.min(self.open + OPENING) {
                self.clients.push(Client {
                    stream: None,
                    stage: Stage::Waiting,
                    at: Instant::now(),
                    lost: None,
                });
                self.connect(self.clients.len() - 1);
            }
            self.turn();
            assert!(began.elapsed() < PATIENCE, "only {} connections: {:?}", self.open, self.refusals);
        }
    }

    /// Turns until every client has lost its first connection and has another.
    fn wait_out(&mut self) {
        let began = Instant::now();
        while self.open < self.clients.len() || self.clients.iter().any(|client| client.lost.is_none()) {
            self.turn();
            let now = Instant::now();
            for index in 0..self.clients.len() {
                if self.clients[index].stage == Stage::Waiting && self.clients[index].at <= now {
                    self.connect(index);
                }
            }
            assert!(began.elapsed() < PATIENCE, "only {} connections: {:?}", self.open, self.refusals);
        }
    }

    fn connect(&mut self, index: usize) {
        let address = SocketAddr::from(([127, 0, 0, 1 + (index % ADDRESSES) as u8], self.port));
        let mut stream = TcpStream::connect(address).unwrap();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(index), interest).unwrap();
        let client = &mut self.clients[index];
        (client.stream, client.stage, client.at) = (Some(stream), Stage::Connecting, Instant::now());
    }

    fn turn(&mut self) {
        let mut events = Events::with_capacity(1024);
        self.poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
        for event in &events {
            let index = event.token().0;
            let client = &mut self.clients[index];
            let Some(stream) = &mut client.stream else { continue };
            if client.stage == Stage::Connecting && event.is_writable() {
                client.stage = Stage::Upgrading;
                if let Err(error) = stream.write_all(&self.request) {
                    self.end(index, &error.kind().to_string());
                    continue;
                }
            }
            if event.is_readable() || event.is_error() || event.is_read_closed() {
                self.read(index);
            }
        }
    }

    fn read(&mut self, index: usize) {
        let mut bytes = [0; 4096];
        loop {
            let client = &mut self.clients[index];
            let Some(stream) = &mut client.stream else { return };
            match stream.read(&mut bytes) {
                Ok(0) => return self.end(index, "closed"),
                Ok(_) if client.stage == Stage::Open => answer_ping(stream, &bytes),
                Ok(_) if bytes.starts_with(b"HTTP/1.1 101") => {
                    client.stage = Stage::Open;
                    self.open += 1;
                    if client.lost.is_some() {
                        self.waits.push(client.at.elapsed());
                    }
                }
                Ok(_) => {
                    let status = String::from_utf8_lossy(&bytes[9..12]).into_owned();
                    return self.end(index, &status);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.end(index, &error.kind().to_string()),
            }
        }
    }

    /// A connection has ended: a lost one is opened again at once, a refused one after a pause.
    fn end(&mut self, index: usize, why: &str) {
        let client = &mut self.clients[index];
        if let Some(mut stream) = client.stream.take() {
            let _ = self.poll.registry().deregister(&mut stream);
        }
        let now = Instant::now();
        if client.stage == Stage::Open {
            self.open -= 1;
            client.lost.get_or_insert(now);
            client.at = now;
        } else {
            *self.refusals.entry(why.to_owned()).or_default() += 1;
            client.at = now + PAUSE + PAUSE * (index % 16) as u32 / 16;
        }
        client.stage = Stage::Waiting;
    }

    fn figures(&mut self, probes: &[Duration]) -> serde_json::Value {
        let lost: Vec<_> = self.clients.iter().map(|client| client.lost.unwrap()).collect();
        let (first, last) = (*lost.iter().min().unwrap(), *lost.iter().max().unwrap());
        json!({
            "lost_within": (last - first).as_secs_f64(),
            "all_back_after": first.elapsed().as_secs_f64(),
            "attempt": percentiles(&mut self.waits),
            "refusals": self.refusals,
            "direct": percentiles(&mut probes.to_vec()),
            "direct_count": probes.len(),
        })
    }
}

/// Median, 99th percentile and maximum, in seconds.
fn percentiles(times: &mut [Duration]) -> serde_json::Value {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64();
    json!({"p50": at(0.5), "p99": at(0.99), "max": at(1.0)})
}

/// A pong with the ping's payload; a masking key of zeros leaves it as it is.
fn answer_ping(stream: &mut TcpStream, bytes: &[u8]) {
    if bytes[0] == 0x89 {
        let length = usize::from(bytes[1] & 0x7f);
        let pong = [&[0x8a, 0x80 | bytes[1], 0, 0, 0, 0], &bytes[2..2 + length]].concat();
        let _ = stream.write_all(&pong);
    }
}

/// Connects to the server itself, again and again. Returns how long each client waited for its 101.
fn probe(port: u16, request: &[u8], over: &AtomicBool) -> Vec<Duration> {
    let mut waits = Vec::new();
    let attempt = || -> io::Result<Duration> {
        let began = Instant::now();
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(request)?;
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes)?;
        assert!(bytes.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&bytes[..count]));
        Ok(began.elapsed())
    };
    while !over.load(Ordering::Relaxed) {
        waits.push(attempt().unwrap());
        thread::sleep(PROBE);
    }
    waits
}
