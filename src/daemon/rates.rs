//! Rates over the last seconds, for `philotectl status` and `systemctl status`.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::descriptors::RAISE_DESCRIPTORS;
use crate::server::Server;
use crate::sync::lock;

/// Seconds over which rates are computed.
const WINDOW: usize = 5;

/// The interval at which the rates of channels are sampled. It is short enough to watch, and long enough that a hundred
/// thousand channels cost half a percent of a core.
const CHANNELS_INTERVAL: Duration = Duration::from_secs(2);

/// The percentage of `max_connections` at which a warning is logged, and below which it may be logged again.
pub(super) const NEARLY_FULL: usize = 80;
const RECOVERED: usize = 70;

/// Samples of the counters, one per second.
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
    /// Takes a sample. Call it once per second.
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

    /// Tells the cluster what this node does.
    pub(super) fn report(&self, server: &Server) {
        if let Some(cluster) = &server.cluster {
            cluster.report(server.connected() as u64, self.per_second(server).0);
        }
    }

    /// Returns the messages and the deliveries per second.
    pub(super) fn per_second(&self, server: &Server) -> (f64, f64) {
        let now = Sample::of(server);
        let Some(then) = lock(&self.samples).front().copied() else { return (0.0, 0.0) };
        let seconds = now.at.duration_since(then.at).as_secs_f64().max(1.0);
        let rate = |now: u64, then: u64| (now.saturating_sub(then)) as f64 / seconds;
        (rate(now.messages, then.messages), rate(now.deliveries, then.deliveries))
    }

    /// Returns the status line for `systemctl status`.
    pub(super) fn line(&self, server: &Server) -> String {
        let (messages, deliveries) = self.per_second(server);
        let cluster = match &server.cluster {
            None => String::new(),
            Some(cluster) if cluster.is_up() => {
                format!(", cluster of {} nodes", cluster.status().other_nodes + 1)
            }
            Some(_) => ", the cluster's link is down".to_owned(),
        };
        format!(
            "{} of {} connections, {} channels, {messages:.0} messages/s in, {deliveries:.0} deliveries/s{cluster}",
            server.connected(),
            server.live().max_connections,
            server.hub.channel_count(),
        )
    }

    /// Logs a warning when [`NEARLY_FULL`] is reached, and again only after the number fell below [`RECOVERED`].
    pub(super) fn warn_if_nearly_full(&self, server: &Server) {
        let (connected, max) = (server.connected(), server.live().max_connections);
        let percent = connected * 100 / max.max(1);
        if percent >= NEARLY_FULL && !self.warned.swap(true, Relaxed) {
            match server.live().descriptor_limit {
                None => tracing::warn!(
                    "{connected} of {max} connections are open: more than max_connections are refused"
                ),
                Some(limit) => tracing::warn!(
                    "{connected} of {max} connections are open, the most that the limit of {limit} open files allows: \
                     more are refused; raise the limit ({RAISE_DESCRIPTORS})"
                ),
            }
        } else if percent < RECOVERED {
            self.warned.store(false, Relaxed);
        }
    }
}

/// Returns the resident memory of this process in bytes, or 0 if /proc cannot be read.
pub(super) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| {
        let second = text.split_ascii_whitespace().nth(1)?;
        second.parse::<u64>().ok()
    });
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
