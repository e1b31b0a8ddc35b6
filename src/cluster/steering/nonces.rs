//! The nonces of requests that were accepted, so that a request that is sent again is refused.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::message::{MAX_AGE_MS, Nonce, Rejected};

/// The most nonces that are remembered, 48 bytes each. Only nodes with the secret can add one, and at 250 requests a second
/// they still fit.
const MAX_NONCES: usize = 16_384;

/// A message is accepted until [`MAX_AGE_MS`] after its time, and its time may be as much in the future.
const KEPT: Duration = Duration::from_millis(2 * MAX_AGE_MS);

/// The nonces of the last minute.
#[derive(Debug, Default)]
pub(super) struct Nonces {
    seen: HashSet<Nonce>,
    /// In the order in which they were seen.
    order: VecDeque<(Instant, Nonce)>,
}

impl Nonces {
    /// Remembers a nonce.
    ///
    /// # Errors
    /// It was seen before, or there is no room to remember it.
    pub(super) fn insert(&mut self, nonce: Nonce, now: Instant) -> Result<(), Rejected> {
        while let Some((at, old)) = self.order.front()
            && now.saturating_duration_since(*at) > KEPT
        {
            self.seen.remove(old);
            self.order.pop_front();
        }
        if self.seen.contains(&nonce) {
            return Err(Rejected::Replayed);
        }
        if self.seen.len() >= MAX_NONCES {
            return Err(Rejected::Full);
        }
        self.seen.insert(nonce);
        self.order.push_back((now, nonce));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_accepted_once_while_its_message_is() {
        let start = Instant::now();
        let mut nonces = Nonces::default();
        let nonce = Nonce::random();
        nonces.insert(nonce, start).unwrap();
        assert_eq!(nonces.insert(nonce, start), Err(Rejected::Replayed));
        assert_eq!(nonces.insert(nonce, start + KEPT), Err(Rejected::Replayed));
        // By then the message itself is stale.
        nonces.insert(nonce, start + KEPT + Duration::from_millis(1)).unwrap();
        assert_eq!((nonces.seen.len(), nonces.order.len()), (1, 1));
    }

    #[test]
    fn the_memory_for_nonces_is_bounded() {
        let start = Instant::now();
        let mut nonces = Nonces::default();
        for _ in 0..MAX_NONCES {
            nonces.insert(Nonce::random(), start).unwrap();
        }
        assert_eq!(nonces.insert(Nonce::random(), start), Err(Rejected::Full));
        assert_eq!(nonces.seen.len(), MAX_NONCES);
        nonces.insert(Nonce::random(), start + KEPT + Duration::from_millis(1)).unwrap();
        assert_eq!((nonces.seen.len(), nonces.order.len()), (1, 1), "those of the last minute make room");
    }
}
