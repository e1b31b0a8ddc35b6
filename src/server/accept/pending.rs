//! Bounds the connections that speak HTTP and are no session, and chooses which of them must make room.
//!
//! A connection that has shown no token is a stranger. Until its first byte it holds one of [`MAX_SILENT`] places,
//! because it costs little so far, and then one of [`MAX_SPEAKING`]. On philote.v1 the same happens once more for
//! its first message. One address may have three quarters of either, so that its silence cannot keep others out,
//! and three quarters of the memory for first messages and for requests to the API. If others wait, the connection
//! that has been silent longest must go. An honest client is silent for a few round trips only, and the clients
//! that wait meanwhile lose nothing. A connection that has shown a token belongs to a backend, and holds one of
//! [`MAX_KEPT`] places.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::stream::Stream;
use crate::config::TrustedProxies;
use crate::http::{linger, write};
use crate::places::{Place, Places, Rules};
use crate::server::limits::AddressKey;
use crate::server::rejection::Rejection;
use crate::sync::lock;

/// The most connections that have not begun their request or their first message. Each costs a descriptor and some
/// kilobytes.
pub(crate) const MAX_SILENT: usize = 4096;

/// The most connections that have begun to speak and shown no token. Each may hold the head of a request, the hello
/// of TLS or the beginning of a first frame.
pub(crate) const MAX_SPEAKING: usize = 1024;

/// The most connections that have shown a token and are kept open for the next request. One more takes the place of
/// the connection that has been idle longest.
pub(crate) const MAX_KEPT: usize = 1024;

/// How long a connection may be silent while others wait for its place. A lost packet is sent again after one second,
/// and once more two seconds later.
const GRACE: Duration = Duration::from_secs(3);

/// Silent connections that are closed at once when descriptors have run out. The next connections are accepted with
/// these descriptors, and may send something.
const DESCRIPTORS_AT_ONCE: usize = 16;

/// The most connections that are being told why they must make room. For further ones the answer may be lost.
const MAX_LEAVING: usize = 256;

/// The bytes that the first message of a stranger may hold without asking: a usual token.
const FREE_BYTES: usize = 4 * 1024;

/// The bytes that the first messages of all strangers may hold beyond that: some with the longest tokens.
pub(crate) const FIRST_MESSAGES_BYTES: usize = 8 * 1024 * 1024;

/// The bytes that the body of a request to the API may hold without asking: a usual one.
const FREE_BODY: usize = 16 * 1024;

/// The bytes that all requests to the API may hold beyond that until their answers are written: some of the longest.
pub(crate) const REQUESTS_BYTES: usize = 32 * 1024 * 1024;

/// Returns how many of these places or bytes one address may have.
const fn share(all: usize) -> usize {
    all / 4 * 3
}

/// The places of all waiting connections.
pub(crate) struct Pending {
    silent: Places<AddressKey>,
    speaking: Places<AddressKey>,
    kept: Places<AddressKey>,
    leaving: Semaphore,
    first_messages: Arc<Pool>,
    requests: Arc<Pool>,
}

impl Default for Pending {
    fn default() -> Pending {
        let places = |places, share| Places::new(Rules { places, share, grace: GRACE });
        Pending {
            silent: places(MAX_SILENT, share(MAX_SILENT)),
            speaking: places(MAX_SPEAKING, share(MAX_SPEAKING)),
            kept: places(MAX_KEPT, MAX_KEPT),
            leaving: Semaphore::new(MAX_LEAVING),
            first_messages: Pool::shared(FIRST_MESSAGES_BYTES, FREE_BYTES, Rejection::FirstMessages),
            requests: Pool::shared(REQUESTS_BYTES, FREE_BODY, Rejection::Requests),
        }
    }
}

impl Pending {
    /// Returns the number of connections that have shown no token.
    pub(crate) fn len(&self) -> usize {
        self.silent.taken() + self.speaking.taken()
    }

    /// Waits until every connection has shown a token or ended.
    pub(crate) async fn none(&self) {
        // In the order in which a connection takes the places.
        self.silent.none_taken().await;
        self.speaking.none_taken().await;
    }

    /// Closes some of the connections that have been silent longest, because no descriptors are left.
    pub(crate) fn make_room(&self) {
        self.silent.make_room(DESCRIPTORS_AT_ONCE);
    }

