//! A slot: one of the `max_connections`, with the counts per address and per subject that its connection holds.

use std::sync::Arc;

use super::Server;
use super::limits::Seat;

/// The slot of one connection. Released when dropped.
pub(crate) struct Slot {
    pub(crate) server: Arc<Server>,
    /// False once the slot was taken apart.
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

    /// Leaves the slot to the caller, who must make it again by [`Slot::of_parts`] to release it. The parts take less room.
    pub(crate) fn into_parts(mut self) -> (Arc<Server>, Seat) {
        self.held = false;
        (self.server.clone(), std::mem::take(&mut self.seat))
    }

    /// Makes a slot of its parts.
    pub(crate) fn of_parts(server: Arc<Server>, seat: Seat) -> Slot {
        Slot { server, held: true, seat }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.held {
            self.server.limits.remove_connection();
        }
    }
}
