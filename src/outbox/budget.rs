//! The limits that all outboxes share, and the bytes that sockets refuse.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

/// The limits that all outboxes share, and the bytes that they hold together.
#[derive(Debug)]
pub struct Budget {
    /// `[limits] queue_messages`.
    pub queue_messages: AtomicUsize,
    /// `[limits] queue_bytes`.
    pub queue_bytes: AtomicUsize,
    /// `[limits] total_queue_bytes`, for all outboxes whose sockets refuse bytes.
    pub total_bytes: AtomicUsize,
    /// `[websocket] write_buffer_size`: the bytes that an empty queue may keep allocated.
    pub kept_bytes: AtomicUsize,
    /// Bytes that wait for sockets which refuse them.
    refused: AtomicUsize,
    /// Notified when `refused` exceeds `total_bytes`.
    exceeded: Notify,
}

impl Budget {
    /// Makes a budget with these limits in messages and bytes.
    pub fn new(queue_messages: usize, queue_bytes: usize, total_bytes: usize, kept_bytes: usize) -> Budget {
        Budget {
            queue_messages: AtomicUsize::new(queue_messages),
            queue_bytes: AtomicUsize::new(queue_bytes),
            total_bytes: AtomicUsize::new(total_bytes),
            kept_bytes: AtomicUsize::new(kept_bytes),
            refused: AtomicUsize::new(0),
            exceeded: Notify::new(),
        }
    }

    /// Returns the bytes that wait for sockets which refuse them.
    pub fn refused_bytes(&self) -> usize {
        self.refused.load(Relaxed)
    }

    /// Returns by how many bytes all queues together exceed their limit.
    pub fn excess(&self) -> usize {
        self.refused_bytes().saturating_sub(self.total_bytes.load(Relaxed))
    }

    /// Returns how many more bytes may wait before all queues together exceed a `part`th of their limit.
    pub(crate) fn left_of_part(&self, part: usize) -> usize {
        (self.total_bytes.load(Relaxed) / part).saturating_sub(self.refused_bytes())
    }

    /// Waits until all queues together exceed their limit.
    pub async fn exceeded(&self) {
        self.exceeded.notified().await;
    }

    /// Counts `now` bytes for one outbox in place of `before`.
    pub(super) fn recount(&self, before: usize, now: usize) {
        if now > before {
            let refused = self.refused.fetch_add(now - before, Relaxed) + (now - before);
            if refused > self.total_bytes.load(Relaxed) {
                self.exceeded.notify_one();
            }
        } else if before > now {
            self.refused.fetch_sub(before - now, Relaxed);
        }
    }
}
