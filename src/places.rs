//! Places for connections that wait for their client. Their number is bounded, and so is the share of one address. When all
//! are taken, the connection that was silent the longest gives up its place.
//!
//! Silence counts from the last byte received. A connection whose request is being answered keeps its place.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::sync::lock;

/// When to check again while all connections are being answered. One that was answered notifies the waiters earlier.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The number of places, and when one must be given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The most connections at once.
    pub(crate) places: usize,
    /// The most connections of one address at once.
    pub(crate) share: usize,
    /// How long a connection that is not idle may be silent while others wait for its place.
    pub(crate) grace: Duration,
}

/// The places. `K` is the type that identifies an address.
#[derive(Debug)]
pub(crate) struct Places<K>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    rules: Rules,
    /// The time from which milliseconds are counted.
    epoch: Instant,
    free: Arc<Semaphore>,
    /// What is left of each address's share. An entry is removed some time after the address's last connection left.
    shares: Mutex<HashMap<K, Weak<Semaphore>>>,
    silent: Mutex<Silent<K>>,
    /// The number of the next connection.
    next: AtomicU64,
    /// The number of connections that have not left.
    taken: AtomicUsize,
    /// Notified when the last connection has left.
    emptied: Notify,
    /// Notified when a connection was answered and may be closed.
    answered: Notify,
}

/// The connections that may be evicted, by the time from which they may. The order is updated when a place is needed.
type Silent<K> = BTreeMap<(Milliseconds, u64), Entry<K>>;

#[derive(Debug)]
struct Entry<K> {
    key: Option<K>,
    permits: Permits,
    state: Arc<State>,
    evicted: Arc<Notify>,
}

/// A permit for a place, and one for the share of its address.
#[derive(Debug)]
struct Permits {
    all: OwnedSemaphorePermit,
    own: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct State {
    number: u64,
    /// The time from which it must give way to others.
    due: AtomicU64,
    /// The time by which it is sorted: `due` when it was last checked. Written with the entries locked.
    sorted_by: AtomicU64,
}

/// Milliseconds since the epoch of [`Inner`].
type Milliseconds = u64;

/// One connection's place, which is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Clone + Eq + Hash> {
    inner: Arc<Inner<K>>,
    key: Option<K>,
    state: Arc<State>,
    evicted: Arc<Notify>,
    /// The permits are here while it is being answered, and in the entry while it is silent.
    permits: Option<Permits>,
}

impl<K: Clone + Eq + Hash> Places<K> {
    pub(crate) fn new(rules: Rules) -> Places<K> {
        Places(Arc::new(Inner {
            rules,
            epoch: Instant::now(),
            free: Arc::new(Semaphore::new(rules.places)),
            shares: Mutex::default(),
            silent: Mutex::default(),
            next: AtomicU64::new(0),
            taken: AtomicUsize::new(0),
            emptied: Notify::new(),
            answered: Notify::new(),
        }))
    }

    /// Returns the number of connections that have not left.
    pub(crate) fn taken(&self) -> usize {
        self.0.taken.load(Relaxed)
    }

