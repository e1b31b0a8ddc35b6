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

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::testing;

    #[test]
    fn fault_55_a_panic_that_left_shared_state_half_changed_ends_the_process() {
        const SIGABRT: i32 = 6;
        let output = testing::child("sync::tests::child_with_a_poisoned_lock").output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(SIGABRT), "{errors}");
        assert!(errors.contains("a panic left shared state half changed; ending the process"), "{errors}");
    }

    #[test]
    fn child_with_a_poisoned_lock() {
        if !testing::is_child() {
            return;
        }
        let shared = Mutex::new(());
        std::thread::scope(|scope| {
            let holder = scope.spawn(|| {
                let _held = lock(&shared);
                panic!("while it holds the lock");
            });
            holder.join().unwrap_err();
        });
        drop(lock(&shared));
    }
}
