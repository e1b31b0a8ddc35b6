//! Watches all connections by the clock: heartbeats, expiry of tokens, and the memory of queues and histories. One
//! task does it, without a timer for each connection.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Server, unix_now};
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::hub::{Connection, FlushList, Hub, Pulse, Transport};
use crate::outbox::Seconds;
use crate::sync::lock;
use crate::token::UnixSeconds;

/// One-second slots of the heartbeat wheel. A connection that is due later is looked at once a turn, and filed again.
const SLOTS: usize = 128;

/// Connections looked at before other tasks run.
const SLICE: usize = 256;

/// A token is filed by its `exp` when it expires within these seconds. Each connection is looked at within [`SLOTS`] of them, and
/// its token filed then; the rest is for looks that come late, and for a clock that is set forward by up to [`JUMP`].
const SOON: UnixSeconds = 3 * SLOTS as UnixSeconds;

/// The tokens of all connections are looked at again if the clock is set forward by more seconds than this.
const JUMP: UnixSeconds = SLOTS as UnixSeconds;

/// The daemon was held up if this many seconds pass without a tick, as in a paused container.
const STALL: Seconds = 2;

/// Which connections must be looked at when.
pub(crate) struct Heartbeats {
    wheel: Mutex<Vec<Vec<Uuid>>>,
    /// The tokens that expire soon. A set of all would take some 40 bytes for each connection.
    expiries: Mutex<BTreeSet<(UnixSeconds, Uuid)>>,
}

impl Default for Heartbeats {
    fn default() -> Self {
        Heartbeats { wheel: Mutex::new(vec![Vec::new(); SLOTS]), expiries: Mutex::default() }
    }
}

impl Heartbeats {
    /// Begins to watch a connection: its heartbeat, and the `exp` of its token.
    pub(crate) fn watch(&self, connection: &Connection, expires: Option<UnixSeconds>, server: &Server) {
        self.file(connection.id(), server.now() + seconds(server.live().settings.websocket.ping_interval));
        self.file_expiry(connection.id(), expires, unix_now());
    }

    /// Files a token that expires soon.
    fn file_expiry(&self, id: Uuid, expires: Option<UnixSeconds>, now: UnixSeconds) {
        if let Some(expires) = expires.filter(|expires| *expires <= now + SOON) {
            lock(&self.expiries).insert((expires, id));
        }
    }

    /// Forgets a connection's expiry. Its id in the wheel leads to no connection when its slot comes up.
    pub(crate) fn forget(&self, connection: &Connection) {
        if let Some(expires) = connection.claims().expires() {
            lock(&self.expiries).remove(&(expires, connection.id()));
        }
    }

    /// Watches another `exp` of a connection whose claims were replaced already.
    pub(crate) fn refile(&self, connection: &Connection, before: Option<UnixSeconds>) {
        if let Some(before) = before {
            lock(&self.expiries).remove(&(before, connection.id()));
        }
        self.file_expiry(connection.id(), connection.claims().expires(), unix_now());
    }

    /// Files the tokens again that expire soon by a clock that was set forward. `uptime` is the time since the daemon started,
    /// and `started` when that was by the clock as it was before.
    fn follow_clock(&self, hub: &Hub, now: UnixSeconds, uptime: Seconds, started: &mut UnixSeconds) {
        let by_clock = now.saturating_sub(UnixSeconds::from(uptime));
        if by_clock > *started + JUMP {
            hub.each_connection(|connection| {
                self.file_expiry(connection.id(), connection.claims().expires(), now);
            });
        } else if by_clock >= *started {
            return;
        }
        *started = by_clock;
    }

    fn file(&self, id: Uuid, due: Seconds) {
        lock(&self.wheel)[due as usize % SLOTS].push(id);
    }
}

fn seconds(duration: Duration) -> Seconds {
    duration.as_secs().max(1) as Seconds
}

