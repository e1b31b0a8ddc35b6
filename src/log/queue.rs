//! The bounded queue between the threads that log and the writer's thread. A log that is not read blocks only the
//! writer.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::record::Record;

/// The most records in the queue, which are enough for a burst from every worker and take a few MiB at most. Further
/// records are dropped and counted.
pub const QUEUE_RECORDS: usize = 4096;

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Notified when a record enters the empty queue and when the queue is closed.
    filled: Condvar,
    /// Notified when the last record has been written.
    drained: Condvar,
}

#[derive(Default)]
struct State {
    records: VecDeque<Record>,
    /// Whether the writer is writing a record.
    writing: bool,
    closed: bool,
    dropped: u64,
    /// How many of `dropped` have been logged.
    reported: u64,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, record: Record) {
        let mut state = self.state();
        if state.records.len() == QUEUE_RECORDS {
            state.dropped += 1;
            return;
        }
        state.records.push_back(record);
        if state.records.len() == 1 {
            self.filled.notify_one();
        }
    }

    /// Waits for a record; returns `None` once the queue is closed and empty. A call means that the previous record is
    /// written.
    pub(super) fn next(&self) -> Option<Record> {
        let mut state = self.state();
        state.writing = false;
        if state.records.is_empty() {
            self.drained.notify_all();
        }
        let waiting = |state: &mut State| state.records.is_empty() && !state.closed;
        let mut state = self.filled.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner);
        let record = state.records.pop_front();
        state.writing = record.is_some();
        record
    }

    /// Returns how many records were dropped since the last call and since the start, or `None` while records wait,
    /// because those are older.
    pub(super) fn take_dropped(&self) -> Option<(u64, u64)> {
        let mut state = self.state();
        let dropped = state.dropped - state.reported;
        if dropped == 0 || !state.records.is_empty() {
            return None;
        }
        state.reported = state.dropped;
        Some((dropped, state.dropped))
    }

    pub(super) fn count_dropped(&self) {
        self.state().dropped += 1;
    }

    pub(super) fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Waits at most `deadline` until all records are written. Returns whether they are.
    pub(super) fn flush(&self, deadline: Duration) -> bool {
        let busy = |state: &mut State| !state.records.is_empty() || state.writing;
        let waited = self.drained.wait_timeout_while(self.state(), deadline, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// The layer that puts records into the queue. After it is dropped, the writer's thread writes the rest and ends.
pub(super) struct QueueLayer(pub(super) Arc<Queue>);

impl<S: Subscriber> Layer<S> for QueueLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.push(Record::new(event));
    }
}

impl Drop for QueueLayer {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.filled.notify_one();
    }
}
