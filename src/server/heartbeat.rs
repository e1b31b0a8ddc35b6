//! Watches all connections by the clock: heartbeats, expiry of tokens, and the memory of queues and histories. One
//! task does it, without a timer for each connection.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Server, unix_now};
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::hub::{Connection, FlushList, Pulse, Transport};
use crate::outbox::Seconds;
use crate::sync::lock;
use crate::token::UnixSeconds;

/// One-second slots of the heartbeat wheel. A connection that is due later is looked at once a turn, and filed again.
const SLOTS: usize = 128;

/// Connections looked at before other tasks run.
const SLICE: usize = 256;

/// The daemon was held up if this many seconds pass without a tick, as in a paused container.
const STALL: Seconds = 2;

/// Which connections must be looked at when.
pub(crate) struct Heartbeats {
    wheel: Mutex<Vec<Vec<Uuid>>>,
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
        if let Some(expires) = expires {
            lock(&self.expiries).insert((expires, connection.id()));
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
        let mut expiries = lock(&self.expiries);
        if let Some(before) = before {
            expiries.remove(&(before, connection.id()));
        }
        if let Some(expires) = connection.claims().expires() {
            expiries.insert((expires, connection.id()));
        }
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
        loop {
            tick.tick().await;
            expire(&server).await;
            let now = server.now();
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
        connection.received(0, now);
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
