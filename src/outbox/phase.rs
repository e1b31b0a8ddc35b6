//! Who writes an outbox next.

use std::sync::atomic::{AtomicU8, Ordering};

/// Who writes next.
///
/// Publishers change `Idle` to `Alone` and back without a lock, so that a message to an idle outbox takes none. All
/// other changes are made with the queue's lock held, and expect these two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nobody: the outbox has no socket yet, or its task has not polled it.
    Held,
    /// Nobody: nothing is queued.
    Idle,
    /// The holder of the promise, with a frame that was never queued.
    Alone,
    /// The same, and then what has been queued behind that frame, or the Close.
    Followed,
    /// The holder of the promise, with what is queued.
    Promised,
    /// The connection's own task, which waits for the socket.
    Waiting,
    /// Nobody any more: the Close is written.
    Done,
}

impl Phase {
    fn of(number: u8) -> Phase {
        use Phase::{Alone, Done, Followed, Held, Idle, Promised, Waiting};
        [Held, Idle, Alone, Followed, Promised, Waiting, Done][usize::from(number)]
    }
}

/// A [`Phase`] that publishers may change without the lock.
pub(super) struct AtomicPhase(AtomicU8);

impl AtomicPhase {
    pub(super) fn new(phase: Phase) -> AtomicPhase {
        AtomicPhase(AtomicU8::new(phase as u8))
    }

    pub(super) fn get(&self) -> Phase {
        Phase::of(self.0.load(Ordering::Acquire))
    }

    pub(super) fn is(&self, phase: Phase) -> bool {
        self.0.load(Ordering::Acquire) == phase as u8
    }

    /// Sets a phase in place of one that only the caller may change.
    pub(super) fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    /// Changes one phase to another. Returns whether it was the current one.
    pub(super) fn change(&self, from: Phase, to: Phase) -> bool {
        let (from, to) = (from as u8, to as u8);
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Changes `Idle` to `idle`, and `Alone` to `alone`, whichever of the two it is. Returns the phase before; if it is
    /// another, nothing has changed.
    #[inline(always)]
    pub(super) fn leave(&self, idle: Phase, alone: Phase) -> Phase {
        loop {
            let (now, next) = match self.get() {
                Phase::Idle => (Phase::Idle, idle),
                Phase::Alone => (Phase::Alone, alone),
                other => return other,
            };
            if self.change(now, next) {
                return now;
            }
        }
    }
}