    /// Waits until no place is taken.
    pub(crate) async fn none_taken(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.taken() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Frees up to `most` places of connections that have been silent for their time.
    pub(crate) fn make_room(&self, most: usize) {
        for _ in 0..most {
            if self.0.evict(None).is_err() {
                return;
            }
        }
    }

    /// Waits for a place for a connection of this address, which is notified by `evicted` when it loses the place. Returns
    /// `None` if its address has used its share and none of its connections can be evicted.
    pub(crate) async fn enter(&self, key: Option<K>, evicted: &Arc<Notify>) -> Option<Place<K>> {
        let own = match key.as_ref().map(|key| self.0.share(key).try_acquire_owned()) {
            None => None,
            Some(Ok(own)) => Some(own),
            Some(Err(_)) => {
                let permits = self.0.evict(key.as_ref()).ok()?;
                return Some(Place::new(&self.0, key, evicted, permits));
            }
        };
        let all = self.0.any().await;
        Some(Place::new(&self.0, key, evicted, Permits { all, own }))
    }

    /// Takes a free place for a connection of this address. Never overtakes a connection that waits.
    pub(crate) fn try_free(&self, key: Option<K>, evicted: &Arc<Notify>) -> Option<Place<K>> {
        let own = match &key {
            Some(key) => Some(self.0.share(key).try_acquire_owned().ok()?),
            None => None,
        };
        let all = self.0.free.clone().try_acquire_owned().ok()?;
        Some(Place::new(&self.0, key, evicted, Permits { all, own }))
    }

    /// Takes a place for a connection of this address that is free or that another must give up now.
    pub(crate) fn try_enter(&self, key: Option<K>, evicted: &Arc<Notify>) -> Option<Place<K>> {
        let mut own = None;
        if let Some(key) = &key {
            match self.0.share(key).try_acquire_owned() {
                Ok(permit) => own = Some(permit),
                Err(_) => {
                    let permits = self.0.evict(Some(key)).ok()?;
                    return Some(Place::new(&self.0, Some(key.clone()), evicted, permits));
                }
            }
        }
        let all = match self.0.free.clone().try_acquire_owned() {
            Ok(all) => all,
            Err(_) => self.0.evict(None).ok()?.all,
        };
        Some(Place::new(&self.0, key, evicted, Permits { all, own }))
    }

    /// Waits until there is a place for one more connection of this address.
    pub(crate) async fn take(&self, key: Option<K>, evicted: &Arc<Notify>) -> Place<K> {
        let mut own = None;
        if let Some(key) = &key {
            match self.0.permit(&self.0.share(key), Some(key)).await {
                Found::Free(permit) => own = Some(permit),
                Found::GivenUp(permits) => return Place::new(&self.0, Some(key.clone()), evicted, permits),
            }
        }
        let all = self.0.any().await;
        Place::new(&self.0, key, evicted, Permits { all, own })
    }
}

/// A place that was found.
enum Found {
    Free(OwnedSemaphorePermit),
    GivenUp(Permits),
}

impl<K: Clone + Eq + Hash> Inner<K> {
    fn now(&self) -> Milliseconds {
        self.epoch.elapsed().as_millis() as Milliseconds
    }

    fn due_after(&self, grace: Duration) -> Milliseconds {
        self.now() + grace.as_millis() as Milliseconds
    }

    /// Returns the permits that are left of the share of this address.
    fn share(&self, key: &K) -> Arc<Semaphore> {
        let mut shares = lock(&self.shares);
        if let Some(share) = shares.get(key).and_then(Weak::upgrade) {
            return share;
        }
        // A share of an address without connections is the same as a new one.
        if shares.len() == shares.capacity() {
            shares.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Semaphore::new(self.rules.share));
        shares.insert(key.clone(), Arc::downgrade(&share));
        share
    }

    /// Waits until a place is free or given up.
    async fn any(&self) -> OwnedSemaphorePermit {
        match self.permit(&self.free, None).await {
            Found::Free(all) => all,
            Found::GivenUp(permits) => permits.all,
        }
    }

    /// Waits for a free permit or evicts a connection; with `key`, only one of that address.
    async fn permit(&self, permits: &Arc<Semaphore>, key: Option<&K>) -> Found {
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            return Found::Free(permit);
        }
        let acquired = permits.clone().acquire_owned();
        tokio::pin!(acquired);
        loop {
            let left = match self.evict(key) {
                Ok(permits) => return Found::GivenUp(permits),
                Err(left) => left,
            };
            tokio::select! {
                biased;
                // The semaphore is never closed.
                Ok(permit) = &mut acquired => return Found::Free(permit),
                () = tokio::time::sleep(left) => {}
                () = self.answered.notified() => {}
            }
        }
    }

