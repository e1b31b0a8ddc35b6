//! Session tickets: a client that comes back shows one and is spared the costly half of the handshake.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

/// The keys of all tickets, which rustls replaces every six hours and accepts for twelve.
///
/// The server keeps nothing for a ticket, so other keys are the only way to end one early.
#[derive(Debug)]
pub(super) struct Tickets(ArcSwapOption<Arc<dyn ProducesTickets>>);

impl Tickets {
    /// # Errors
    /// The system gives no random bytes.
    pub(super) fn new() -> Result<Tickets, rustls::Error> {
        Ok(Tickets(ArcSwapOption::from_pointee(Ticketer::new()?)))
    }

    /// Takes other keys, so that no client can resume a session of before. If the system gives no random bytes, there are
    /// no keys, and no tickets.
    pub(super) fn replace(&self) {
        self.0.store(Ticketer::new().ok().map(Arc::new));
    }
}

impl ProducesTickets for Tickets {
    /// Without keys [`Tickets::encrypt`] gives none, which rustls accepts.
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.0.load().as_ref().map_or(0, |keys| keys.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.load().as_ref()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.load().as_ref()?.decrypt(cipher)
    }
}
