//! Takes connections that have ended out of the hub, a few at a time.
//!
//! Cleaning up in channels, limits, log and memory takes many times as long as noticing the end. When half of all
//! connections drop at one instant, a new client waits until the sockets before its own have been looked at. So all
//! ends are noticed first, and cleaned up in between.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;

use crate::close::CloseReason;
use crate::hub::Connection;
use crate::server::record;
use crate::server::slot::Slot;
use crate::sync::lock;

/// Ended connections that are cleaned up before other tasks run: less than half a millisecond.
const PER_TURN: usize = 32;

/// Connections that have ended and are still in the hub. Never more than there are connections, because each holds
/// its slot.
#[derive(Default)]
pub(crate) struct Cleanup(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    ended: VecDeque<EndedConnection>,
    /// A task is cleaning up.
    served: bool,
}

impl Cleanup {
    /// Leaves an ended connection to a task. Without a runtime it is cleaned up at once.
    pub(crate) fn add(self: &Arc<Self>, ended: EndedConnection) {
        let Ok(runtime) = Handle::try_current() else { return ended.complete() };
        let mut waiting = lock(&self.0);
        waiting.ended.push_back(ended);
        if !waiting.served {
            waiting.served = true;
            drop(waiting);
            runtime.spawn(complete_all(self.clone()));
        }
    }

    /// Cleans up some of the connections. Returns false if there are none.
    pub(crate) fn complete_some(&self) -> bool {
        let some = lock(&self.0).take();
        let found = !some.is_empty();
        some.into_iter().for_each(EndedConnection::complete);
        found
    }

    /// Calls `ask` until it succeeds or no ended connection is left to clean up, so that nobody is rejected because
    /// of connections that have ended.
    pub(crate) fn make_room<T, E>(&self, mut ask: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        loop {
            match ask() {
                Err(_) if self.complete_some() => {}
                answer => return answer,
            }
        }
    }

    /// Returns whether none are left. The next ended connection then needs another task.
    fn end(&self) -> bool {
        let mut waiting = lock(&self.0);
        let end = waiting.ended.is_empty();
        if end {
            *waiting = Waiting::default();
        }
        end
    }
}

impl Waiting {
    fn take(&mut self) -> Vec<EndedConnection> {
        let count = self.ended.len().min(PER_TURN);
        self.ended.drain(..count).collect()
    }
}

/// A connection that has ended and must be taken out of the hub.
pub(crate) struct EndedConnection {
    connection: Arc<Connection>,
    slot: Slot,
}

impl EndedConnection {
    pub(crate) fn new(connection: Arc<Connection>, slot: Slot) -> EndedConnection {
        EndedConnection { connection, slot }
    }

    /// Takes it out, records why it ended, and frees its slot.
    fn complete(self) {
        let server = &self.slot.server;
        let leave = || {
            server.hub.leave(&self.connection);
            server.heartbeats.forget(&self.connection);
            let reason = self.connection.outbox.closing().unwrap_or(CloseReason::ClientGone);
            record::ended(server, &self.connection, reason);
        };
        if catch_unwind(AssertUnwindSafe(leave)).is_err() {
            server.counters.panics.fetch_add(1, Relaxed);
        }
    }
}

async fn complete_all(cleanup: Arc<Cleanup>) {
    loop {
        tokio::task::yield_now().await;
        cleanup.complete_some();
        if cleanup.end() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use super::*;
    use crate::config::{Environment, Overrides, load};
    use crate::server::Server;
    use crate::server::admission::{Admitted, Shown, admit};
    use crate::server::rejection::Rejected;
    use crate::server::session::guard::ConnectionGuard;
    use crate::token::{NewToken, issue};

    const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn server(settings: &[(&'static str, &'static str)]) -> Arc<Server> {
        let secret = ("SECRET", "a secret of more than thirty-two characters");
        let environment = Environment::new(settings.iter().copied().chain([secret]));
        Server::new(load(&Overrides::default(), &environment).unwrap().settings, 1024)
    }

    fn admitted(server: &Arc<Server>) -> Result<Admitted, Rejected> {
        let token = issue(&NewToken::default(), &server.live().keys).unwrap();
        admit(server, &server.live(), ADDRESS.ip(), &Shown::InFrame(&token), Ok(()))
    }

    fn enter(server: &Arc<Server>) -> ConnectionGuard {
        let Ok(admitted) = admitted(server) else { panic!("no slot") };
        ConnectionGuard::enter(admitted, ADDRESS, false, None, &[])
    }

    #[tokio::test]
    async fn others_run_while_many_are_cleaned_up() {
        const MANY: usize = 5 * PER_TURN + 1;
        let server = server(&[]);
        let guards: Vec<ConnectionGuard> = (0..MANY).map(|_| enter(&server)).collect();
        assert_eq!(server.connected(), MANY);
        drop(guards);
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
        while lock(&server.cleanup.0).served {
            tokio::task::yield_now().await;
        }
        assert_eq!(lock(&server.cleanup.0).ended.capacity(), 0);
        drop(enter(&server));
        while server.connected() > 0 {
            tokio::task::yield_now().await;
        }
    }
    #[tokio::test]
    async fn connections_that_have_ended_count_against_nobody() {
        for setting in ["MAX_CONNECTIONS", "PHILOTE_LIMITS_CONNECTIONS_PER_ADDRESS"] {
            let server = server(&[(setting, "100")]);
            let mut guards: Vec<ConnectionGuard> = (0..100).map(|_| enter(&server)).collect();
            assert!(admitted(&server).is_err());
            guards.truncate(50);
            assert_eq!(server.connected(), 100, "nobody has had a turn to clean up");
            guards.extend((0..50).map(|_| enter(&server)));
            assert!(admitted(&server).is_err());
        }
    }
}