/// Watches the connections of `server` until dropped.
pub(crate) async fn run(server: Arc<Server>) {
    let memory = async {
        loop {
            server.hub.budget().exceeded().await;
            server.hub.relieve();
            tokio::task::yield_now().await;
        }
    };
    let clock = async {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looked_at = server.now();
        let mut was_stalled = false;
        let mut started = unix_now().saturating_sub(looked_at.into());
        loop {
            tick.tick().await;
            let now = server.now();
            server.heartbeats.follow_clock(&server.hub, unix_now(), now, &mut started);
            expire(&server).await;
            // What clients have sent meanwhile is still in their sockets, so no client is judged before it was read.
            was_stalled = !was_stalled && now > looked_at + STALL;
            if was_stalled {
                continue;
            }
            // Every slot since the last look, also after a stall; none twice.
            for slot in (looked_at + 1..=now).take(SLOTS) {
                beat(&server, slot, now).await;
            }
            looked_at = now;
            sweep_history(&server, Instant::now()).await;
        }
    };
    tokio::join!(memory, clock);
}

/// Drops what channels have kept for too long, and the oldest messages if histories hold too many bytes.
async fn sweep_history(server: &Server, now: Instant) {
    for part in server.hub.outdated(now).chunks(SLICE) {
        server.hub.let_go(part, now);
        tokio::task::yield_now().await;
    }
    while server.hub.relieve_history(now, SLICE) {
        tokio::task::yield_now().await;
    }
}

