//! Measures how the cost of hub and outboxes grows, with sinks in place of sockets, for more readers than one process may
//! open connections.
//!
//! `growth readers N`, `growth channels N` and `growth threads N` print their figures as JSON: nanoseconds of CPU and
//! bytes of live allocations. `benches/run growth` calls them and draws the plot.

#![allow(clippy::unwrap_used, reason = "a measurement that fails should say where")]

use std::alloc::System;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use philote::hub::{Connection, FlushList, Hub};
use philote::message::Delivery;
use philote::outbox::{Budget, Sink};
use philote::token::{Claims, Keys, NewToken, Policy, issue, verify};
use rustix::time::{ClockId, clock_gettime};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Readers of each room.
const ROOM: usize = 10;
/// Messages that are published to rooms.
const MESSAGES: usize = 1_000_000;
/// The least number of deliveries to all readers, so that few readers are measured long enough.
const DELIVERIES: usize = 2_000_000;
/// Rooms are visited in steps of this prime and not in memory order, because real traffic has no such order.
const LEAP: usize = 7_919_111;

/// A sink that accepts every write, as a socket with free buffer space does.
struct Taking;

impl Sink for Taking {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn shutdown(&self) {}
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [what, count] = &arguments[..] else {
        return println!("usage: growth readers|channels|threads N; benches/run growth calls all of them");
    };
    let count = count.parse().unwrap();
    let figures = match what.as_str() {
        "readers" => readers(count),
        "channels" => channels(count),
        _ => threads(count),
    };
    println!("{figures}");
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// CPU nanoseconds for each of `count` units of the work.
fn each(count: usize, work: impl FnOnce()) -> f64 {
    let before = cpu();
    work();
    (cpu() - before).as_nanos() as f64 / count as f64
}

/// Bytes that are allocated and not freed.
fn live() -> f64 {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as f64 - stats.bytes_deallocated as f64
}

fn new_hub() -> Hub {
    Hub::new(Arc::new(Budget::new(4096, 1 << 20, 1 << 30, 1024)))
}

/// The claims of a token that reads these channels.
fn access(channels: &[&str]) -> Arc<Claims> {
    let keys = Keys::new([&b"a secret of benches/growth, for no server"[..]]);
    let policy = Policy {
        leeway: 5,
        require_expiry: false,
        issuer: None,
        audience: None,
        channels: 1024,
        channel_name_bytes: 255,
    };
    let read = channels.iter().map(|&channel| channel.to_owned()).collect();
    let token = NewToken { read, subject: Some("somebody".into()), ..NewToken::default() };
    Arc::new(verify(&issue(&token, &keys).unwrap(), &keys, &policy, 0).unwrap())
}

fn connection(hub: &Hub, access: &Arc<Claims>) -> Arc<Connection> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let connection = Arc::new(Connection::new(address, access.clone(), hub.budget().clone(), 0));
    connection.outbox.attach(Box::new(Taking));
    connection
}

fn room(number: usize) -> String {
    format!("room-{number:06}")
}

fn publish(hub: &Hub, channel: &str, flush_list: &mut FlushList) -> usize {
    let data = concat!("\"", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "\"");
    let issuer = "00000000-0000-4000-8000-000000000000";
    let queued = hub.publish(
        &Delivery { issuer, channel, data: Some(data), subject: Some("somebody") },
        None,
        flush_list,
    );
    flush_list.flush();
    queued
}

