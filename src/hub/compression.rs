//! Compresses a message for the readers that negotiated it, once for all of them and before its channel is locked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::{Channel, Connection, Hub};
use crate::frame::{Compressed, Frame};

/// What is compressed, and what that has saved.
pub(super) struct Compression {
    /// `[websocket] compression`: the length from which a message is compressed, in bytes; the greatest number if none is.
    from: AtomicUsize,
    messages: AtomicU64,
    before: AtomicU64,
    after: AtomicU64,
}

/// What compression has saved since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompressionFigures {
    /// Messages that were compressed, each once for all its readers.
    pub messages: u64,
    /// Their bytes before.
    pub before: u64,
    /// Their bytes after.
    pub after: u64,
}

impl Default for Compression {
    fn default() -> Compression {
        Compression {
            from: AtomicUsize::new(usize::MAX),
            messages: AtomicU64::new(0),
            before: AtomicU64::new(0),
            after: AtomicU64::new(0),
        }
    }
}

impl Hub {
    /// Sets the length from which messages are compressed, in bytes; `None` if none is.
    pub fn compress_from(&self, length: Option<usize>) {
        self.compression.from.store(length.unwrap_or(usize::MAX), Relaxed);
    }

    /// Returns what compression has saved.
    pub fn compression(&self) -> CompressionFigures {
        CompressionFigures {
            messages: self.compression.messages.load(Relaxed),
            before: self.compression.before.load(Relaxed),
            after: self.compression.after.load(Relaxed),
        }
    }

    /// Compresses a frame if a reader of its channel takes that. A reader that joins after this gets the frame as it is.
    #[inline]
    pub(super) fn compress(
        &self,
        channel: &Channel,
        frame: &Frame,
        excluded: &[Arc<Connection>],
    ) -> Option<Box<Compressed>> {
        if channel.compressing.load(Relaxed) == 0 {
            return None;
        }
        self.compress_for_readers(channel, frame, excluded)
    }

    #[cold]
    fn compress_for_readers(
        &self,
        channel: &Channel,
        frame: &Frame,
        excluded: &[Arc<Connection>],
    ) -> Option<Box<Compressed>> {
        let from = self.compression.from.load(Relaxed);
        if frame.len() < from {
            return None;
        }
        let (name, takers) = (channel.name.as_str(), channel.compressing.load(Relaxed) as usize);
        let takes = |connection: &&Arc<Connection>| connection.compresses() && connection.reads(name);
        // The publisher may be the only reader that would take it.
        if takers <= excluded.len() && takers <= excluded.iter().filter(takes).count() {
            return None;
        }
        let is_numbered = self.keeping.is_on() && self.keeping.retention(name).is_on();
        let (compressed, savings) = Compressed::new(frame, from, is_numbered)?;
        self.compression.messages.fetch_add(savings.messages, Relaxed);
        self.compression.before.fetch_add(savings.before, Relaxed);
        self.compression.after.fetch_add(savings.after, Relaxed);
        Some(Box::new(compressed))
    }
}