/// Closes the connections whose tokens have expired, at the instant from which on they would be rejected.
async fn expire(server: &Arc<Server>) {
    let leeway = server.live().policy.leeway;
    loop {
        let now = unix_now();
        let expired: Vec<(UnixSeconds, Uuid)> = {
            let mut expiries = lock(&server.heartbeats.expiries);
            let due = expiries.iter().take_while(|(expires, _)| expires + leeway <= now).take(SLICE);
            let due: Vec<_> = due.copied().collect();
            due.iter().for_each(|entry| {
                expiries.remove(entry);
            });
            due
        };
        for (expires, id) in &expired {
            // The client may have shown another token since this entry was taken.
            let connection = server.hub.connection(id);
            if let Some(connection) = connection.filter(|one| one.claims().expires() == Some(*expires)) {
                connection.outbox.close(CloseReason::TokenExpired);
            }
        }
        if expired.len() < SLICE {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Looks at the connections of one slot: pings silent ones, closes those that did not answer, files them again.
async fn beat(server: &Arc<Server>, slot: Seconds, now: Seconds) {
    let due = std::mem::take(&mut lock(&server.heartbeats.wheel)[slot as usize % SLOTS]);
    for slice in due.chunks(SLICE) {
        let mut flush_list = FlushList::default();
        for id in slice {
            if let Some(connection) = server.hub.connection(id) {
                let next = look_at(server, &connection, now, &mut flush_list);
                server.heartbeats.file_expiry(*id, connection.claims().expires(), unix_now());
                server.heartbeats.file(*id, next.clamp(now + 1, now + SLOTS as Seconds - 1));
            }
        }
        flush_list.flush();
        tokio::task::yield_now().await;
    }
}

/// Looks at one connection. Returns when to look again.
fn look_at(
    server: &Server,
    connection: &Arc<Connection>,
    now: Seconds,
    flush_list: &mut FlushList,
) -> Seconds {
    let live = server.live();
    let interval = seconds(live.settings.websocket.ping_interval);
    let patience = seconds(live.settings.websocket.pong_timeout);
    let outbox = &connection.outbox;
    let mut heartbeat = lock(&connection.heartbeat);
    // The client of a stream of events answers no ping, so writing one must do. A client that is gone without a word is
    // noticed by the system, see `Stream::set_user_timeout`.
    let answers = connection.transport() == Transport::WebSocket;
    if !answers && heartbeat.is_ping_written(outbox.progress()) {
        connection.heard(now);
    }
    match heartbeat.look(now, connection.last_received(), outbox.progress(), interval, patience) {
        Pulse::Alive(next) => next,
        Pulse::Unwritten(next) => {
            // A socket tells of room only when much is free, so ask: room that a slow reader made is used at once.
            if outbox.ask_socket() {
                flush_list.promised(connection);
            }
            next
        }
        Pulse::Silent => {
            outbox.trim();
            let written = flush_list.push(connection, &Frame::ping()).is_promised();
            heartbeat.pinged(now, outbox.progress(), written);
            match written {
                true if answers => now + patience,
                true => now + interval,
                false => now + 1,
            }
        }
        Pulse::Dead => {
            outbox.close(CloseReason::NoPong);
            now + interval
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::config::{Environment, Overrides, load};
    use crate::server::admission::{Shown, admit};
    use crate::server::session::guard::ConnectionGuard;
    use crate::token::{NewToken, issue};

    const HOUR: UnixSeconds = 3_600;

    fn server() -> Arc<Server> {
        let environment = Environment::new([("SECRET", "a secret of more than thirty-two characters")]);
        Server::new(load(&Overrides::default(), &environment).unwrap().settings, 1024)
    }

    /// Lets a client in whose token expires then.
    fn enter(server: &Arc<Server>, expires: UnixSeconds) -> ConnectionGuard {
        let token = NewToken { expires: Some(expires), ..NewToken::default() };
        let token = issue(&token, &server.live().keys).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let Ok(admitted) = admit(server, &server.live(), address.ip(), &Shown::InFrame(&token), Ok(()))
        else {
            panic!("it may enter")
        };
        ConnectionGuard::enter(admitted, address, false, None, &[])
    }

    fn filed(server: &Server) -> Vec<(UnixSeconds, Uuid)> {
        lock(&server.heartbeats.expiries).iter().copied().collect()
    }

    #[tokio::test]
    async fn a_token_is_filed_when_it_expires_soon() {
        let (server, now) = (server(), unix_now());
        let far = enter(&server, now + HOUR);
        assert_eq!(filed(&server), [], "each connection would take memory for an hour");
        let soon = enter(&server, now + SOON);
        let entry = (now + SOON, soon.connection.id());
        assert_eq!(filed(&server), [entry]);
        // As if it had been far away when its client entered.
        lock(&server.heartbeats.expiries).clear();
        for slot in 0..SLOTS as Seconds {
            beat(&server, slot, server.now()).await;
        }
        assert_eq!(filed(&server), [entry], "it was filed when its connection was looked at");
        server.heartbeats.forget(&soon.connection);
        assert_eq!(filed(&server), []);
        drop((far, soon));
    }

    #[tokio::test]
    async fn a_clock_that_is_set_forward_ends_tokens_at_once() {
        let (server, now) = (server(), unix_now());
        let far = enter(&server, now + HOUR);
        let entry = (now + HOUR, far.connection.id());
        let mut started = now;
        let mut follow = |clock, uptime| {
            server.heartbeats.follow_clock(&server.hub, clock, uptime, &mut started);
            std::mem::take(&mut *lock(&server.heartbeats.expiries)).into_iter().collect::<Vec<_>>()
        };
        let late = now + HOUR - SOON;
        assert_eq!(
            follow(late, HOUR as Seconds - SOON as Seconds),
            [],
            "time has passed, as the looks have seen"
        );
        assert_eq!(
            follow(late + JUMP, HOUR as Seconds - SOON as Seconds),
            [],
            "a look comes before it expires"
        );
        assert_eq!(follow(now + HOUR + 1, 10), [entry], "it was set forward");
        assert_eq!(follow(now + HOUR + 2, 11), [], "once is enough");
        assert_eq!(follow(now, 12), [], "it was set back");
        assert_eq!(follow(now + HOUR, 13), [entry], "and forward again");
    }
}
