//! What went wrong in the last minutes, for `philotectl doctor`. Counters alone would report for ever what happened once.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use crate::close::CloseReason;
use crate::log::LogHandle;
use crate::server::Server;
use crate::sync::lock;

/// What counts as recent: long enough that an administrator who was called still finds it.
const WINDOW: Duration = Duration::from_secs(600);
/// The interval between two samples, and so the error of [`WINDOW`].
const INTERVAL: Duration = Duration::from_secs(60);
/// The most samples that are kept.
const SAMPLES: usize = (WINDOW.as_secs() / INTERVAL.as_secs()) as usize + 1;

/// Counts since the start, or their growth in the last minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Troubles {
    /// Readers closed because they were too slow.
    pub(super) slow_consumers: u64,
    /// Readers closed because all queues together exceeded their limit.
    pub(super) queue_memory: u64,
    /// Connections ended by a fault of the daemon.
    pub(super) panics: u64,
    /// Log records dropped.
    pub(super) log_dropped: u64,
    /// Clients rejected because every slot was taken.
    pub(super) full: u64,
    /// Tokens rejected because they are not valid yet.
    pub(super) early_tokens: u64,
    /// Requests that name a client that is not believed.
    pub(super) unbelieved: u64,
    /// Messages of the cluster that were lost, refused or not confirmed.
    pub(super) cluster_lost: u64,
    /// Times that the link to NATS ended.
    pub(super) link_ends: u64,
}

impl Troubles {
    /// Returns the counts since the start.
    pub(super) fn of(server: &Server, log: &LogHandle) -> Troubles {
        let reasons = server.closed.reasons();
        let total = |name: &str| reasons.iter().filter(|one| one.reason == name).map(|one| one.total).sum();
        let cluster = server.cluster.as_ref().map(|cluster| cluster.status());
        Troubles {
            slow_consumers: total(CloseReason::SlowConsumer.name()),
            queue_memory: total(CloseReason::QueueMemory.name()),
            panics: server.counters.panics.load(Relaxed),
            log_dropped: log.dropped(),
            full: total("max_connections") + total("descriptor_limit"),
            early_tokens: total("token_not_yet_valid"),
            unbelieved: server.counters.unbelieved.requests(),
            cluster_lost: cluster
                .as_ref()
                .map_or(0, |cluster| cluster.lost + cluster.unavailable + cluster.unanswered),
            link_ends: cluster.as_ref().map_or(0, |cluster| cluster.link_ends),
        }
    }

    fn since(self, then: Troubles) -> Troubles {
        let grown = |of: fn(&Troubles) -> u64| of(&self).saturating_sub(of(&then));
        Troubles {
            slow_consumers: grown(|all| all.slow_consumers),
            queue_memory: grown(|all| all.queue_memory),
            panics: grown(|all| all.panics),
            log_dropped: grown(|all| all.log_dropped),
            full: grown(|all| all.full),
            early_tokens: grown(|all| all.early_tokens),
            unbelieved: grown(|all| all.unbelieved),
            cluster_lost: grown(|all| all.cluster_lost),
            link_ends: grown(|all| all.link_ends),
        }
    }
}

/// Samples of the counts, one per minute.
#[derive(Debug, Default)]
pub(super) struct Recent {
    samples: Mutex<VecDeque<Sample>>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    clock: SystemTime,
    troubles: Troubles,
}

impl Recent {
    /// Takes a sample if it is time for one; `now` is read only then. Call it once per second.
    pub(super) fn sample(&self, at: Instant, now: impl FnOnce() -> Troubles) {
        let mut samples = lock(&self.samples);
        if samples.back().is_some_and(|last| at.duration_since(last.at) < INTERVAL) {
            return;
        }
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(Sample { at, clock: SystemTime::now(), troubles: now() });
    }

    /// Returns what was added to the counts in the last [`WINDOW`], or since the start if that is less.
    pub(super) fn until(&self, now: Troubles) -> Troubles {
        let samples = lock(&self.samples);
        // Until the window is full, the counts began at 0 within it.
        let then = samples.front().filter(|_| samples.len() == SAMPLES);
        now.since(then.map_or_else(Troubles::default, |then| then.troubles))
    }

    /// Returns by how much the wall clock was set, forward or back, in the last [`WINDOW`].
    pub(super) fn clock_step(&self, at: Instant, clock: SystemTime) -> Duration {
        let Some(then) = lock(&self.samples).front().copied() else { return Duration::ZERO };
        let expected = then.clock + at.duration_since(then.at);
        clock.duration_since(expected).unwrap_or_else(|back| back.duration())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_minutes_count() {
        let recent = Recent::default();
        let start = Instant::now();
        let slow = |slow_consumers| Troubles { slow_consumers, ..Troubles::default() };
        for second in 0..=WINDOW.as_secs() * 3 {
            // Seven in the first minute.
            recent.sample(start + Duration::from_secs(second), || slow(if second < 30 { 0 } else { 7 }));
            let lately = recent.until(slow(7)).slow_consumers;
            assert_eq!(lately, if second < WINDOW.as_secs() + 60 { 7 } else { 0 }, "{second}");
            assert!(lock(&recent.samples).len() <= SAMPLES);
        }
    }

    #[test]
    fn fault_56_a_step_of_the_clock_is_measured_in_both_directions() {
        let recent = Recent::default();
        let (at, minute) = (Instant::now(), Duration::from_secs(60));
        assert_eq!(recent.clock_step(at, SystemTime::now()), Duration::ZERO);
        recent.sample(at, Troubles::default);
        let clock = lock(&recent.samples)[0].clock;
        assert_eq!(recent.clock_step(at + minute, clock + minute), Duration::ZERO);
        assert_eq!(recent.clock_step(at + minute, clock + 2 * minute), minute);
        assert_eq!(recent.clock_step(at + minute, clock), minute);
    }
}