/// All readers join one channel and a room of ten, receive messages in both, and leave.
fn readers(count: usize) -> serde_json::Value {
    let rooms = count / ROOM;
    let names: Vec<String> = (0..rooms).map(room).collect();
    let hub = new_hub();
    let keys: Vec<Arc<Claims>> = names.iter().map(|room| access(&["all", room])).collect();
    let mut readers = Vec::with_capacity(count);
    let before = live();
    let join = each(count, || {
        for number in 0..count {
            let reader = connection(&hub, &keys[number % rooms]);
            hub.enter(&reader);
            readers.push(reader);
        }
    });
    let joined = (live() - before) / count as f64;
    let mut flush_list = FlushList::new();
    let rounds = (DELIVERIES / count).max(3);
    let all = each(rounds * count, || {
        (0..rounds).for_each(|_| assert_eq!(publish(&hub, "all", &mut flush_list), count));
    });
    let in_rooms = each(MESSAGES * ROOM, || {
        for number in 0..MESSAGES {
            assert_eq!(publish(&hub, &names[number * LEAP % rooms], &mut flush_list), ROOM);
        }
    });
    flush_list.trim();
    let after = (live() - before) / count as f64;
    let leave = each(count, || {
        for reader in readers.drain(..) {
            hub.leave(&reader);
        }
    });
    serde_json::json!({
        "readers": count,
        "join_ns": join,
        "bytes": joined,
        "bytes_after": after,
        "all_ns_a_delivery": all,
        "rooms_ns_a_delivery": in_rooms,
        "leave_ns": leave,
        "bytes_left": (live() - before) / count as f64,
    })
}

/// One reader for each channel: the cost of a message to one channel, and of another reader that joins and leaves.
fn channels(count: usize) -> serde_json::Value {
    let names: Vec<String> = (0..count).map(room).collect();
    let hub = new_hub();
    let readers: Vec<Arc<Connection>> = names.iter().map(|name| connection(&hub, &access(&[name]))).collect();
    readers.iter().for_each(|reader| hub.enter(reader));
    let mut flush_list = FlushList::new();
    let publish = each(MESSAGES, || {
        for number in 0..MESSAGES {
            assert_eq!(publish(&hub, &names[number * LEAP % count], &mut flush_list), 1);
        }
    });
    let guest = connection(&hub, &access(&[]));
    let visits: Vec<&str> =
        (0..count.min(1_000)).map(|number| names[number * LEAP % count].as_str()).collect();
    let visit = each(MESSAGES, || {
        for number in 0..MESSAGES {
            hub.subscribe(&guest, &[visits[number % visits.len()]]);
            hub.subscribe(&guest, &[]);
        }
    });
    serde_json::json!({ "channels": count, "publish_ns": publish, "join_and_leave_ns": visit })
}

/// Threads that publish at the same time: first each to its own rooms, then all to one room.
fn threads(count: usize) -> serde_json::Value {
    const READERS: usize = 10_000;
    let hub = Arc::new(new_hub());
    let names: Arc<Vec<String>> = Arc::new((0..READERS / ROOM).map(room).collect());
    for name in names.iter() {
        let key = access(&[name]);
        (0..ROOM).for_each(|_| hub.enter(&connection(&hub, &key)));
    }
    let run = |shared: bool| {
        let start = Arc::new(Barrier::new(count + 1));
        let running: Vec<_> = (0..count)
            .map(|thread| {
                let (hub, names, start) = (hub.clone(), names.clone(), start.clone());
                thread::spawn(move || {
                    let mut flush_list = FlushList::new();
                    start.wait();
                    each(MESSAGES, || {
                        for number in 0..MESSAGES {
                            let own = (number * LEAP * count + thread) % names.len();
                            publish(&hub, &names[if shared { 0 } else { own }], &mut flush_list);
                        }
                    })
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        let cpu: f64 = running.into_iter().map(|thread| thread.join().unwrap()).sum();
        let deliveries = (MESSAGES * ROOM) as f64;
        (cpu / count as f64 / ROOM as f64, deliveries * count as f64 / began.elapsed().as_secs_f64())
    };
    let (own, shared) = (run(false), run(true));
    serde_json::json!({
        "threads": count,
        "own_rooms_ns_a_delivery": own.0,
        "own_rooms_a_second": own.1,
        "one_room_ns_a_delivery": shared.0,
        "one_room_a_second": shared.1,
    })
}
