//! The command line of `philotectl bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

/// The longest that one scenario may run.
pub(super) const LONGEST: Duration = Duration::from_secs(600);

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// One publisher, many readers: with one message in flight, then with sixteen
    Fanout,
    /// Many rooms at once, whose members publish in turn
    Rooms,
    /// One publisher that publishes at a fixed rate, many readers
    Paced,
    /// One publisher, one reader
    Stream,
    /// Connections that do nothing: the memory of each before and after large messages, and the cost of accepting it
    Idle,
    /// Connections that join and leave rooms at a fixed rate
    Churn,
}

/// The arguments of `philotectl bench`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The scenarios to run, in order [default: all of them]
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<Scenario>,
    /// The server; wss:// for TLS [default: the daemon on this machine, over loopback]
    #[arg(long, value_name = "ws://HOST:PORT", requires = "secret_file")]
    pub url: Option<String>,
    /// With wss://, trust the authorities in this file [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca: Option<PathBuf>,
    /// Sign tokens with the first line of this file [default: the daemon on this machine issues them]
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Readers of fanout and paced, connections of idle and churn [default: 1000, idle 10000, churn 2000, or as many as
    /// the server accepts]
    #[arg(long, value_name = "N", value_parser = number(1, 1_000_000))]
    pub connections: Option<u64>,
    /// Rooms of rooms and churn [default: 200, or as many as the server accepts; churn 500]
    #[arg(long, value_name = "N", value_parser = number(1, 100_000))]
    pub rooms: Option<u64>,
    /// Members of each room, in rooms and idle
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number(2, 1000))]
    pub members: u64,
    /// Messages in flight [default: fanout 1 and 16, rooms 1, stream 256]
    #[arg(long, value_name = "N", value_parser = number(1, 65_536))]
    pub in_flight: Option<u64>,
    /// Messages a second of paced, and joins and leaves a second of churn [default: paced 50, churn 1000]
    #[arg(long, value_name = "N", value_parser = number(1, 1_000_000))]
    pub rate: Option<u64>,
    /// Bytes of each message's data
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = number(20, 60_000))]
    pub size: u64,
    /// The `sub` of the publishers' tokens, and so of their messages [default: idle "bench", otherwise none]
    #[arg(long, value_name = "SUBJECT")]
    pub subject: Option<String>,
    /// How long each measurement takes, after a warm-up of a tenth
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub duration: Duration,
    /// Process id of a server on this machine, for its CPU time and memory [default: the daemon's]
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
}

fn number(least: u64, most: u64) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(least..=most)
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if (Duration::from_millis(100)..=LONGEST).contains(&duration) => Ok(duration),
        Ok(_) => Err("give 100ms to 10m".into()),
        Err(_) => Err("give a duration such as 5s".into()),
    }
}

impl Options {
    /// The scenarios to run.
    pub(super) fn chosen(&self) -> &[Scenario] {
        if self.scenarios.is_empty() { Scenario::value_variants() } else { &self.scenarios }
    }
}
