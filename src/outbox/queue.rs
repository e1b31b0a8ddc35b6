//! The state behind an outbox's lock: the queued frames and their counts.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

use super::{Budget, Phase, Unwritten};
use crate::close::CloseReason;
use crate::frame::Frame;

/// What stands for the backlog of an outbox that has none.
static NONE: Backlog =
    Backlog { frames: VecDeque::new(), offset: 0, messages: 0, bytes: 0, counted: 0, lost: None };

/// The state behind the lock. Nearly all outboxes are idle, so the backlog is elsewhere.
#[derive(Default)]
pub(super) struct Queue {
    backlog: Option<Box<Backlog>>,
    /// Messages that were queued so far, but not those of frames that were written without.
    pub(super) total: u64,
    /// Wakes the connection's task.
    pub(super) task: Option<Waker>,
    pub(super) closing: Option<CloseReason>,
    /// The holder of the promise must drop the frames that it has not begun to write.
    pub(super) dropping: bool,
    /// The socket failed, so nothing more can be written.
    pub(super) broken: bool,
}

/// The queued frames and their counts.
#[derive(Default)]
struct Backlog {
    /// The queued frames, except those that the holder of the promise is writing.
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that are written.
    offset: u32,
    /// Messages that are queued or being written.
    messages: u32,
    /// Bytes that are queued or being written.
    bytes: usize,
    /// The bytes that the budget counts.
    counted: usize,
    /// Messages that were dropped or refused, if there are any.
    lost: Option<Box<Unwritten>>,
}

impl Backlog {
    /// Counts a frame that is queued or about to be written.
    fn count(&mut self, frame: &Frame) {
        self.messages += frame.messages() as u32;
        self.bytes += frame.len();
    }

    /// Drops the queued frames from this position on. `offset` bytes of the first queued frame are written.
    fn drop_from(&mut self, first: usize, offset: usize) {
        self.note_lost(first, offset);
        for frame in self.frames.drain(first.min(self.frames.len())..) {
            self.messages -= frame.messages() as u32;
            self.bytes -= frame.len();
        }
    }

    /// Notes that the queued frames from this position on will not be written.
    fn note_lost(&mut self, first: usize, offset: usize) {
        if first < self.frames.len() {
            let queued = self.unwritten(first, offset);
            // What was dropped or refused before came after these.
            self.lost =
                Some(Box::new(queued.followed_by(self.lost.take().map(|lost| *lost).unwrap_or_default())));
        }
    }

    /// Returns what is queued from this position on. `offset` bytes of the first queued frame are written.
    fn unwritten(&self, first: usize, offset: usize) -> Unwritten {
        let (mut unwritten, written) =
            (Unwritten::default(), std::iter::once(offset).chain(std::iter::repeat(0)));
        for (frame, written) in self.frames.iter().zip(written).skip(first) {
            unwritten.note(frame, written);
        }
        unwritten
    }
}

impl Queue {
    fn look(&self) -> &Backlog {
        self.backlog.as_deref().unwrap_or(&NONE)
    }

    fn backlog(&mut self) -> &mut Backlog {
        self.backlog.get_or_insert_default()
    }

    /// Returns whether no frames are queued, apart from those that the holder of the promise is writing.
    pub(super) fn is_empty(&self) -> bool {
        self.look().frames.is_empty()
    }

    /// Returns how many messages are queued or being written.
    pub(super) fn messages(&self) -> u32 {
        self.look().messages
    }

    /// Returns how many bytes are queued or being written.
    pub(super) fn bytes(&self) -> usize {
        self.look().bytes
    }

    /// Returns the bytes that the budget counts.
    pub(super) fn counted(&self) -> usize {
        self.look().counted
    }

