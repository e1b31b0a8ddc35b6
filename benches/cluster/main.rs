//! Loads nodes of a cluster: publishes at one node and reads at others. `benches/run cluster` starts the nodes and calls
//! `cluster flow`, `cluster fill` and `cluster enter`, which print their figures as JSON.

#![allow(clippy::unwrap_used, reason = "a measurement that fails should say where")]

mod socket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use socket::{Socket, frame};

/// A token names this many channels at most.
const CHANNELS_PER_TOKEN: usize = 1_000;

/// How long to wait for everything that is kept, or for the last deliveries.
const LONGEST: Duration = Duration::from_secs(60);

/// How long a publisher at a fixed rate sleeps between two batches.
const TICK: Duration = Duration::from_millis(1);

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// The secret that signs the tokens
    #[arg(long)]
    secret: String,
    /// cargo bench adds this flag
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum What {
    /// Publishes at a fixed rate, and measures latencies and the CPU time of processes
    Flow(Flow),
    /// Publishes as fast as acknowledgements come, and measures the rate in parts of the whole
    Fill(Fill),
    /// Enters channels on many connections at once, and waits for everything that is kept
    Enter(Enter),
}

#[derive(Args)]
struct Flow {
    #[arg(long)]
    publish: SocketAddr,
    #[arg(long, value_delimiter = ',')]
    read: Vec<SocketAddr>,
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    #[arg(long)]
    rate: u64,
    #[arg(long, default_value_t = 100)]
    channels: usize,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

#[derive(Args)]
struct Fill {
    #[arg(long)]
    publish: SocketAddr,
    #[arg(long)]
    messages: u64,
    #[arg(long, default_value_t = 100)]
    channels: usize,
    /// Messages that wait for their answers
    #[arg(long, default_value_t = 2_000)]
    window: u64,
    /// Into how many parts the rate is divided
    #[arg(long, default_value_t = 8)]
    parts: u64,
}

#[derive(Args)]
struct Enter {
    #[arg(long)]
    read: SocketAddr,
    #[arg(long)]
    channels: usize,
    /// Messages that must arrive
    #[arg(long)]
    messages: u64,
}

fn main() {
    if std::env::args().skip(1).all(|argument| argument == "--bench") {
        return println!("benches/run cluster starts the nodes and calls this program");
    }
    let arguments = Arguments::parse();
    let secret = &arguments.secret;
    let figures = match arguments.what {
        What::Flow(options) => flow(&options, secret),
        What::Fill(options) => fill(&options, secret),
        What::Enter(options) => enter(&options, secret),
    };
    println!("{figures}");
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("room-{number:06}")).collect()
}

/// CPU seconds of processes so far, from the nanoseconds of their threads.
fn cpu(pids: &[u32]) -> Vec<f64> {
    let of = |pid: &u32| -> f64 {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads
            .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
            .map(|text| text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9)
            .sum()
    };
    pids.iter().map(of).collect()
}

/// Reads one connection until it ends, and counts each message in `arrived`; latencies of what was sent after `from`, in
/// microseconds.
fn read(
    mut socket: Socket,
    began: Instant,
    from: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
) -> thread::JoinHandle<(u64, Histogram<u64>)> {
    thread::spawn(move || {
        let (mut count, mut latencies) = (0, Histogram::new(3).unwrap());
        while let Some(payloads) = socket.payloads() {
            let now = began.elapsed().as_micros() as u64;
            for payload in payloads {
                let Some(sent) = stamp(&payload) else { continue };
                arrived.fetch_add(1, Relaxed);
                if sent >= from.load(Relaxed) {
                    count += 1;
                    latencies.record(now.saturating_sub(sent)).unwrap();
                }
            }
        }
        (count, latencies)
    })
}

/// The time in a message's data.
fn stamp(payload: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(payload).ok()?;
    text.split_once("\"data\":\"")?.1.get(..16)?.parse().ok()
}

/// A message whose data begins with a time; it has 128 bytes.
fn message(channel: &str, time: u64, ack: Option<u64>) -> Vec<u8> {
    let ack = ack.map(|number| format!(",\"ack\":\"{number}\"")).unwrap_or_default();
    let padding = "x".repeat(112);
    frame(format!("{{\"channel\":\"{channel}\",\"data\":\"{time:016}{padding}\"{ack}}}").as_bytes())
}

