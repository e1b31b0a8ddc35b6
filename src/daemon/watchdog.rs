//! Proof of life for systemd's watchdog, asked from the admin thread.
//!
//! Three things must hold between two feedings: the accept loops have answered, each worker of the runtime has either
//! slept or got on with its work, and a message published by a task of the runtime has reached its reader.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::outbox::Sink;
use crate::server::Server;
use crate::systemd::Notifier;

/// Watches one server's life.
pub(super) struct Watchdog {
    server: Arc<Server>,
    runtime: Handle,
    workers: Vec<Worker>,
    delivered: Arc<AtomicU64>,
}

/// What the runtime said of one worker when it was last asked.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Worker {
    parks: u64,
    busy: Duration,
}

impl Worker {
    fn of(runtime: &Handle, number: usize) -> Worker {
        let metrics = runtime.metrics();
        Worker {
            parks: metrics.worker_park_unpark_count(number),
            busy: metrics.worker_total_busy_duration(number),
        }
    }

    /// An odd count means that it sleeps, ready to be woken; otherwise something must have moved.
    fn is_alive(&self, before: &Worker) -> bool {
        self.parks % 2 == 1 || self != before
    }
}

/// A reader that counts what reaches it.
struct Probe(Arc<AtomicU64>);

impl Sink for Probe {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.fetch_add(1, Relaxed);
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn shutdown(&self) {}
}

impl Watchdog {
    pub(super) fn new(server: Arc<Server>, runtime: Handle) -> Watchdog {
        let workers = vec![Worker::default(); runtime.metrics().num_workers()];
        Watchdog { server, runtime, workers, delivered: Arc::default() }
    }

    /// Feeds systemd as long as there is proof. Ends at once where nobody watches.
    pub(super) async fn watch(mut self, notifier: Arc<Notifier>) {
        let Some(interval) = notifier.watchdog_interval() else { return };
        let mut tick = tokio::time::interval(interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match self.prove(interval / 2).await {
                Ok(()) => notifier.feed_watchdog(),
                Err(missing) => tracing::error!("no proof of life from {missing}: the watchdog is not fed"),
            }
        }
    }

    /// # Errors
    /// What gave no sign of life within `patience`.
    async fn prove(&mut self, patience: Duration) -> Result<(), &'static str> {
        let accepting = self.server.accept_loops_answer();
        if tokio::time::timeout(patience, accepting).await.is_err() {
            return Err("the accept loop");
        }
        let (server, delivered) = (self.server.clone(), self.delivered.clone());
        let before = delivered.load(Relaxed);
        let published =
            self.runtime.spawn(async move { server.publish_to_probe(Box::new(Probe(delivered))) });
        let published = tokio::time::timeout(patience, published).await;
        if published.is_err() || self.delivered.load(Relaxed) == before {
            return Err("the data path");
        }
        let now: Vec<Worker> =
            (0..self.workers.len()).map(|number| Worker::of(&self.runtime, number)).collect();
        let alive = now.iter().zip(&self.workers).all(|(now, before)| now.is_alive(before));
        self.workers = now;
        if alive { Ok(()) } else { Err("a worker thread") }
    }
}
