//! The state behind an outbox's lock: the queued frames and their counts.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

use super::{Budget, Phase};
use crate::close::CloseReason;
use crate::frame::Frame;

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
    /// The bytes that the budget counts.
    pub(super) counted: usize,
    pub(super) closing: Option<CloseReason>,
    /// The holder of the promise must drop the frames that it has not begun to write.
    pub(super) dropping: bool,
    /// The socket failed, so nothing more can be written.
    pub(super) broken: bool,
    /// Wakes the connection's task.
    pub(super) task: Option<Waker>,
    /// Messages that were queued so far, but not those of frames that were written without.
    pub(super) total: u64,
}

impl Queue {
    /// Counts a frame that is queued or about to be written.
    pub(super) fn count(&mut self, frame: &Frame) {
        self.messages += frame.messages() as u32;
        self.bytes += frame.len();
    }

    pub(super) fn enqueue(&mut self, frame: Frame) {
        self.count(&frame);
        self.frames.push_back(frame);
    }

    /// Queues a frame before all others, which was not counted yet. `taken` of its bytes are written.
    pub(super) fn put_first(&mut self, frame: &Frame, taken: usize) {
        self.total += frame.messages() as u64;
        self.count(frame);
        self.put_back([frame.clone()].into(), taken, taken, 0);
    }

    pub(super) fn over_limit(&self, budget: &Budget) -> bool {
        self.messages as usize > budget.queue_messages.load(Relaxed)
            || self.bytes > budget.queue_bytes.load(Relaxed)
    }

    /// `alone` says whether a frame that was never queued is being written.
    pub(super) fn close(&mut self, reason: CloseReason, close: Frame, alone: bool) {
        self.closing = Some(reason);
        if reason.drops_queue() {
            // Frames that are being written are not in the queue. The writer drops those that it has not begun.
            self.dropping = alone || self.messages as usize > self.frames.iter().map(Frame::messages).sum();
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
        if std::mem::take(&mut self.dropping) {
            self.drop_from(usize::from(offset > 0));
        }
        if !since.is_empty() {
            self.frames.append(&mut since);
        }
    }

    /// Frees memory beyond what an idle outbox keeps.
    pub(super) fn shrink(&mut self, budget: &Budget) {
        let kept = budget.kept_bytes.load(Relaxed) / size_of::<Frame>();
        if self.frames.capacity() > kept {
            self.frames.shrink_to(kept);
        }
    }

    /// Tells the budget how many bytes wait in this phase.
    pub(super) fn recount(&mut self, phase: Phase, budget: &Budget) {
        let counts = matches!(phase, Phase::Waiting | Phase::Held);
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