    /// Evicts the connection that has been silent longest; with `key`, only one of that address. Returns its place.
    ///
    /// # Errors
    /// No connection has been silent for its time; the time until one may have been.
    fn evict(&self, key: Option<&K>) -> Result<Permits, Duration> {
        let now = self.now();
        let mut silent = lock(&self.silent);
        // Sort those again from which bytes arrived since.
        while let Some((&at, entry)) = silent.first_key_value() {
            let due = entry.state.due.load(Relaxed);
            if due <= at.0 {
                break;
            }
            entry.state.sorted_by.store(due, Relaxed);
            if let Some(entry) = silent.remove(&at) {
                silent.insert((due, at.1), entry);
            }
        }
        let due = match key {
            None => silent.first_key_value().map(|(at, _)| (at.0, *at)),
            Some(_) => {
                let own = silent.iter().filter(|(_, entry)| entry.key.as_ref() == key);
                own.map(|(at, entry)| (entry.state.due.load(Relaxed), *at)).min()
            }
        };
        match due {
            Some((due, at)) if due <= now => {
                let entry = silent.remove(&at).ok_or(Duration::ZERO)?;
                entry.evicted.notify_one();
                Ok(entry.permits)
            }
            Some((due, _)) => Err(Duration::from_millis(due - now)),
            None => Err(LOOK_AGAIN),
        }
    }
}

impl<K: Clone + Eq + Hash> Place<K> {
    fn new(inner: &Arc<Inner<K>>, key: Option<K>, evicted: &Arc<Notify>, permits: Permits) -> Place<K> {
        inner.taken.fetch_add(1, Relaxed);
        let number = inner.next.fetch_add(1, Relaxed);
        let state = Arc::new(State { number, due: AtomicU64::new(0), sorted_by: AtomicU64::new(0) });
        let mut place =
            Place { inner: inner.clone(), key, state, evicted: evicted.clone(), permits: Some(permits) };
        place.wait(inner.rules.grace);
        place
    }

    /// Records that bytes arrived.
    pub(crate) fn heard(&self) {
        self.state.due.store(self.inner.due_after(self.inner.rules.grace), Relaxed);
    }

    /// Records that its request is being answered, so that it keeps its place. Returns false if it has lost the place.
    pub(crate) fn begin(&mut self) -> bool {
        if self.permits.is_none() {
            self.permits = self.leave().map(|entry| entry.permits);
        }
        self.permits.is_some()
    }

    /// Counts it for this address from now on. Returns false if it has lost its place, or if the address has used its share
    /// and none of its connections must go.
    pub(crate) fn belong(&mut self, key: K) -> bool {
        if self.key.as_ref() == Some(&key) {
            return true;
        }
        let silent = self.permits.is_none();
        if !self.begin() {
            return false;
        }
        let own = match self.inner.share(&key).try_acquire_owned() {
            Ok(own) => Some(own),
            Err(_) => self.inner.evict(Some(&key)).ok().and_then(|permits| permits.own),
        };
        let belongs = own.is_some();
        if let Some(permits) = self.permits.as_mut().filter(|_| belongs) {
            permits.own = own;
            self.key = Some(key);
        }
        if silent {
            self.wait(self.inner.rules.grace);
        }
        belongs
    }

    /// Records that it waits for its client, which has something to send or to read.
    pub(crate) fn go_on(&mut self) {
        self.wait(self.inner.rules.grace);
    }

    /// Records that it was answered and is idle, so that its place is the first to be given up.
    pub(crate) fn set_idle(&mut self) {
        if !self.begin() {
            return;
        }
        self.wait(Duration::ZERO);
        self.inner.answered.notify_one();
    }

    /// Puts it among those that may have to go after this time.
    fn wait(&mut self, grace: Duration) {
        let Some(permits) = self.permits.take() else { return };
        let due = self.inner.due_after(grace);
        self.state.due.store(due, Relaxed);
        let entry = Entry {
            key: self.key.clone(),
            permits,
            state: self.state.clone(),
            evicted: self.evicted.clone(),
        };
        let mut silent = lock(&self.inner.silent);
        self.state.sorted_by.store(due, Relaxed);
        silent.insert((due, self.state.number), entry);
    }

    fn leave(&self) -> Option<Entry<K>> {
        let mut silent = lock(&self.inner.silent);
        silent.remove(&(self.state.sorted_by.load(Relaxed), self.state.number))
    }
}

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        drop(self.permits.take().or_else(|| self.leave().map(|entry| entry.permits)));
        if self.inner.taken.fetch_sub(1, Relaxed) == 1 {
            self.inner.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