    /// Waits for a place for an accepted connection. A connection that `speaks` already takes a place among those that
    /// speak at once, if one is free.
    ///
    /// # Errors
    /// Its address has its share.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        key: Option<AddressKey>,
        speaks: bool,
    ) -> Result<Waiting, Rejection> {
        let evicted = Arc::new(Notify::new());
        let speaking = if speaks { self.speaking.try_free(key, &evicted) } else { None };
        let speaks = speaking.is_some();
        let place = match speaking {
            Some(place) => place,
            None => self.silent.enter(key, &evicted).await.ok_or(Rejection::Pending(MAX_SILENT))?,
        };
        let held = Held { place, address: key, speaks, known: false, request: None };
        Ok(Waiting { pending: self.clone(), evicted, held: Mutex::new(held) })
    }

    /// Ends a connection that must make room, and tells its client why if that is possible.
    pub(crate) async fn send_away(&self, stream: &mut Stream, bytes: &[u8]) {
        match self.leaving.try_acquire() {
            Ok(_leaving) => {
                write(stream, bytes).await;
                linger(stream).await;
            }
            Err(_) => drop(write(stream, bytes).now_or_never()),
        }
    }
}

/// Returns the address that a connection counts for. `None` if many clients may be behind it: a trusted proxy, or a
/// Unix socket.
pub(crate) fn address_key(peer: SocketAddr, trusted: &TrustedProxies) -> Option<AddressKey> {
    AddressKey::of(peer.ip()).filter(|_| !trusted.trusts(peer.ip()))
}

/// The place of one connection. Given back when dropped.
pub(crate) struct Waiting {
    pending: Arc<Pending>,
    evicted: Arc<Notify>,
    held: Mutex<Held>,
}

struct Held {
    place: Place<AddressKey>,
    /// What its memory counts for, also when its place counts for nobody.
    address: Option<AddressKey>,
    /// The place is one of [`MAX_SPEAKING`].
    speaks: bool,
    /// The connection has shown a token, so it is no stranger.
    known: bool,
    /// What its request and the answer hold.
    request: Option<Box<Memory>>,
}

impl Held {
    /// Returns the rejection of a connection that must give up this place.
    fn rejection(&self) -> Rejection {
        match self {
            Held { known: true, .. } => Rejection::Kept(MAX_KEPT),
            Held { speaks: true, .. } => Rejection::Pending(MAX_SPEAKING),
            Held { .. } => Rejection::Pending(MAX_SILENT),
        }
    }
}

impl Waiting {
    /// Waits for the client.
    ///
    /// # Errors
    /// The client took too long, or the connection must make room for others.
    pub(crate) async fn within<T>(
        &self,
        deadline: Instant,
        waits: impl Future<Output = T>,
    ) -> Result<T, Rejection> {
        tokio::select! {
            biased;
            done = waits => Ok(done),
            () = tokio::time::sleep_until(deadline) => Err(Rejection::Timeout),
            rejection = self.told_to_go() => Err(rejection),
        }
    }

    /// Waits until the connection must make room for others, and returns what to tell its client.
    pub(crate) async fn told_to_go(&self) -> Rejection {
        self.evicted.notified().await;
        lock(&self.held).rejection()
    }

    /// Returns whether the client has begun to speak.
    pub(super) fn speaks(&self) -> bool {
        lock(&self.held).speaks
    }

    /// Waits for a place among the connections that speak, unless it has one: there is something to read.
    ///
    /// # Errors
    /// The connection had to make room already.
    pub(crate) async fn speak(&self, key: Option<AddressKey>) -> Result<(), Rejection> {
        {
            let mut held = lock(&self.held);
            if held.speaks {
                return Ok(());
            }
            // The connection is no longer silent.
            if !held.place.begin() {
                return Err(held.rejection());
            }
        }
        let place = self.pending.speaking.take(key, &self.evicted).await;
        *lock(&self.held) = Held { place, address: key, speaks: true, known: false, request: None };
        Ok(())
    }

    /// Gives back the place among the connections that speak, because the client may be silent until its first
    /// message on philote.v1. Returns false if no other place is free; it then keeps the one that it has.
    pub(crate) fn fall_silent(&self, key: Option<AddressKey>) -> bool {
        let silent = self.pending.silent.try_enter(key, &self.evicted);
        silent
            .map(|place| {
                *lock(&self.held) = Held { place, address: key, speaks: false, known: false, request: None };
            })
            .is_some()
    }

    /// Notes that the answer is ready: now the client has to take it, or to send more.
    pub(crate) fn go_on(&self) {
        lock(&self.held).place.go_on();
    }

    /// Counts the connection for this address, which a proxy has named.
    ///
    /// # Errors
    /// The address has its share.
    pub(crate) fn belong(&self, key: Option<AddressKey>) -> Result<(), Rejection> {
        let Some(key) = key else { return Ok(()) };
        let mut held = lock(&self.held);
        held.address = Some(key);
        if held.place.belong(key) { Ok(()) } else { Err(held.rejection()) }
    }

    /// Counts what the next request and its answer hold for this address, which a proxy may have named, or for nobody.
    pub(crate) fn requested_by(&self, key: Option<AddressKey>) {
        lock(&self.held).address = key;
    }

