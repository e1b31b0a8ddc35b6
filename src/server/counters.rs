//! The server's counts since its start. `daemon/metrics.rs` gives them their names as metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::http::forwarded::Unbelieved;

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that were admitted.
    pub accepted: AtomicU64,
    /// Requests rejected.
    pub refused: AtomicU64,
    /// Connections that ended.
    pub closed: AtomicU64,
    /// Messages published.
    pub messages_in: AtomicU64,
    /// Messages to channels that their publisher's token may not write to.
    pub forbidden: AtomicU64,
    /// Messages that were malformed.
    pub bad_messages: AtomicU64,
    /// Messages, pings and pongs over a connection's rate, which were not handled.
    pub rate_limited: AtomicU64,
    /// Requests that name a client in `X-Forwarded-For` or `Forwarded` and do not come from a trusted proxy.
    pub unbelieved: Unbelieved,
    /// Reloads that were applied.
    pub reloads: AtomicU64,
    /// Reloads that changed nothing because something was wrong.
    pub reloads_refused: AtomicU64,
    /// Bytes from and to connections that have ended.
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    /// Panics. Each has ended one connection.
    pub panics: Arc<AtomicU64>,
}

impl Counters {
    /// Returns the bytes from and to connections that have ended.
    pub fn bytes_of_the_gone(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }
}
