//! A slot: one of the `max_connections`, with the counts per address and per subject that its connection holds.

use std::sync::Arc;

use super::Server;
use super::limits::Seat;

/// The slot of one connection. Released when dropped.
pub(crate) struct Slot {
    pub(crate) server: Arc<Server>,
    /// False once the slot has moved elsewhere.
    held: bool,
    /// The counts per address and per subject.
    pub(crate) seat: Seat,
}

impl Slot {
    /// Takes a slot; `None` if there are `max` connections already.
    pub(crate) fn take(server: &Arc<Server>, max: usize) -> Option<Slot> {
        server.limits.add_connection(max).then(|| Slot {
            server: server.clone(),
            held: true,
            seat: Seat::default(),
        })
    }

    /// Moves the slot out of a value that is being dropped.
    pub(crate) fn move_out(&mut self) -> Slot {
        let seat = std::mem::take(&mut self.seat);
        Slot { server: self.server.clone(), held: std::mem::take(&mut self.held), seat }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.held {
            self.server.limits.remove_connection();
        }
    }
}