fn flow(options: &Flow, secret: &str) -> Value {
    let (began, channels) = (Instant::now(), names(options.channels));
    let from = Arc::new(AtomicU64::new(u64::MAX));
    let (mut ends, mut arrivals) = (Vec::new(), Vec::new());
    let readers: Vec<_> = options
        .read
        .iter()
        .map(|address| {
            let socket = Socket::open(*address, secret, &channels, &[], &Value::Null);
            ends.push(socket.try_clone());
            let arrived = Arc::new(AtomicU64::new(0));
            arrivals.push(arrived.clone());
            read(socket, began, from.clone(), arrived)
        })
        .collect();
    let publisher = Socket::open(options.publish, secret, &[], &channels, &Value::Null);
    let (mut writer, mut answers) = (publisher.try_clone(), publisher);
    let refused = Arc::new(AtomicU64::new(0));
    let counted = refused.clone();
    let answered = thread::spawn(move || {
        while let Some(payloads) = answers.payloads() {
            let errors = payloads.iter().filter(|payload| payload.starts_with(b"{\"error\"")).count();
            counted.fetch_add(errors as u64, Relaxed);
        }
    });
    let mut sent = 0;
    let mut publish = |until: Duration| {
        let (first, started) = (sent, began.elapsed());
        while began.elapsed() < started + until {
            let due = (began.elapsed() - started).as_micros() as u64 * options.rate / 1_000_000;
            let mut batch = Vec::new();
            while sent - first < due {
                let channel = &channels[sent as usize % channels.len()];
                batch.extend(message(channel, began.elapsed().as_micros() as u64, None));
                sent += 1;
            }
            writer.write(&batch);
            thread::sleep(TICK);
        }
        sent - first
    };
    publish(Duration::from_secs(1));
    from.store(began.elapsed().as_micros() as u64, Relaxed);
    let (before, started) = (cpu(&options.pids), Instant::now());
    let published = publish(Duration::from_secs(options.seconds));
    // What is still under way belongs to the measurement. Messages that are lost never arrive.
    let ended = Instant::now();
    let missing = |arrived: &Arc<AtomicU64>| arrived.load(Relaxed) + refused.load(Relaxed) < sent;
    while arrivals.iter().any(missing) && ended.elapsed() < LONGEST {
        thread::sleep(TICK);
    }
    let (after, seconds) = (cpu(&options.pids), started.elapsed().as_secs_f64());
    ends.iter().for_each(Socket::end);
    writer.end();
    answered.join().unwrap();
    let (mut delivered, mut latencies) = (Vec::new(), Histogram::new(3).unwrap());
    for reader in readers {
        let (count, own): (u64, Histogram<u64>) = reader.join().unwrap();
        delivered.push(count);
        latencies.add(own).unwrap();
    }
    let cpu: Vec<f64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    let at = |quantile: f64| latencies.value_at_quantile(quantile) as f64 / 1e3;
    json!({"published": published, "delivered": delivered, "refused": refused.load(Relaxed), "seconds": seconds, "cpu": cpu,
        "p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999)})
}

fn fill(options: &Fill, secret: &str) -> Value {
    let channels = names(options.channels);
    let began = Instant::now();
    let mut rates = Vec::new();
    let mut refused = 0;
    // One connection for as many channels as a token may name.
    let mut sockets: Vec<_> = channels
        .chunks(CHANNELS_PER_TOKEN)
        .map(|channels| (Socket::open(options.publish, secret, &[], channels, &Value::Null), channels))
        .collect();
    let count = sockets.len() as u64;
    for _ in 0..options.parts {
        let started = Instant::now();
        let part = options.messages / options.parts;
        for (socket, channels) in &mut sockets {
            refused += fill_one(socket, channels, part / count, options.window);
        }
        rates.push(part as f64 / started.elapsed().as_secs_f64());
    }
    json!({"seconds": began.elapsed().as_secs_f64(), "rates": rates, "refused": refused})
}

/// Publishes on one connection with at most `window` unanswered messages; returns how many were refused.
fn fill_one(socket: &mut Socket, channels: &[String], messages: u64, window: u64) -> u64 {
    let (mut sent, mut answered, mut refused) = (0, 0, 0);
    while answered < messages {
        let mut batch = Vec::new();
        while sent < messages && sent - answered < window && batch.len() < 1 << 16 {
            batch.extend(message(&channels[sent as usize % channels.len()], 0, Some(sent)));
            sent += 1;
        }
        socket.write(&batch);
        if sent - answered == window || sent == messages {
            let payloads = socket.payloads().unwrap();
            answered += payloads.len() as u64;
            refused += payloads.iter().filter(|payload| payload.starts_with(b"{\"error\"")).count() as u64;
        }
    }
    refused
}

fn enter(options: &Enter, secret: &str) -> Value {
    let channels = names(options.channels);
    let began = Instant::now();
    let arrived = Arc::new(AtomicU64::new(0));
    let (mut ends, mut threads) = (Vec::new(), Vec::new());
    for channels in channels.chunks(CHANNELS_PER_TOKEN) {
        let since = channels.iter().map(|name| (name.clone(), Value::Null)).collect();
        let mut socket = Socket::open(options.read, secret, channels, &[], &Value::Object(since));
        ends.push(socket.try_clone());
        let arrived = arrived.clone();
        threads.push(thread::spawn(move || {
            while let Some(payloads) = socket.payloads() {
                arrived.fetch_add(payloads.len() as u64, Relaxed);
            }
        }));
    }
    let entered = began.elapsed().as_secs_f64();
    while arrived.load(Relaxed) < options.messages && began.elapsed() < LONGEST {
        thread::sleep(TICK);
    }
    let seconds = began.elapsed().as_secs_f64();
    ends.iter().for_each(Socket::end);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    json!({"entered_seconds": entered, "seconds": seconds, "delivered": arrived.load(Relaxed)})
}
