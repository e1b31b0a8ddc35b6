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
#[derive(PartialEq, Eq)]
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
        // Nothing to compare with yet: a worker that was never asked before is believed once.
        Watchdog { server, runtime, workers: Vec::new(), delivered: Arc::default() }
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::sync::mpsc::channel;

    use tokio::net::TcpListener;
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::config::{Environment, Overrides, load};
    use crate::server::listener;

    /// A server on two workers, with one accept loop.
    fn server() -> (Arc<Server>, Runtime) {
        let environment = Environment::new([("SECRET", "a secret of more than thirty-two characters")]);
        let server = Server::new(load(&Overrides::default(), &environment).unwrap().settings, 1024);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let _entered = runtime.enter();
        let listener = TcpListener::from_std(listener::bind(([127, 0, 0, 1], 0).into()).unwrap()).unwrap();
        runtime.spawn(listener::accept(server.clone(), listener));
        (server, runtime)
    }

    #[test]
    fn fault_63_a_blocked_worker_starves_the_watchdog() {
        let (server, runtime) = server();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Arc::new(Notifier::new(Some(path.as_os_str()), Some(Duration::from_millis(100))));
        let watchdog = Watchdog::new(server, runtime.handle().clone());
        std::thread::spawn(move || {
            let admin = Builder::new_current_thread().enable_all().build().unwrap();
            admin.block_on(watchdog.watch(notifier));
        });
        let feeding = |patience: Duration| {
            manager.set_read_timeout(Some(patience)).unwrap();
            manager.recv(&mut [0; 64]).is_ok()
        };
        let long = Duration::from_secs(30);
        assert!((0..5).all(|_| feeding(long)), "fed as long as all is well");

        let (release, blocked) = channel::<()>();
        let (begun, has_begun) = channel();
        runtime.spawn(async move {
            begun.send(()).unwrap();
            // What no task may do: it keeps its worker.
            let _ = blocked.recv();
        });
        has_begun.recv().unwrap();
        // What was on its way; then nothing for ten times the interval.
        while feeding(Duration::from_millis(500)) {}
        drop(release);
        assert!(feeding(long), "and again when it has got on");
    }

    #[test]
    fn an_accept_loop_that_hangs_is_no_proof() {
        let (server, runtime) = server();
        let mut watchdog = Watchdog::new(server.clone(), runtime.handle().clone());
        let admin = Builder::new_current_thread().enable_all().build().unwrap();
        let patience = Duration::from_secs(30);
        assert_eq!(admin.block_on(watchdog.prove(patience)), Ok(()));
        // A second loop that is there and never polled.
        let _entered = runtime.enter();
        let listener = TcpListener::from_std(listener::bind(([127, 0, 0, 1], 0).into()).unwrap()).unwrap();
        let mut hanging = Box::pin(listener::accept(server, listener));
        let waker = std::task::Waker::noop();
        assert!(hanging.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        assert_eq!(admin.block_on(watchdog.prove(Duration::from_millis(100))), Err("the accept loop"));
    }
}
