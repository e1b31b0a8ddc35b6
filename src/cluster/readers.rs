//! Closing readers that may miss messages, so that they load their state again: no gap is silent.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use uuid::Uuid;

use crate::close::CloseReason;
use crate::hub::{Connection, Hub};
use crate::sync::lock;

/// Connections closed per second. Their clients come back at once.
const PER_SECOND: usize = 1_000;

/// The shortest and the longest time over which closes are spread.
const SPREAD: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));

/// How often a slice of them is closed.
const SLICE: Duration = Duration::from_millis(50);

/// Which connections miss something.
pub(super) enum Which {
    /// All that read a channel.
    All,
    /// The readers of these channels.
    Of(Vec<String>),
}

/// What becomes of messages to a reader until it is closed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// It gets them.
    Delivered,
    /// It gets none: their ids would hide that it has missed others.
    Withheld,
}

/// Closes readers, in one task however often it is asked.
pub(super) struct Closer {
    hub: Arc<Hub>,
    waiting: Arc<Mutex<Waiting>>,
    closed: Arc<AtomicU64>,
}

/// The connections that are closed next.
#[derive(Default)]
struct Waiting {
    ids: Vec<Uuid>,
    /// A task closes them.
    is_closing: bool,
}

impl Closer {
    pub(super) fn new(hub: Arc<Hub>) -> Closer {
        Closer { hub, waiting: Arc::default(), closed: Arc::default() }
    }

    /// Closes connections that may miss messages, spread over time, and logs why.
    pub(super) fn close(&self, which: Which, rest: Rest, why: &str) {
        let mut readers = Vec::new();
        self.hub.each_connection(|connection| {
            let misses = match &which {
                Which::All => Hub::reads_any(connection),
                Which::Of(channels) => channels.iter().any(|channel| connection.reads(channel)),
            };
            if misses {
                readers.push(connection.clone());
            }
        });
        if readers.is_empty() {
            return;
        }
        if rest == Rest::Withheld {
            readers.iter().for_each(|connection| self.hub.detach(connection));
        }
        let mut ids: Vec<Uuid> = readers.iter().map(|connection| connection.id()).collect();
        tracing::warn!(
            connections = ids.len(),
            "cluster: {why}: {} readers are asked to reconnect",
            ids.len()
        );
        let mut waiting = lock(&self.waiting);
        ids.append(&mut waiting.ids);
        ids.sort_unstable();
        ids.dedup();
        waiting.ids = ids;
        if !std::mem::replace(&mut waiting.is_closing, true) {
            tokio::spawn(close(self.hub.clone(), self.waiting.clone(), self.closed.clone()));
        }
    }

    pub(super) fn closed(&self) -> u64 {
        self.closed.load(Relaxed)
    }
}

async fn close(hub: Arc<Hub>, waiting: Arc<Mutex<Waiting>>, closed: Arc<AtomicU64>) {
    let seconds = (lock(&waiting).ids.len() / PER_SECOND) as u64;
    let spread = Duration::from_secs(seconds).clamp(SPREAD.0, SPREAD.1);
    let slices = (spread.as_millis() / SLICE.as_millis()).max(1) as usize;
    let at_once = lock(&waiting).ids.len().div_ceil(slices).max(1);
    let mut tick = tokio::time::interval(SLICE);
    loop {
        tick.tick().await;
        let slice: Vec<Uuid> = {
            let mut waiting = lock(&waiting);
            // In the same step, so that no connection is added for which there is no task.
            if waiting.ids.is_empty() {
                waiting.is_closing = false;
                return;
            }
            let keep = waiting.ids.len().saturating_sub(at_once);
            waiting.ids.split_off(keep)
        };
        for connection in slice.iter().filter_map(|id| hub.connection(id)) {
            end(&connection, &closed);
        }
    }
}

fn end(connection: &Arc<Connection>, closed: &AtomicU64) {
    if connection.outbox.close(CloseReason::ClusterGap) {
        closed.fetch_add(1, Relaxed);
    }
}
