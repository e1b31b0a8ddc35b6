//! One connection: its id and address, its claims, and its outbox.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use uuid::Uuid;

use super::memberships::Memberships;
use super::{Channel, Heartbeat};
use crate::deflate::Window;
use crate::message::ChannelName;
use crate::outbox::{Budget, Outbox, OutboxStats, Seconds};
use crate::sync::{add, lock};
use crate::token::Claims;

/// Some moment before the first connection.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How a connection is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As a WebSocket.
    WebSocket,
    /// As a stream of Server-Sent Events, on which the client sends nothing.
    Events,
}

impl Transport {
    /// All of them, in the order of their numbers.
    pub const ALL: [Transport; 2] = [Transport::WebSocket, Transport::Events];

    /// Returns its name in lists and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Transport::WebSocket => "websocket",
            Transport::Events => "events",
        }
    }
}

/// What a client speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// That of Philote 0.3.1, on a WebSocket.
    Plain,
    /// philote.v1, on a WebSocket.
    V1,
    /// Server-Sent Events.
    Events,
}

/// The address of a client, in 18 bytes that need no alignment: a `SocketAddr` has 32, with a flow and a scope.
struct Address {
    ip: [u8; 16],
    port: [u8; 2],
}

impl Address {
    fn of(address: SocketAddr) -> Address {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Address { ip: ip.octets(), port: address.port().to_ne_bytes() }
    }

    fn get(&self) -> SocketAddr {
        (Ipv6Addr::from(self.ip).to_canonical(), u16::from_ne_bytes(self.port)).into()
    }
}

/// One connection, shared by its task, its channels and the heartbeat.
///
/// The fields keep their order: the outbox begins with what a delivery touches, next to the count of references, and what
/// its own messages touch comes behind the outbox.
#[repr(C)]
pub struct Connection {
    /// Frames that wait for its socket.
    pub outbox: Outbox,
    claims: ArcSwap<Claims>,
    messages_in: AtomicU64,
    bytes_in: AtomicU64,
    received: AtomicU32,
    /// Returns when its last message arrived, or when it connected.
    spoke: AtomicU32,
    id: Uuid,
    pub(super) memberships: Mutex<Memberships>,
    /// Nanoseconds from [`EPOCH`], which take half the room of an `Instant`.
    opened: u64,
    /// Whether its client is alive, as the heartbeat knows it.
    pub(crate) heartbeat: Mutex<Heartbeat>,
    address: Address,
    protocol: Protocol,
    /// It gets no messages any more, see [`super::Hub::detach`].
    pub(super) detached: AtomicBool,
}

/// Counters of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionStats {
    /// Messages received.
    pub messages_in: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// The counters of its outbox.
    pub out: OutboxStats,
}

/// Connections are equal if their ids are.
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

/// A connection as the key of a map, found by its id, so that the map keeps no ids of its own.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct ById(pub(super) Arc<Connection>);

/// The hash of a connection's id: a half of it, which is random but for the bits that the other half makes random. A costlier
/// hash gains nothing, because clients do not choose ids.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for half in bytes.as_chunks().0 {
            self.0 ^= u64::from_ne_bytes(*half);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Borrow<Uuid> for ById {
    fn borrow(&self) -> &Uuid {
        &self.0.id
    }
}

impl Connection {
    /// Makes a connection that has presented a token and not yet entered the hub.
    pub fn new(address: SocketAddr, claims: Arc<Claims>, budget: Arc<Budget>, now: Seconds) -> Connection {
        Connection {
            id: Uuid::new_v4(),
            address: Address::of(address),
            protocol: Protocol::Plain,
            opened: EPOCH.elapsed().as_nanos() as u64,
            claims: ArcSwap::new(claims),
            outbox: Outbox::new(budget),
            memberships: Mutex::default(),
            received: AtomicU32::new(now),
            heartbeat: Mutex::default(),
            spoke: AtomicU32::new(now),
            messages_in: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            detached: AtomicBool::new(false),
        }
    }

    /// Has it send and receive compressed messages, with this window for those that are sent.
    #[must_use]
    pub(crate) fn with_window(mut self, window: Option<Window>) -> Connection {
        self.outbox.window = window;
        self
    }

    /// Returns whether it has negotiated compression.
    pub fn compresses(&self) -> bool {
        self.outbox.window.is_some()
    }

    /// Has it served in this way; `v1` says whether the client of a WebSocket speaks philote.v1.
    #[must_use]
    pub(crate) fn over(self, transport: Transport, v1: bool) -> Connection {
        let protocol = match transport {
            Transport::Events => Protocol::Events,
            Transport::WebSocket if v1 => Protocol::V1,
            Transport::WebSocket => Protocol::Plain,
        };
        Connection { protocol, ..self }
    }

    /// Returns whether the client of a WebSocket speaks philote.v1.
    pub(crate) fn speaks_v1(&self) -> bool {
        self.protocol == Protocol::V1
    }

    /// Returns how it is served.
    pub fn transport(&self) -> Transport {
        if self.protocol == Protocol::Events { Transport::Events } else { Transport::WebSocket }
    }

    /// Returns its id, a random UUID, which is the `issuer` of its messages.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Returns the client's address.
    pub fn address(&self) -> SocketAddr {
        self.address.get()
    }

    /// Returns how long ago it presented its token.
    pub fn age(&self) -> Duration {
        EPOCH.elapsed() - Duration::from_nanos(self.opened)
    }

    /// Returns its claims, which may be replaced at any time.
    pub fn claims(&self) -> Guard<Arc<Claims>> {
        self.claims.load()
    }

    pub(super) fn set_claims(&self, claims: Arc<Claims>) {
        self.claims.store(claims);
    }

    /// Returns whether it gets no messages any more, see [`super::Hub::detach`].
    pub fn is_detached(&self) -> bool {
        self.detached.load(Relaxed)
    }

    /// Returns whether it reads this channel now.
    pub fn reads(&self, channel: &str) -> bool {
        lock(&self.memberships).get(channel).is_some()
    }

    /// Calls `visit` with the name of each channel that it reads now, in order, and whether its client entered it.
    pub fn each_channel(&self, mut visit: impl FnMut(&ChannelName, bool)) {
        for membership in lock(&self.memberships).as_slice() {
            visit(&membership.channel.name, membership.entered);
        }
    }

    /// Counts bytes that arrived, which also show that the client is alive. Only the connection's own task calls it.
    pub fn received(&self, bytes: usize, now: Seconds) {
        add(&self.bytes_in, bytes);
        self.heard(now);
    }

    /// Notes that the client is alive.
    pub(crate) fn heard(&self, now: Seconds) {
        self.received.store(now, Relaxed);
    }

    /// Counts messages that arrived with one read. Only the connection's own task calls it.
    pub fn received_messages(&self, messages: usize, now: Seconds) {
        if messages > 0 {
            add(&self.messages_in, messages);
            self.spoke.store(now, Relaxed);
        }
    }

    /// Returns a channel that it reads.
    pub(super) fn channel(&self, name: &str) -> Option<Arc<Channel>> {
        lock(&self.memberships).get(name).map(|membership| membership.channel.clone())
    }

    /// Returns when its last message arrived, or when it connected.
    pub fn last_message(&self) -> Seconds {
        self.spoke.load(Relaxed)
    }

    /// Returns when bytes last arrived.
    pub fn last_received(&self) -> Seconds {
        self.received.load(Relaxed)
    }

    /// Returns its counters.
    pub fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            messages_in: self.messages_in.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            out: self.outbox.stats(),
        }
    }
}
