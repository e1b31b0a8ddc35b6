//! The outboxes that a publisher must write.

use std::sync::Arc;

use super::Connection;
use crate::frame::Frame;
use crate::outbox::Pushed;

/// Outboxes whose promise the holder of the list has to keep.
///
/// Dropped before it is flushed, as after a panic, it passes each promise to the connection's own task, so that no
/// reader waits forever.
#[derive(Default)]
pub struct FlushList {
    promises: Vec<Promise>,
    /// The frames that promises refer to. A frame to many readers is counted as shared once and not once a reader.
    frames: Vec<Frame>,
}

struct Promise {
    connection: Arc<Connection>,
    /// The index of the frame to write first, or `None` if all frames are in the outbox's queue.
    frame: Option<u32>,
}

impl FlushList {
    /// The promises that the list keeps memory for after use.
    const KEPT: usize = 4096;

    /// Makes an empty list.
    pub const fn new() -> FlushList {
        FlushList { promises: Vec::new(), frames: Vec::new() }
    }

    /// Frees memory that only a very large channel needed.
    pub fn trim(&mut self) {
        self.promises.shrink_to(Self::KEPT);
        self.frames.shrink_to(Self::KEPT);
    }

    /// Pushes a frame to a connection, and keeps the promise if the outbox gives one. A call would be 6 % of a delivery in the
    /// loop over a channel's readers, which compilers leave a call if they may choose.
    #[inline(always)]
    pub fn push(&mut self, connection: &Arc<Connection>, frame: &Frame) -> Pushed {
        let pushed = connection.outbox.push(frame);
        match pushed {
            Pushed::First => {
                let frame = Some(self.index(frame));
                self.promises.push(Promise { connection: connection.clone(), frame });
            }
            Pushed::Promised => self.promised(connection),
            Pushed::Queued | Pushed::Closing => {}
        }
        pushed
    }

    /// Adds the promise to flush a connection's outbox.
    pub fn promised(&mut self, connection: &Arc<Connection>) {
        self.promises.push(Promise { connection: connection.clone(), frame: None });
    }

    /// Returns the index of a frame, which is the last one if it is pushed to many readers in turn.
    #[inline]
    fn index(&mut self, frame: &Frame) -> u32 {
        match self.frames.last() {
            Some(last) if last.is(frame) => self.frames.len() as u32 - 1,
            _ => self.index_before_last(frame),
        }
    }

    /// Returns the index of a frame that is not the last one. It is out of line, so that [`FlushList::index`] is not.
    #[inline(never)]
    fn index_before_last(&mut self, frame: &Frame) -> u32 {
        // Readers with and without compression take the last two frames in turn.
        if let [.., before, _] = &self.frames[..]
            && before.is(frame)
        {
            return self.frames.len() as u32 - 2;
        }
        self.frames.push(frame.clone());
        self.frames.len() as u32 - 1
    }

    /// Returns the number of outboxes to write.
    pub fn len(&self) -> usize {
        self.promises.len()
    }

    /// Returns whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.promises.is_empty()
    }

    /// Writes all of them, with one system call each if their sockets have room.
    pub fn flush(&mut self) {
        while let Some(Promise { connection, frame }) = self.promises.pop() {
            match frame {
                Some(frame) => connection.outbox.write(&self.frames[frame as usize]),
                None => connection.outbox.flush(),
            }
        }
        self.frames.clear();
    }

    /// Moves at most `count` of them to another list.
    pub fn move_to(&mut self, other: &mut FlushList, count: usize) {
        let before = other.frames.len() as u32;
        other.frames.extend_from_slice(&self.frames);
        let moved = self.promises.drain(self.promises.len().saturating_sub(count)..);
        other.promises.extend(
            moved.map(|promise| Promise { frame: promise.frame.map(|frame| frame + before), ..promise }),
        );
        if self.promises.is_empty() {
            self.frames.clear();
        }
    }
}

impl Drop for FlushList {
    fn drop(&mut self) {
        for Promise { connection, frame } in &self.promises {
            match frame {
                Some(frame) => connection.outbox.put_off(&self.frames[*frame as usize]),
                None => connection.outbox.hand_over(),
            }
        }
    }
}
