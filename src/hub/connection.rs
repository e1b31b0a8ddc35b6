//! What the daemon knows of one connection: who it is, what it may do, what waits for it.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use uuid::Uuid;

use super::{Channel, Heartbeat};
use crate::outbox::{Budget, Outbox, OutboxStats, Seconds};
use crate::token::Claims;

/// One connection, shared by its task, the channels it reads and those who look after it.
pub struct Connection {
    id: Uuid,
    address: SocketAddr,
    opened: Instant,
    access: ArcSwap<Claims>,
    /// What waits for it.
    pub outbox: Outbox,
    pub(super) memberships: Mutex<Box<[Arc<Channel>]>>,
    received: AtomicU32,
    /// Whether it lives, for the one that looks after all.
    pub(crate) heartbeat: Mutex<Heartbeat>,
    /// When its last message came in, or it connected.
    spoke: AtomicU32,
    messages_in: AtomicU64,
    bytes_in: AtomicU64,
}

/// What a connection has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionStats {
    /// Messages received.
    pub messages_in: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// What went out, and what waits.
    pub out: OutboxStats,
}

/// Connections are told apart by their ids.
impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Connection {}

impl Hash for Connection {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl Connection {
    /// A connection that has shown a token and not yet entered the hub.
    pub fn new(address: SocketAddr, access: Arc<Claims>, budget: Arc<Budget>, now: Seconds) -> Connection {
        Connection {
            id: Uuid::new_v4(),
            address,
            opened: Instant::now(),
            access: ArcSwap::new(access),
            outbox: Outbox::new(budget),
            memberships: Mutex::default(),
            received: AtomicU32::new(now),
            heartbeat: Mutex::default(),
            spoke: AtomicU32::new(now),
            messages_in: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
        }
    }

    /// Its name: a random UUID, `issuer` of all that it publishes.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The peer's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// When it showed its token.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// What its token lets it do.
    pub fn access(&self) -> Guard<Arc<Claims>> {
        self.access.load()
    }

    pub(super) fn set_access(&self, access: Arc<Claims>) {
        self.access.store(access);
    }

    /// Notes bytes that arrived, and the sign of life in them.
    pub fn received(&self, bytes: usize, now: Seconds) {
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
        self.received.store(now, Relaxed);
    }

    /// Notes messages that arrived with one read.
    pub fn received_messages(&self, messages: u64, now: Seconds) {
        if messages > 0 {
            self.messages_in.fetch_add(messages, Relaxed);
            self.spoke.store(now, Relaxed);
        }
    }

    /// When its last message came in, or it connected.
    pub fn last_message(&self) -> Seconds {
        self.spoke.load(Relaxed)
    }

    /// When bytes last arrived.
    pub fn last_received(&self) -> Seconds {
        self.received.load(Relaxed)
    }

    /// What it has done so far.
    pub fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            messages_in: self.messages_in.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            out: self.outbox.stats(),
        }
    }
}
