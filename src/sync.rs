//! Locks whose poisoning ends the process.

use std::sync::{Mutex, MutexGuard};

/// Locks, and ends the process if a holder panicked.
///
/// The hub and the outboxes are shared by all connections. A panic between two of their statements may have left
/// a channel half changed, so that the order or the completeness that every reader relies on can't be promised any
/// more: the supervisor's restart is the only honest way on.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(_) => end_the_process(),
    }
}

#[cold]
fn end_the_process() -> ! {
    eprintln!("philote: a panic left shared state half changed; ending the process");
    std::process::abort()
}
