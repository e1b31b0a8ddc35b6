//! Mutex locking that aborts on poison, counters with one writer or with a part for each thread, and maps divided into parts with a
//! lock each.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

/// Locks a mutex, and aborts the process if a thread panicked while it held the lock.
///
/// All connections share the hub and the outboxes. A panic may have left a channel half changed, so that the order and
/// completeness of deliveries are no longer guaranteed. Only a restart by the supervisor restores them.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(_) => abort(),
    }
}

/// Adds to a counter that nobody else changes at the same time, so that a store suffices.
#[inline]
pub(crate) fn add(counter: &AtomicU64, more: usize) {
    counter.store(counter.load(Relaxed) + more as u64, Relaxed);
}

/// The number of threads that have added to a [`Striped`].
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The number of this one.
    static THREAD: usize = THREADS.fetch_add(1, Relaxed);
}

/// A counter divided into parts, each on lines of the cache of its own, so that threads on different cores seldom wait for
/// each other.
pub(crate) struct Striped<const STRIPES: usize>([Stripe; STRIPES]);

/// Two lines, because processors fetch them in pairs.
#[repr(align(128))]
#[derive(Default)]
struct Stripe(AtomicU64);

impl<const STRIPES: usize> Default for Striped<STRIPES> {
    fn default() -> Self {
        Striped(std::array::from_fn(|_| Stripe::default()))
    }
}

impl<const STRIPES: usize> Striped<STRIPES> {
    /// Adds to the part of this thread.
    #[inline]
    pub(crate) fn add(&self, more: usize) {
        let Stripe(part) = &self.0[THREAD.with(|number| number % STRIPES)];
        part.fetch_add(more as u64, Relaxed);
    }

    /// Returns the sum of all parts.
    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().map(|Stripe(part)| part.load(Relaxed)).sum()
    }
}

/// A map divided by the hash of its keys into parts, each with its own lock, so that tasks on different cores seldom wait
/// for each other.
pub(crate) struct Sharded<K, V, const SHARDS: usize, S = RandomState> {
    hasher: S,
    shards: [Mutex<HashMap<K, V, S>>; SHARDS],
}

impl<K, V, const SHARDS: usize, S: Default> Default for Sharded<K, V, SHARDS, S> {
    fn default() -> Self {
        Sharded { hasher: S::default(), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl<K, V, const SHARDS: usize, S: BuildHasher> Sharded<K, V, SHARDS, S> {
    /// The part that a key belongs to. It is taken from bits of the hash that a map of less than a billion keys does not use.
    pub(crate) fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> &Mutex<HashMap<K, V, S>> {
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS]
    }

    /// All parts.
    pub(crate) fn shards(&self) -> &[Mutex<HashMap<K, V, S>>; SHARDS] {
        &self.shards
    }

    /// The number of all entries.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

#[cold]
fn abort() -> ! {
    eprintln!("philote: a panic left shared state half changed; aborting");
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::testing;

    #[test]
    fn a_striped_counter_has_the_sum_of_all_threads() {
        const THREADS: usize = 9;
        let counter = &Striped::<4>::default();
        std::thread::scope(|scope| {
            (1..=THREADS).for_each(|more| {
                scope.spawn(move || (0..1000).for_each(|_| counter.add(more)));
            });
        });
        assert_eq!(counter.sum(), 1000 * (THREADS * (THREADS + 1) / 2) as u64);
    }

    #[test]
    fn fault_55_a_panic_while_a_lock_is_held_aborts_the_process() {
        const SIGABRT: i32 = 6;
        let output = testing::child("sync::tests::child_with_a_poisoned_lock").output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(SIGABRT), "{errors}");
        assert!(errors.contains("a panic left shared state half changed; aborting"), "{errors}");
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