    /// Returns the bytes that the list of frames has allocated.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.look().frames.capacity() * size_of::<Frame>()
    }

    /// Queues a frame behind all others. Returns how many messages are queued or being written then.
    #[inline(always)]
    pub(super) fn enqueue(&mut self, frame: Frame) -> u32 {
        let backlog = self.backlog();
        backlog.count(&frame);
        backlog.frames.push_back(frame);
        backlog.messages
    }

    /// Queues a frame before all others, which was not counted yet. `taken` of its bytes are written.
    pub(super) fn put_first(&mut self, frame: &Frame, taken: usize) {
        self.total += frame.messages() as u64;
        let backlog = self.backlog.get_or_insert_default();
        backlog.count(frame);
        // Then the frame is one of those to drop, unless it was begun.
        if self.dropping {
            return self.put_back([frame.clone()].into(), taken, taken, 0);
        }
        backlog.frames.push_front(frame.clone());
        backlog.offset = taken as u32;
        backlog.bytes -= taken;
    }

    pub(super) fn over_limit(&self, budget: &Budget) -> bool {
        self.messages() as usize > budget.queue_messages.load(Relaxed)
            || self.bytes() > budget.queue_bytes.load(Relaxed)
    }

    /// Lets the holder of the promise write the queued frames, the first of them from an offset on.
    pub(super) fn take_frames(&mut self) -> (VecDeque<Frame>, usize) {
        let backlog = self.backlog();
        (std::mem::take(&mut backlog.frames), backlog.offset as usize)
    }

    /// Notes that a frame was refused, because the connection closes.
    pub(super) fn note_refused(&mut self, frame: &Frame) {
        self.backlog().lost.get_or_insert_default().note(frame, 0);
    }

    /// Notes that it is not known what was written, because a writer has panicked.
    pub(super) fn note_unknown(&mut self) {
        self.backlog().lost.get_or_insert_default().note_unknown();
    }

    /// Returns what was not written so far; `None` while frames are being written.
    pub(super) fn unwritten(&self) -> Option<Unwritten> {
        let backlog = self.look();
        if backlog.messages as usize > backlog.frames.iter().map(Frame::messages).sum() {
            return None;
        }
        let queued = backlog.unwritten(0, backlog.offset as usize);
        Some(queued.followed_by(backlog.lost.as_deref().cloned().unwrap_or_default()))
    }

    /// `alone` says whether a frame that was never queued is being written.
    pub(super) fn close(&mut self, reason: CloseReason, close: Frame, alone: bool) {
        self.closing = Some(reason);
        if reason.drops_queue() {
            // Frames that are being written are not in the queue. The writer drops those that it has not begun.
            let backlog = self.backlog.get_or_insert_default();
            let queued: usize = backlog.frames.iter().map(Frame::messages).sum();
            self.dropping = alone || backlog.messages as usize > queued;
            // The offset is that of a frame which its writer has taken, if there is one.
            let offset = if self.dropping { 0 } else { backlog.offset as usize };
            backlog.drop_from(usize::from(offset > 0), offset);
        }
        self.enqueue(close);
    }

    /// Puts back the frames that the writer had taken and did not finish.
    pub(super) fn put_back(&mut self, frames: VecDeque<Frame>, offset: usize, taken: usize, finished: usize) {
        let dropping = std::mem::take(&mut self.dropping);
        let backlog = self.backlog();
        let mut since = std::mem::replace(&mut backlog.frames, frames);
        backlog.offset = offset as u32;
        backlog.messages -= finished as u32;
        backlog.bytes -= taken;
        if dropping {
            backlog.drop_from(usize::from(offset > 0), offset);
        }
        if !since.is_empty() {
            backlog.frames.append(&mut since);
        }
    }

    /// Drops all frames, because the socket failed.
    pub(super) fn clear(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            backlog.note_lost(0, backlog.offset as usize);
            backlog.frames.clear();
            (backlog.messages, backlog.bytes, backlog.offset) = (0, 0, 0);
        }
    }

    /// Frees memory beyond what an idle outbox keeps.
    pub(super) fn shrink(&mut self, budget: &Budget) {
        let kept = budget.kept_bytes.load(Relaxed) / size_of::<Frame>();
        if self.look().frames.capacity() > kept {
            if kept == 0 { self.trim() } else { self.backlog().frames.shrink_to(kept) }
        }
    }

    /// Frees the memory of an empty queue.
    pub(super) fn trim(&mut self) {
        if self.messages() == 0 && self.counted() == 0 && self.look().lost.is_none() {
            self.backlog = None;
        }
    }

    /// Tells the budget how many bytes wait in this phase.
    pub(super) fn recount(&mut self, phase: Phase, budget: &Budget) {
        let Some(backlog) = &mut self.backlog else { return };
        let counts = matches!(phase, Phase::Waiting | Phase::Held);
        let now = if counts { backlog.bytes } else { 0 };
        budget.recount(backlog.counted, now);
        backlog.counted = now;
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
