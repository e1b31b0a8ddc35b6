//! Taking connections that have ended out of the hub, a few at a time.
//!
//! What an end asks for, in channels, limits, log and memory, is many times the work of noticing it. When half of all
//! connections drop at one instant, a newcomer waits until the sockets that stand before its own have been looked at:
//! all ends are noticed first, and what they ask for is done in between.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;

use super::Server;
use super::presence::Departure;
use crate::sync::lock;

/// Departures that are completed before others run and the sockets are looked at: less than half a millisecond.
const PER_TURN: usize = 32;

/// Those who have ended and are still in the hub. Never more than there are connections: each holds its place.
#[derive(Default)]
pub(super) struct Departures(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    departures: VecDeque<Departure>,
    /// A task sees to them.
    served: bool,
}

impl Departures {
    /// Leaves a departure to a task; outside of a runtime, where there is none, completes it at once.
    pub(super) fn add(&self, server: &Arc<Server>, departure: Departure) {
        let Ok(runtime) = Handle::try_current() else { return departure.complete() };
        let mut waiting = lock(&self.0);
        waiting.departures.push_back(departure);
        if !waiting.served {
            waiting.served = true;
            drop(waiting);
            runtime.spawn(complete_all(server.clone()));
        }
    }

    /// Some of those who wait; when there are none, whoever comes next needs another task.
    fn take(&self) -> Option<Vec<Departure>> {
        let mut waiting = lock(&self.0);
        if waiting.departures.is_empty() {
            *waiting = Waiting::default();
            return None;
        }
        let count = waiting.departures.len().min(PER_TURN);
        Some(waiting.departures.drain(..count).collect())
    }
}

async fn complete_all(server: Arc<Server>) {
    loop {
        tokio::task::yield_now().await;
        let Some(departures) = server.departures.take() else { return };
        for departure in departures {
            if catch_unwind(AssertUnwindSafe(|| departure.complete())).is_err() {
                server.counters.panics.fetch_add(1, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::access_key::AccessKey;
    use crate::config::{Environment, Overrides, load};
    use crate::server::presence::{Place, Presence};

    #[tokio::test]
    async fn others_run_while_many_depart() {
        const MANY: usize = 5 * PER_TURN + 1;
        let environment = Environment::new([("SECRET", "a secret of more than thirty-two characters")]);
        let server = Server::new(load(&Overrides::default(), &environment).unwrap().settings, 1024);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let enter = || {
            let Ok(place) = Place::take(&server, &server.live(), address.ip()) else { panic!("no place") };
            Presence::enter(place, address, AccessKey::nobody(), false, &[])
        };
        let present: Vec<Presence> = (0..MANY).map(|_| enter()).collect();
        assert_eq!(server.connected(), MANY);
        drop(present);
        let mut turns = 0;
        let mut before = MANY;
        while before > 0 {
            tokio::task::yield_now().await;
            let now = server.connected();
            assert!(before - now <= PER_TURN, "{before} before another's turn, {now} after it");
            before = now;
            turns += 1;
        }
        assert!(turns >= 6, "{turns}");
        assert_eq!(server.counters.closed.load(Relaxed), MANY as u64);
        // All are gone, and with them the room and the task: the next one needs another.
        while lock(&server.departures.0).served {
            tokio::task::yield_now().await;
        }
        assert_eq!(lock(&server.departures.0).departures.capacity(), 0);
        drop(enter());
        while server.connected() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
