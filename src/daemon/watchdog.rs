//! Proof of life for systemd's watchdog, asked from the admin thread.
//!
//! Three things must hold between two feedings: the accept loops have answered, each worker of the runtime has either
//! slept or got on with its work, and a message published by a task of the runtime has reached its reader.

use std::cell::OnceCell;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};

use crate::outbox::Sink;
use crate::server::Server;
use crate::sync::lock;
use crate::systemd::Notifier;

/// How often a worker that gave no sign yet is looked at again.
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// Watches one server's life.
pub(super) struct Watchdog {
    server: Arc<Server>,
    runtime: Handle,
    workers: Workers,
    delivered: Arc<AtomicU64>,
}

/// The runtime's worker threads: whether each sleeps, by hooks of ours, because the runtime's own figures are only
/// brought up to date when a worker goes to sleep or pauses between tasks, and one that hangs does neither.
#[derive(Clone, Default)]
pub(super) struct Workers {
    /// One for each worker that has slept: odd while it sleeps.
    turns: Arc<Mutex<Vec<Arc<AtomicU64>>>>,
}

thread_local!(static TURN: OnceCell<Arc<AtomicU64>> = const { OnceCell::new() });

impl Workers {
    /// Has a runtime that is being built tell when its workers go to sleep and wake.
    pub(super) fn of(builder: &mut Builder) -> Workers {
        let workers = Workers::default();
        let (park, unpark) = (workers.clone(), workers.clone());
        builder.on_thread_park(move || park.turn()).on_thread_unpark(move || unpark.turn());
        workers
    }

    fn turn(&self) {
        TURN.with(|turn| {
            let own = turn.get_or_init(|| {
                let turn = Arc::new(AtomicU64::new(0));
                lock(&self.turns).push(turn.clone());
                turn
            });
            own.fetch_add(1, Relaxed);
        });
    }

    /// What can be seen of all workers at this moment.
    fn look(&self, runtime: &Handle) -> Look {
        let metrics = runtime.metrics();
        Look {
            turns: lock(&self.turns).iter().map(|turn| turn.load(Relaxed)).collect(),
            busy: (0..metrics.num_workers())
                .map(|number| metrics.worker_total_busy_duration(number))
                .collect(),
        }
    }
}

struct Look {
    turns: Vec<u64>,
    busy: Vec<Duration>,
}

impl Look {
    /// Whether each worker has slept all the time since `before`, or has got on with its work.
    fn shows_life_since(&self, before: &Look) -> bool {
        let slept =
            self.turns.iter().zip(&before.turns).filter(|(now, before)| *now % 2 == 1 && now == before);
        let got_on = self.busy.iter().zip(&before.busy).filter(|(now, before)| now != before);
        slept.count() + got_on.count() >= self.busy.len()
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
    pub(super) fn new(server: Arc<Server>, runtime: Handle, workers: Workers) -> Watchdog {
        Watchdog { server, runtime, workers, delivered: Arc::default() }
    }

    /// Feeds systemd as long as there is proof. Ends at once where nobody watches.
    pub(super) async fn watch(self, notifier: Arc<Notifier>) {
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
    async fn prove(&self, patience: Duration) -> Result<(), &'static str> {
        let looked = self.workers.look(&self.runtime);
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
        let alive = async {
            while !self.workers.look(&self.runtime).shows_life_since(&looked) {
                tokio::time::sleep(SECOND_LOOK).await;
            }
        };
        tokio::time::timeout(patience, alive).await.map_err(|_| "a worker thread")
    }
}

/// For the tests of the program, and in no build that is shipped: a worker that hangs when it is told to. The first byte
/// of the pipe that the variable names makes a worker wait for the second.
#[cfg(debug_assertions)]
pub(super) fn block_on_purpose(runtime: &Handle) {
    use std::io::Read;
    let Some(path) = std::env::var_os("TEST_BLOCK_A_WORKER") else { return };
    let runtime = runtime.clone();
    std::thread::spawn(move || {
        let Ok(mut pipe) = std::fs::File::open(path) else { return };
        if pipe.read_exact(&mut [0]).is_ok() {
            runtime.spawn(async move { pipe.read_exact(&mut [0]) });
        }
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::sync::mpsc::channel;

    use tokio::net::TcpListener;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::config::{Environment, Overrides, load};
    use crate::server::listener;

    /// A server on two workers, with one accept loop.
    fn server() -> (Arc<Server>, Runtime, Workers) {
        let environment = Environment::new([("SECRET", "a secret of more than thirty-two characters")]);
        let server = Server::new(load(&Overrides::default(), &environment).unwrap().settings, 1024);
        let mut builder = Builder::new_multi_thread();
        let workers = Workers::of(&mut builder);
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let _entered = runtime.enter();
        let listener = TcpListener::from_std(listener::bind(([127, 0, 0, 1], 0).into()).unwrap()).unwrap();
        runtime.spawn(listener::accept(server.clone(), listener));
        (server, runtime, workers)
    }

    #[test]
    fn fault_63_a_blocked_worker_starves_the_watchdog() {
        let (server, runtime, workers) = server();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Arc::new(Notifier::new(Some(path.as_os_str()), Some(Duration::from_millis(100))));
        let watchdog = Watchdog::new(server, runtime.handle().clone(), workers);
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
        assert!((0..10).any(|_| !feeding(Duration::from_millis(500))), "still fed");
        drop(release);
        assert!(feeding(long), "and again when it has got on");
    }

    #[test]
    fn an_accept_loop_that_hangs_is_no_proof() {
        let (server, runtime, workers) = server();
        let watchdog = Watchdog::new(server.clone(), runtime.handle().clone(), workers);
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
