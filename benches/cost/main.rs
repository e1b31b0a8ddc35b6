//! Runs one server on one thread with clients in lockstep, so that the counts of what a message costs are reproducible.
//!
//! `cost SCENARIO ROUNDS` prints as JSON what one round consists of and how many allocations it made. `tests/cost` runs it
//! under callgrind, which counts instructions in [`the_measured_part`], and under strace, which records system calls between
//! the two calls of getcwd(2) in that function.

#![allow(clippy::unwrap_used, reason = "a measurement that fails should say where")]

mod client;

use std::alloc::System;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;

use philote::config::{Environment, Overrides, load};
use philote::server::{Server, accept_loop, listener};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SECRET: &str = "a secret of benches/cost, for loopback only";
const MAX_CONNECTIONS: &str = "5000";
const MAX_DESCRIPTORS: usize = 6_000;

/// The connections, and the work of one round.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    /// Channels, each with its own readers and publishers.
    rooms: usize,
    /// Connections that read each channel.
    readers: usize,
    /// Whether the readers take turns to publish; otherwise each channel has one more connection that publishes.
    mutual: bool,
    /// Messages that a publisher sends with one system call.
    batch: usize,
    /// Connections opened in each round; the others are open before the first.
    connects: usize,
    /// `[history] messages`: at most the number of rounds before the first counted one, so that each message drops one.
    history: &'static str,
    /// Whether tokens have a subject, so that messages do.
    subject: bool,
}

const FANOUT: Scenario = Scenario {
    name: "fanout-1",
    rooms: 1,
    readers: 1_000,
    mutual: false,
    batch: 1,
    connects: 0,
    history: "0",
    subject: true,
};
const ROOMS: Scenario = Scenario { name: "rooms", rooms: 200, readers: 10, mutual: true, ..FANOUT };

const SCENARIOS: [Scenario; 6] = [
    FANOUT,
    Scenario { name: "fanout-16", batch: 16, ..FANOUT },
    ROOMS,
    Scenario { name: "rooms-history", history: "10", ..ROOMS },
    Scenario { name: "rooms-nameless", subject: false, ..ROOMS },
    Scenario { name: "connect", rooms: 0, readers: 0, batch: 0, connects: 1, ..FANOUT },
];

impl Scenario {
    fn publishes(&self) -> usize {
        self.rooms * self.batch
    }

    fn deliveries(&self) -> usize {
        self.publishes() * (self.readers - usize::from(self.mutual && self.readers > 0))
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let named = |name: &str| SCENARIOS.into_iter().find(|scenario| scenario.name == name).unwrap();
    match arguments[..] {
        ["client", name, rounds, port] => {
            client::run(named(name), rounds.parse().unwrap(), port.parse().unwrap());
        }
        [name, rounds] => serve(named(name), rounds.parse().unwrap()),
        _ => {
            let names = SCENARIOS.map(|scenario| scenario.name).join("|");
            println!("usage: cost {names} ROUNDS; tests/cost runs and compares all of them");
        }
    }
}

fn serve(scenario: Scenario, rounds: usize) {
    let environment = Environment::new([
        ("SECRET", SECRET),
        ("MAX_CONNECTIONS", MAX_CONNECTIONS),
        ("PHILOTE_HISTORY_MESSAGES", scenario.history),
    ]);
    let server = Server::new(load(&Overrides::default(), &environment).unwrap().settings, MAX_DESCRIPTORS);
    // One thread, and no work that a timer starts: what runs depends only on what the clients send.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut control, theirs, port) = runtime.block_on(async {
        let listener = TcpListener::from_std(listener::bind(([127, 0, 0, 1], 0).into()).unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(accept_loop::run(Arc::clone(&server), listener));
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (tokio::net::UnixStream::from_std(ours).unwrap(), OwnedFd::from(theirs), port)
    });
    let mut client = Command::new(std::env::current_exe().unwrap())
        .args(["client", scenario.name, &rounds.to_string(), &port.to_string()])
        .stdin(Stdio::from(theirs.try_clone().unwrap()))
        .stdout(Stdio::from(theirs))
        .spawn()
        .unwrap();
    let mut turn = || {
        runtime.block_on(async {
            control.write_all(b"!").await.unwrap();
            control.read_u8().await.unwrap();
        });
    };
    // The connections are opened, and one round fills caches and lets queues grow.
    turn();
    let region = Region::new(ALLOCATOR);
    the_measured_part(&mut turn);
    let change = region.change();
    println!(
        "{}",
        serde_json::json!({
            "rounds": rounds,
            "publishes": scenario.publishes(),
            "deliveries": scenario.deliveries(),
            "batch": scenario.batch,
            "connects": scenario.connects,
            "allocations": change.allocations + change.reallocations,
            "allocated_bytes": change.bytes_allocated,
        })
    );
    client.wait().unwrap();
}

/// The counted part. callgrind finds it by its name, and `tests/cost` finds its two system calls in the trace, because
/// nothing else makes them.
#[inline(never)]
fn the_measured_part(turn: &mut dyn FnMut()) {
    std::env::current_dir().unwrap();
    turn();
    std::env::current_dir().unwrap();
}