    /// Notes that bytes have come.
    pub(crate) fn heard(&self) {
        lock(&self.held).place.heard();
    }

    /// Notes that a request is being answered: the place is kept until the answer is ready.
    ///
    /// # Errors
    /// The connection had to make room already.
    pub(crate) fn begin(&self) -> Result<(), Rejection> {
        let mut held = lock(&self.held);
        if held.place.begin() { Ok(()) } else { Err(held.rejection()) }
    }

    /// Notes that the answer is written.
    pub(crate) fn answered(&self) {
        let mut held = lock(&self.held);
        held.request = None;
        held.place.set_idle();
    }

    /// Takes this many more bytes for the body of a request or for its answer, until the answer is written.
    ///
    /// # Errors
    /// The requests of all connections, or of its address, hold as much as they may.
    pub(crate) fn hold(&self, more: usize) -> Result<(), Rejection> {
        let mut held = lock(&self.held);
        let address = held.address;
        held.request.get_or_insert_with(|| Box::new(self.pending.requests.memory(address))).hold(more)
    }

    /// Reads and discards what the client still sends after its last answer, until it ends or others need the place.
    pub(crate) async fn linger(&self, stream: &mut Stream) {
        self.answered();
        tokio::select! {
            () = linger(stream) => {}
            _ = self.told_to_go() => {}
        }
    }

    /// Notes that a request has shown a token: the connection is no stranger, and holds none of their places.
    ///
    /// If no place of known connections can be freed, it stays in its place until its answer is written.
    pub(crate) fn known(&self) {
        let mut held = lock(&self.held);
        if held.known {
            return;
        }
        if let Some(mut place) = self.pending.kept.try_enter(None, &self.evicted) {
            place.begin();
            let (address, request) = (held.address, held.request.take());
            *held = Held { place, address, speaks: true, known: true, request };
        }
    }

    /// Returns the account of the memory that the first message holds.
    pub(crate) fn first_message(&self) -> Memory {
        self.pending.first_messages.memory(lock(&self.held).address)
    }
}

/// Memory that many connections share.
struct Pool {
    taken: Mutex<Taken>,
    total: usize,
    /// The bytes that each connection may hold besides.
    free: usize,
    /// Makes the rejection of a connection for which nothing is left.
    full: fn(usize) -> Rejection,
}

/// Bytes.
#[derive(Default)]
struct Taken {
    all: usize,
    /// None is 0.
    by_address: HashMap<AddressKey, usize>,
}

impl Pool {
    fn shared(total: usize, free: usize, full: fn(usize) -> Rejection) -> Arc<Pool> {
        Arc::new(Pool { taken: Mutex::default(), total, free, full })
    }

    fn memory(self: &Arc<Self>, address: Option<AddressKey>) -> Memory {
        Memory { pool: self.clone(), address, bytes: 0 }
    }

    /// Takes this many bytes, at least 1, and returns whether there were as many.
    fn take(&self, address: Option<AddressKey>, more: usize) -> bool {
        let mut taken = lock(&self.taken);
        let of_address = address.and_then(|address| taken.by_address.get(&address)).copied().unwrap_or(0);
        let fits = more <= self.total - taken.all && of_address.saturating_add(more) <= share(self.total);
        if fits {
            taken.all += more;
            address.map(|address| taken.by_address.insert(address, of_address + more));
        }
        fits
    }

    fn give_back(&self, address: Option<AddressKey>, bytes: usize) {
        let mut taken = lock(&self.taken);
        taken.all -= bytes;
        let Some(Entry::Occupied(mut of_address)) = address.map(|address| taken.by_address.entry(address))
        else {
            return;
        };
        *of_address.get_mut() -= bytes;
        if *of_address.get() == 0 {
            of_address.remove();
        }
    }
}

/// The memory that one connection holds. Given back when dropped.
pub(crate) struct Memory {
    pool: Arc<Pool>,
    address: Option<AddressKey>,
    bytes: usize,
}

impl Memory {
    /// Takes this many more bytes.
    ///
    /// # Errors
    /// All connections together, or those of this address, hold as much as they may.
    pub(crate) fn hold(&mut self, more: usize) -> Result<(), Rejection> {
        let bytes = self.bytes.saturating_add(more);
        let taken = bytes.saturating_sub(self.pool.free) - self.taken();
        if taken > 0 && !self.pool.take(self.address, taken) {
            return Err((self.pool.full)(self.pool.total));
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Returns the bytes of the pool that it holds.
    fn taken(&self) -> usize {
        self.bytes.saturating_sub(self.pool.free)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.taken() > 0 {
            self.pool.give_back(self.address, self.taken());
        }
    }
}
