//! What all outboxes share: their limits, and what sockets refuse.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

/// The limits that all outboxes share, and what they hold together.
#[derive(Debug)]
pub struct Budget {
    /// `[limits] queue_messages`.
    pub queue_messages: AtomicUsize,
    /// `[limits] queue_bytes`.
    pub queue_bytes: AtomicUsize,
    /// `[limits] total_queue_bytes`: of all outboxes whose sockets refuse bytes.
    pub total_bytes: AtomicUsize,
    /// `[websocket] write_buffer_size`: the room for the queue itself that a connection may keep, in bytes.
    pub kept_bytes: AtomicUsize,
    /// What sockets have refused so far, in bytes.
    refused: AtomicUsize,
    /// Told when `refused` passes `total_bytes`.
    exceeded: Notify,
}

impl Budget {
    /// A budget with these limits, in messages and bytes.
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

    /// Bytes that wait for sockets which refuse them.
    pub fn refused_bytes(&self) -> usize {
        self.refused.load(Relaxed)
    }

    /// By how many bytes all queues together are over their limit.
    pub fn excess(&self) -> usize {
        self.refused_bytes().saturating_sub(self.total_bytes.load(Relaxed))
    }

    /// How many more bytes may wait before all queues together are over this part of their limit.
    pub(crate) fn left_of_part(&self, part: usize) -> usize {
        (self.total_bytes.load(Relaxed) / part).saturating_sub(self.refused_bytes())
    }

    /// Waits until all queues together have passed their limit.
    pub async fn exceeded(&self) {
        self.exceeded.notified().await;
    }

    /// Has one outbox count `now` bytes in place of `before`.
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
