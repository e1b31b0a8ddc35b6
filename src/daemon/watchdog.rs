//! Notifies systemd's watchdog while the daemon works. It runs on the admin thread.
//!
//! Before each notification, the accept loops must answer, each worker thread of the runtime must sleep or make progress,
//! and a message that a task of the runtime publishes must reach its reader.

use std::cell::OnceCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};

use crate::hub::{Connection, FlushList};
use crate::message::{ChannelName, Delivery};
use crate::outbox::Sink;
use crate::server::Server;
use crate::sync::lock;
use crate::systemd::Notifier;
use crate::token::Claims;

/// The interval of further looks at a worker thread that has made no progress yet.
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// Checks one server.
pub(super) struct Watchdog {
    server: Arc<Server>,
    runtime: Handle,
    workers: Workers,
    delivered: Arc<AtomicU64>,
}

/// The worker threads of the runtime. Hooks tell whether each of them sleeps, because the runtime updates its metrics only
/// when a worker goes to sleep or pauses between tasks, and a worker that hangs does neither.
#[derive(Clone, Default)]
pub(super) struct Workers {
    /// A counter for each worker that has slept. It is odd while the worker sleeps.
    turns: Arc<Mutex<Vec<Arc<AtomicU64>>>>,
}

thread_local!(static TURN: OnceCell<Arc<AtomicU64>> = const { OnceCell::new() });

impl Workers {
    /// Adds the hooks to a runtime that is being built.
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

    /// Returns the state of all workers.
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

/// The state of all workers at one time.
struct Look {
    turns: Vec<u64>,
    busy: Vec<Duration>,
}

impl Look {
    /// Returns whether each worker has slept since `before` or has made progress.
    fn all_alive_since(&self, before: &Look) -> bool {
        let slept =
            self.turns.iter().zip(&before.turns).filter(|(now, before)| *now % 2 == 1 && now == before);
        let progressed = self.busy.iter().zip(&before.busy).filter(|(now, before)| now != before);
        slept.count() + progressed.count() >= self.busy.len()
    }
}

/// A reader that counts its messages.
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

    /// Notifies systemd as long as the checks succeed. Returns at once if systemd has no watchdog for this daemon.
    pub(super) async fn watch(self, notifier: Arc<Notifier>) {
        let Some(interval) = notifier.watchdog_interval() else { return };
        let mut tick = tokio::time::interval(interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match self.check(interval / 2).await {
                Ok(()) => notifier.feed_watchdog(),
                Err(missing) => {
                    tracing::error!("{missing} does not respond, so the watchdog is not notified")
                }
            }
        }
    }

    /// Checks that everything responds within `patience`.
    ///
    /// # Errors
    /// Returns what does not respond.
    async fn check(&self, patience: Duration) -> Result<(), &'static str> {
        let looked = self.workers.look(&self.runtime);
        let accepting = self.server.accept_loops_answer();
        if tokio::time::timeout(patience, accepting).await.is_err() {
            return Err("the accept loop");
        }
        let (server, delivered) = (self.server.clone(), self.delivered.clone());
        let before = delivered.load(Relaxed);
        let published = self.runtime.spawn(async move { publish(&server, Probe(delivered)) });
        let published = tokio::time::timeout(patience, published).await;
        if published.is_err() || self.delivered.load(Relaxed) == before {
            return Err("the data path");
        }
        let alive = async {
            while !self.workers.look(&self.runtime).all_alive_since(&looked) {
                tokio::time::sleep(SECOND_LOOK).await;
            }
        };
        tokio::time::timeout(patience, alive).await.map_err(|_| "a worker thread")
    }
}

/// Publishes a message as a client does, to one reader.
fn publish(server: &Server, probe: Probe) {
    let channel = ChannelName::internal("probe");
    let address = SocketAddr::from(([0, 0, 0, 0], 0));
    let budget = server.hub.budget().clone();
    let reader = Arc::new(Connection::new(address, Arc::new(Claims::nobody()), budget, server.now()));
    reader.outbox.attach(Box::new(probe));
    server.hub.subscribe(&reader, &[channel.as_str()]);
    let delivery = Delivery { issuer: "", channel: channel.as_str(), data: None, subject: None };
    let mut flush_list = FlushList::new();
    server.hub.publish(&delivery, None, &mut flush_list);
    flush_list.flush();
    server.hub.subscribe(&reader, &[]);
}

/// Makes a worker hang, for tests of the program; release builds do not have this. The variable names a pipe. After its
/// first byte a worker waits for the second.
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
    use crate::server::{accept_loop, listener};

    /// A server on two workers, with one accept loop.
    fn server() -> (Arc<Server>, Runtime, Workers) {
        let environment = Environment::new([("SECRET", "a secret of more than thirty-two characters")]);
        let server = Server::new(load(&Overrides::default(), &environment).unwrap().settings, 1024);
        let mut builder = Builder::new_multi_thread();
        let workers = Workers::of(&mut builder);
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let _entered = runtime.enter();
        let listener = TcpListener::from_std(listener::bind(([127, 0, 0, 1], 0).into()).unwrap()).unwrap();
        runtime.spawn(accept_loop::run(server.clone(), listener));
        (server, runtime, workers)
    }

    #[test]
    fn fault_63_a_blocked_worker_stops_the_watchdog_notifications() {
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
        assert!((0..5).all(|_| feeding(long)), "notified while everything responds");

        let (release, blocked) = channel::<()>();
        let (begun, has_begun) = channel();
        runtime.spawn(async move {
            begun.send(()).unwrap();
            // A blocking call, which keeps the worker busy.
            let _ = blocked.recv();
        });
        has_begun.recv().unwrap();
        // A notification may be on its way. Then none comes for five times the interval.
        assert!((0..10).any(|_| !feeding(Duration::from_millis(500))), "still notified");
        drop(release);
        assert!(feeding(long), "notified again after the worker continues");
    }

    #[test]
    fn an_accept_loop_that_hangs_fails_the_check() {
        let (server, runtime, workers) = server();
        let watchdog = Watchdog::new(server.clone(), runtime.handle().clone(), workers);
        let admin = Builder::new_current_thread().enable_all().build().unwrap();
        let patience = Duration::from_secs(30);
        assert_eq!(admin.block_on(watchdog.check(patience)), Ok(()));
        // A second accept loop that is never polled.
        let _entered = runtime.enter();
        let listener = TcpListener::from_std(listener::bind(([127, 0, 0, 1], 0).into()).unwrap()).unwrap();
        let mut hanging = Box::pin(accept_loop::run(server, listener));
        let waker = std::task::Waker::noop();
        assert!(hanging.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        assert_eq!(admin.block_on(watchdog.check(Duration::from_millis(100))), Err("the accept loop"));
    }
}
