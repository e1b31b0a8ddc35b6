//! Connections that HTTP is spoken on, and that are no sessions: how many there may be, and which has to go.
//!
//! One that has shown no token is a stranger. It holds one of [`MAX_PENDING`] places until its first byte, because it
//! costs little so far, and then one of [`MAX_SPEAKING`]; on philote.v1 the same once more for its first message. One address has three quarters of either at most, so that
//! its silence cannot keep others out. Where others wait, the longest silent one goes; an honest client is silent for
//! some round trips only, and those who wait meanwhile lose nothing. One that has shown a token is a backend's: it
//! holds one of [`MAX_KEPT`] places.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::stream::Stream;
use crate::config::TrustedProxies;
use crate::http::{linger, write};
use crate::places::{Place, Places, Rules};
use crate::server::limits::Origin;
use crate::server::rejection::Rejection;
use crate::sync::lock;

/// Connections that have not begun their request, or their first message, at once: a descriptor and some kilobytes each.
pub(crate) const MAX_PENDING: usize = 4096;

/// Connections that have begun to speak and shown no token, at once: each may hold a request's head, the hello of TLS
/// or the beginning of a first frame.
pub(crate) const MAX_SPEAKING: usize = 1024;

/// Connections that have shown a token and are kept open for the next request, at once. One more takes the place of
/// the one that is idle longest.
pub(crate) const MAX_KEPT: usize = 1024;

/// How long a connection may be silent while others wait for its place: a lost packet is sent again after one second,
/// and again two seconds later.
const GRACE: Duration = Duration::from_secs(3);

/// Silent connections that are sent away at once where descriptors have run out: the next ones are accepted with
/// theirs, and perhaps say something.
const DESCRIPTORS_AT_ONCE: usize = 16;

/// Connections that were sent away and may read why, at once. What is said to the others may be lost on its way.
const MAX_LEAVING: usize = 256;

/// What a stranger's first message may have in memory without asking, in bytes: a usual token.
const FREE_BYTES: usize = 4 * 1024;

/// What the first messages of all strangers may have in memory beyond that, in bytes: some with the longest tokens.
pub(crate) const FIRST_MESSAGES_BYTES: usize = 8 * 1024 * 1024;

/// The most that one address may have of these places.
const fn share(places: usize) -> usize {
    places / 4 * 3
}

/// All places.
pub(crate) struct Pending {
    silent: Places<Origin>,
    speaking: Places<Origin>,
    kept: Places<Origin>,
    leaving: Semaphore,
    /// Bytes of first messages.
    first_messages: Semaphore,
}

impl Default for Pending {
    fn default() -> Pending {
        let places = |places, share| Places::new(Rules { places, share, grace: GRACE });
        Pending {
            silent: places(MAX_PENDING, share(MAX_PENDING)),
            speaking: places(MAX_SPEAKING, share(MAX_SPEAKING)),
            kept: places(MAX_KEPT, MAX_KEPT),
            leaving: Semaphore::new(MAX_LEAVING),
            first_messages: Semaphore::new(FIRST_MESSAGES_BYTES),
        }
    }
}

impl Pending {
    /// How many have shown no token.
    pub(crate) fn len(&self) -> usize {
        self.silent.taken() + self.speaking.taken()
    }

    /// Waits until none is left that has shown no token.
    pub(crate) async fn none(&self) {
        // In the order in which a connection passes through them.
        self.silent.none_taken().await;
        self.speaking.none_taken().await;
    }

    /// Sends some of the longest silent connections away, because there are no descriptors left.
    pub(crate) fn make_room(&self) {
        self.silent.make_room(DESCRIPTORS_AT_ONCE);
    }

    /// Waits for a place for a connection that was accepted. One that `speaks` already, and need not wait to be heard,
    /// is never among the silent ones.
    ///
    /// # Errors
    /// Its address has its share.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        origin: Option<Origin>,
        speaks: bool,
    ) -> Result<Waiting, Rejection> {
        let told = Arc::new(Notify::new());
        let speaking = if speaks { self.speaking.try_free(origin, &told) } else { None };
        let speaks = speaking.is_some();
        let place = match speaking {
            Some(place) => place,
            None => self.silent.enter(origin, &told).await.ok_or(REFUSED)?,
        };
        let held = Held { place, speaks, known: false };
        Ok(Waiting { pending: self.clone(), told, held: Mutex::new(held) })
    }

    /// Ends a connection that has to go, and tells it why as far as that can be told.
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

/// What a stranger is told that has to go.
const REFUSED: Rejection = Rejection::Pending(MAX_PENDING);

