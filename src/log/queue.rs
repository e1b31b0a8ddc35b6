//! The bounded queue between the threads that log and the one that writes, so that a log nobody reads blocks only that one.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::record::Record;

/// How many records wait for the writer at most: enough for a burst of every worker, some MiB at the very most. What
/// does not fit is dropped and counted.
pub const QUEUE_RECORDS: usize = 4096;

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// A record was put into the empty queue, or the queue was closed.
    filled: Condvar,
    /// The last record has been written.
    drained: Condvar,
}

#[derive(Default)]
struct State {
    records: VecDeque<Record>,
    /// The writer has taken a record and is not done with it.
    writing: bool,
    closed: bool,
    dropped: u64,
    /// How many of `dropped` the log has been told of.
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

    /// Waits for a record; none once the queue is closed and empty. Taking one says that the one before is written.
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

    /// How many records were dropped since the last call, and since the start; none while records wait, because what
    /// they say is older.
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

    /// Waits until all is written, for `deadline` at most; whether it is.
    pub(super) fn flush(&self, deadline: Duration) -> bool {
        let busy = |state: &mut State| !state.records.is_empty() || state.writing;
        let waited = self.drained.wait_timeout_while(self.state(), deadline, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// The end of the queue where records are put in. When it is gone the writer's thread writes what is there and ends.
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
