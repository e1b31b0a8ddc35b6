//! The state behind an outbox's lock: the queued frames, their counts, and who writes them next.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

use super::Budget;
use crate::close::CloseReason;
use crate::frame::Frame;

/// Who writes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody: the outbox is not attached to its socket yet.
    #[default]
    Held,
    /// Nobody: nothing is queued.
    Idle,
    /// The holder of the promise, which is about to write or is writing.
    Promised,
    /// The connection's own task, which waits for the socket.
    Waiting,
}

/// The queued frames and their counts.
#[derive(Default)]
pub(super) struct Queue {
    /// The queued frames, except those that the holder of the promise is writing.
    pub(super) frames: VecDeque<Frame>,
    /// Bytes of the first frame that are written.
    pub(super) offset: u32,
    /// Messages that are queued or being written.
    pub(super) messages: u32,
    /// Bytes that are queued or being written.
    pub(super) bytes: usize,
    /// The most messages that were queued at once.
    pub(super) greatest: u32,
    /// The bytes that the budget counts.
    pub(super) counted: usize,
    pub(super) phase: Phase,
    pub(super) closing: Option<CloseReason>,
    /// The holder of the promise must drop the frames that it has not begun to write.
    pub(super) dropping: bool,
    /// The socket failed, so nothing more can be written.
    pub(super) broken: bool,
    /// Wakes the connection's task.
    pub(super) task: Option<Waker>,
    pub(super) totals: Totals,
}

/// The counters of [`OutboxStats`](super::OutboxStats) that only grow. They are few, because every connection has them.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Queue {
    /// Counts a frame that is queued or about to be written.
    pub(super) fn count(&mut self, frame: &Frame) {
        self.messages += frame.messages() as u32;
        self.bytes += frame.len();
        self.greatest = self.greatest.max(self.messages);
    }

    pub(super) fn enqueue(&mut self, frame: Frame) {
        self.count(&frame);
        self.frames.push_back(frame);
    }

    /// Counts a frame as written that was never queued.
    pub(super) fn wrote(&mut self, frame: &Frame) {
        self.messages -= frame.messages() as u32;
        self.bytes -= frame.len();
        self.totals.bytes += frame.len() as u64;
        self.dropping = false;
    }

    /// Queues a frame that is counted already, before all others.
    pub(super) fn put_first(&mut self, frame: &Frame) {
        self.put_back([frame.clone()].into(), 0, 0, 0);
    }

    pub(super) fn over_limit(&self, budget: &Budget) -> bool {
        self.messages as usize > budget.queue_messages.load(Relaxed)
            || self.bytes > budget.queue_bytes.load(Relaxed)
    }

    pub(super) fn close(&mut self, reason: CloseReason, close: Frame) {
        self.closing = Some(reason);
        if reason.drops_queue() {
            // Frames that are being written are not in the queue. The writer drops those that it has not begun.
            self.dropping = self.messages as usize > self.frames.iter().map(Frame::messages).sum();
            self.drop_from(usize::from(self.offset > 0 && !self.dropping));
        }
        self.enqueue(close);
    }

    /// Drops the queued frames from this position on.
    pub(super) fn drop_from(&mut self, first: usize) {
        for frame in self.frames.drain(first.min(self.frames.len())..) {
            self.messages -= frame.messages() as u32;
            self.bytes -= frame.len();
        }
    }

    /// Puts back the frames that the writer had taken and did not finish.
    pub(super) fn put_back(&mut self, frames: VecDeque<Frame>, offset: usize, taken: usize, finished: usize) {
        let mut since = std::mem::replace(&mut self.frames, frames);
        self.offset = offset as u32;
        self.messages -= finished as u32;
        self.bytes -= taken;
        self.totals.bytes += taken as u64;
        if std::mem::take(&mut self.dropping) {
            self.drop_from(usize::from(offset > 0));
        }
        if !since.is_empty() {
            self.frames.append(&mut since);
        }
    }

    /// Ends the promise, because nothing is left to write.
    pub(super) fn settle(&mut self, budget: &Budget) {
        self.phase = Phase::Idle;
        let kept = budget.kept_bytes.load(Relaxed) / size_of::<Frame>();
        if self.frames.capacity() > kept {
            self.frames.shrink_to(kept);
        }
        // The task waits for the last byte before it shuts the socket.
        if self.closing.is_some()
            && let Some(task) = &self.task
        {
            task.wake_by_ref();
        }
    }

    pub(super) fn recount(&mut self, budget: &Budget) {
        let counts = matches!(self.phase, Phase::Waiting | Phase::Held);
        let now = if counts { self.bytes } else { 0 };
        budget.recount(self.counted, now);
        self.counted = now;
    }
}

/// Removes the frames that `taken` more bytes finish, and returns how many messages they were.
pub(super) fn advance(frames: &mut VecDeque<Frame>, offset: &mut usize, taken: usize) -> usize {
    *offset += taken;
    let mut finished = 0;
    while let Some(frame) = frames.front()
        && *offset >= frame.len()
    {
        *offset -= frame.len();
        finished += frame.messages();
        frames.pop_front();
    }
    finished
}
