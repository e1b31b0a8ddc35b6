//! How an outbox ends: by a Close after what is queued, without one, or because the socket failed.

use std::sync::MutexGuard;

use super::{Outbox, Phase, Queue, Sink, unlock_and_wake};
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::sync::lock;

impl Outbox {
    /// Closes the connection for this reason. Its task writes the queued frames, then the Close.
    ///
    /// Returns false, and keeps the first reason, if it was closing already.
    pub fn close(&self, reason: CloseReason) -> bool {
        self.close_with(reason, None)
    }

    /// Ends the connection without a Close, as a broken network does. Returns false if it was closing already.
    pub(crate) fn cut(&self) -> bool {
        let mut queue = lock(&self.queue);
        if queue.closing.is_some() {
            return false;
        }
        self.phase.leave(Phase::Waiting, Phase::Followed);
        queue.broken = true;
        queue.closing = Some(CloseReason::ClientGone);
        unlock_and_wake(queue);
        true
    }

    /// Closes as [`Outbox::close`] does, with a Close frame that answers the client's own.
    pub(crate) fn close_with(&self, reason: CloseReason, answer: Option<Frame>) -> bool {
        let mut queue = lock(&self.queue);
        if queue.closing.is_some() {
            return false;
        }
        let before = self.phase.leave(Phase::Waiting, Phase::Followed);
        let alone = matches!(before, Phase::Alone | Phase::Followed);
        queue.close(reason, answer.unwrap_or_else(|| Frame::close(&reason)), alone);
        queue.recount(self.phase.get(), &self.budget);
        unlock_and_wake(queue);
        true
    }

    /// Returns why the connection is closing, if it is.
    pub fn closing(&self) -> Option<CloseReason> {
        lock(&self.queue).closing
    }

    /// Ends the sending direction of the socket.
    pub fn shutdown(&self) {
        if let Some(socket) = self.socket.get() {
            socket.shutdown();
        }
    }

    /// Drops all frames because the socket failed, and has the task end the connection.
    pub(super) fn break_off(&self, mut queue: MutexGuard<'_, Queue>, reason: CloseReason) {
        queue.broken = true;
        queue.closing.get_or_insert(reason);
        queue.clear();
        self.wait_for_socket(queue);
    }
}
