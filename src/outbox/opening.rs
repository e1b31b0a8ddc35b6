//! How an outbox begins: it has no socket, then has not been polled, and then holds nothing back.

use super::Outbox;
use super::phase::Phase;
use super::queue::Queue;
use super::socket::Socket;
use crate::sync::lock;

impl Outbox {
    /// Gives it its socket. It still holds all frames back, until the connection's task polls it.
    pub(crate) fn connect(&self, socket: impl Into<Socket>) {
        let _is_first = self.socket.set(socket.into());
    }

    /// Gives it its socket, and opens it before the connection's task polls it.
    pub fn attach(&self, socket: impl Into<Socket>) {
        self.connect(socket);
        self.open(&mut lock(&self.queue));
    }

    /// Holds frames back no longer, if it has its socket. The connection's task writes those that were held back.
    pub(super) fn open(&self, queue: &mut Queue) {
        if self.phase.is(Phase::Held) && self.socket.get().is_some() {
            let idle = queue.is_empty() && queue.closing.is_none();
            let phase = if idle { Phase::Idle } else { Phase::Waiting };
            self.enter(phase, queue);
        }
    }
}
