//! The outboxes whose writing a publisher has promised.

use std::sync::Arc;

use super::Connection;

/// Outboxes that a publish found idle: whoever holds the list must write them.
///
/// Dropped with something in it, as a panic does, it hands each promise to the connection's own task, so that no
/// reader waits for ever.
#[derive(Default)]
pub struct FlushList(Vec<Arc<Connection>>);

impl FlushList {
    /// Room for outboxes that is given back after use.
    const KEPT: usize = 4096;

    /// An empty list.
    pub const fn new() -> FlushList {
        FlushList(Vec::new())
    }

    /// Gives back room that only a very large channel needed.
    pub fn trim(&mut self) {
        self.0.shrink_to(Self::KEPT);
    }

    pub(super) fn add(&mut self, connection: &Arc<Connection>) {
        self.0.push(connection.clone());
    }

    /// Takes over a promise from a push outside of a publish.
    pub fn promised(&mut self, connection: &Arc<Connection>) {
        self.add(connection);
    }

    /// How many outboxes wait to be written.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes all of them, one system call each where sockets have room.
    pub fn flush(&mut self) {
        while let Some(connection) = self.0.pop() {
            connection.outbox.flush();
        }
    }

    /// Moves at most `count` of them to another list.
    pub fn move_to(&mut self, other: &mut FlushList, count: usize) {
        other.0.extend(self.0.drain(self.0.len().saturating_sub(count)..));
    }
}

impl Drop for FlushList {
    fn drop(&mut self) {
        for connection in &self.0 {
            connection.outbox.hand_over();
        }
    }
}
