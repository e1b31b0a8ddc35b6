//! The daemon's figures over the last seconds, for `status` and `systemctl status`.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::descriptors::RAISE_DESCRIPTORS;
use crate::server::Server;
use crate::sync::lock;

/// Seconds that rates are taken over.
const WINDOW: usize = 5;

/// How often the rates of channels are taken: often enough to follow by eye, seldom enough that a hundred thousand
/// channels cost half a percent of a core.
const CHANNELS_INTERVAL: Duration = Duration::from_secs(2);

/// The share of `max_connections` from which on a warning is due, and below which it may come again, in percent.
const NEARLY_FULL: usize = 80;
const EASED: usize = 70;

/// Samples of the counters, one a second.
#[derive(Default)]
pub(super) struct Rates {
    samples: Mutex<VecDeque<Sample>>,
    channels_sampled: Mutex<Option<Instant>>,
    warned: AtomicBool,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    messages: u64,
    deliveries: u64,
}

impl Sample {
    fn of(server: &Server) -> Sample {
        Sample {
            at: Instant::now(),
            messages: server.counters.messages_in.load(Relaxed),
            deliveries: server.hub.deliveries(),
        }
    }
}

impl Rates {
    /// To be called once a second.
    pub(super) fn sample(&self, server: &Server) {
        let mut samples = lock(&self.samples);
        if samples.len() > WINDOW {
            samples.pop_front();
        }
        samples.push_back(Sample::of(server));
        drop(samples);
        let mut sampled = lock(&self.channels_sampled);
        let since = sampled.map_or(CHANNELS_INTERVAL, |at| at.elapsed());
        if since >= CHANNELS_INTERVAL {
            *sampled = Some(Instant::now());
            server.hub.sample_channels(since);
        }
    }

    /// Messages and deliveries a second.
    pub(super) fn per_second(&self, server: &Server) -> (f64, f64) {
        let now = Sample::of(server);
        let Some(then) = lock(&self.samples).front().copied() else { return (0.0, 0.0) };
        let seconds = now.at.duration_since(then.at).as_secs_f64().max(1.0);
        let rate = |now: u64, then: u64| (now.saturating_sub(then)) as f64 / seconds;
        (rate(now.messages, then.messages), rate(now.deliveries, then.deliveries))
    }

    /// One line for `systemctl status`.
    pub(super) fn line(&self, server: &Server) -> String {
        let (messages, deliveries) = self.per_second(server);
        format!(
            "{} of {} connections, {} channels, {messages:.0} messages/s in, {deliveries:.0} deliveries/s",
            server.connected(),
            server.live().max_connections,
            server.hub.channel_count(),
        )
    }

    /// Warns once when most places are taken, and again only after it had eased.
    pub(super) fn warn_if_nearly_full(&self, server: &Server) {
        let (connected, max) = (server.connected(), server.live().max_connections);
        let percent = connected * 100 / max.max(1);
        if percent >= NEARLY_FULL && !self.warned.swap(true, Relaxed) {
            match server.live().descriptor_limit {
                None => tracing::warn!(
                    "{connected} of {max} connections are in use: more than max_connections are refused"
                ),
                Some(limit) => tracing::warn!(
                    "{connected} of {max} connections are in use, as many as the limit of {limit} open files leaves: \
                     more are refused; raise the limit ({RAISE_DESCRIPTORS})"
                ),
            }
        } else if percent < EASED {
            self.warned.store(false, Relaxed);
        }
    }
}

/// Resident memory of this process in bytes; 0 where /proc is not to be read.
pub(super) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| {
        let second = text.split_ascii_whitespace().nth(1)?;
        second.parse::<u64>().ok()
    });
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