/// Whose places a connection counts among. `None` where many clients may be behind it: a proxy that tells for whom it
/// speaks, a Unix socket.
pub(crate) fn origin(peer: SocketAddr, trusted: &TrustedProxies) -> Option<Origin> {
    Origin::of(peer.ip()).filter(|_| !trusted.trusts(peer.ip()))
}

/// One connection's place, given back when dropped.
pub(crate) struct Waiting {
    pending: Arc<Pending>,
    told: Arc<Notify>,
    held: Mutex<Held>,
}

struct Held {
    place: Place<Origin>,
    /// The place is one among those that speak.
    speaks: bool,
    /// It has shown a token, and is no stranger.
    known: bool,
}

impl Waiting {
    /// Does something that waits for the client.
    ///
    /// # Errors
    /// It took too long, or the connection has to make room for others.
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

    /// Waits until it has to make room for others; what its client is told then.
    pub(crate) async fn told_to_go(&self) -> Rejection {
        self.told.notified().await;
        if lock(&self.held).known { Rejection::Kept(MAX_KEPT) } else { REFUSED }
    }

    /// Whether it has begun to speak.
    pub(super) fn speaks(&self) -> bool {
        lock(&self.held).speaks
    }

    /// Waits for a place among those that speak, unless it has one: there is something to read.
    ///
    /// # Errors
    /// It had to make room for others already.
    pub(crate) async fn speak(&self, origin: Option<Origin>) -> Result<(), Rejection> {
        {
            let mut held = lock(&self.held);
            if held.speaks {
                return Ok(());
            }
            // It is not silent any more.
            if !held.place.begin() {
                return Err(REFUSED);
            }
        }
        let place = self.pending.speaking.take(origin, &self.told).await;
        *lock(&self.held) = Held { place, speaks: true, known: false };
        Ok(())
    }

    /// Gives the place among those that speak back, because its client may be silent before it goes on: it waits for
    /// the first message of philote.v1. False where no other place is left; then it keeps the one that it has.
    pub(crate) fn fall_silent(&self, origin: Option<Origin>) -> bool {
        let silent = self.pending.silent.try_enter(origin, &self.told);
        silent.map(|place| *lock(&self.held) = Held { place, speaks: false, known: false }).is_some()
    }

    /// Its answer is ready, and its client has to take it, or has more to say at once.
    pub(crate) fn go_on(&self) {
        lock(&self.held).place.go_on();
    }

    /// Counts it as this address's: a proxy has told for whom it speaks.
    ///
    /// # Errors
    /// The address has its share.
    pub(crate) fn belong(&self, origin: Option<Origin>) -> Result<(), Rejection> {
        match origin {
            Some(origin) if !lock(&self.held).place.belong(origin) => Err(REFUSED),
            _ => Ok(()),
        }
    }

    /// Bytes have come.
    pub(crate) fn heard(&self) {
        lock(&self.held).place.heard();
    }

    /// A request has come, and is being answered: the place is kept until the answer is ready.
    ///
    /// # Errors
    /// It had to make room for others already.
    pub(crate) fn begin(&self) -> Result<(), Rejection> {
        if lock(&self.held).place.begin() { Ok(()) } else { Err(REFUSED) }
    }

    /// Its answer is written.
    pub(crate) fn answered(&self) {
        lock(&self.held).place.rest();
    }

    /// Its request has shown a token: it is no stranger, and holds none of their places.
    ///
    /// Where all that are known are being answered it goes on holding one; it keeps that for the time of its answer.
    pub(crate) fn known(&self) {
        let mut held = lock(&self.held);
        if held.known {
            return;
        }
        if let Some(mut place) = self.pending.kept.try_enter(None, &self.told) {
            place.begin();
            *held = Held { place, speaks: true, known: true };
        }
    }

    /// The memory of its first message.
    pub(crate) fn first_message(&self) -> FirstMessage<'_> {
        FirstMessage { pending: &self.pending, bytes: 0, permits: None }
    }
}

/// What one stranger's first message has in memory, given back when dropped.
pub(crate) struct FirstMessage<'a> {
    pending: &'a Pending,
    bytes: usize,
    permits: Option<SemaphorePermit<'a>>,
}

impl FirstMessage<'_> {
    /// Makes room for so many more bytes of it.
    ///
    /// # Errors
    /// The first messages of all strangers have all that they may have.
    pub(crate) fn hold(&mut self, more: usize) -> Result<(), Rejection> {
        let before = self.bytes.max(FREE_BYTES);
        self.bytes += more;
        let more = u32::try_from(self.bytes.saturating_sub(before)).unwrap_or(u32::MAX);
        let full = |_| Rejection::FirstMessages(FIRST_MESSAGES_BYTES);
        let permit = self.pending.first_messages.try_acquire_many(more).map_err(full)?;
        match &mut self.permits {
            Some(permits) => permits.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }
}
