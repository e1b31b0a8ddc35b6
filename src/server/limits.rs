//! Limits for one address, one subject and one connection: counts, which are given back when a connection ends, and
//! rates.
//!
//! A limit that is off costs no memory. Each rate is kept as one timestamp (the generic cell rate algorithm): every
//! message that is accepted advances it by the cost of the message, and it may run ahead of the clock by the burst.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{AcqRel, Relaxed},
};
use std::time::Duration;

use super::rejection::Rejection;
use tokio::sync::Notify;

use crate::config::LimitSettings;
use crate::message::Rates;
use crate::sync::{Sharded, lock};

/// Parts of each map, so that handshakes on different cores seldom wait for each other.
const SHARDS: usize = 16;

/// Entries of a part before expired ones are looked for.
const SWEEP: usize = 64;

/// The burst: one second's worth of the rate.
const BURST: Nanoseconds = 1_000_000_000;

/// The excess over its rate after which a connection is closed: five seconds' worth of the rate.
const TOLERATED: Nanoseconds = 5_000_000_000;

/// The time without anything over the rate after which earlier excess is forgiven.
const FORGIVEN: Nanoseconds = 1_000_000_000;

/// Nanoseconds since the server's start, by the monotonic clock.
type Nanoseconds = u64;

/// What a limit per address counts: one IPv4 address, or the /64 that one IPv6 customer has at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AddressKey(IpAddr);

impl AddressKey {
    /// `None` if the address is unknown: all clients of a proxy on a Unix socket that names none would share one
    /// limit.
    pub(super) fn of(address: IpAddr) -> Option<AddressKey> {
        let address = match address.to_canonical() {
            address if address.is_unspecified() => return None,
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
            v4 => v4,
        };
        Some(AddressKey(address))
    }
}

/// Numbers of connections. An entry is removed with its last connection.
type Counts<K> = Sharded<K, usize, SHARDS>;

impl<K: Hash + Eq + Clone> Counts<K> {
    fn take(&self, key: &K, max: usize) -> bool {
        let mut counts = lock(self.shard(key));
        let count = counts.get(key).copied().unwrap_or(0);
        if count < max {
            counts.insert(key.clone(), count + 1);
        }
        count < max
    }

    fn give_back(&self, key: &K) {
        let mut counts = lock(self.shard(key));
        match counts.get_mut(key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(key)),
        }
        if counts.len() < counts.capacity() / 8 {
            let room = counts.len() * 2;
            counts.shrink_to(room);
        }
    }
}

/// The counts of all connections, and the rates of all addresses.
#[derive(Default)]
pub(super) struct Limits {
    connections: AtomicUsize,
    /// Notified when a connection has ended.
    ended: Notify,
    addresses: Counts<AddressKey>,
    subjects: Counts<Box<str>>,
    handshakes: Sharded<AddressKey, Nanoseconds, SHARDS>,
    posts: Sharded<PostKey, Rate, SHARDS>,
}

/// What the rate of messages that are posted counts: all those of a subject, or of an address if they have none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum PostKey {
    Subject(Box<str>),
    Address(AddressKey),
}

impl Limits {
    /// Returns the number of connections.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Counts one more connection, unless there are `max` already.
    pub(super) fn add_connection(&self, max: usize) -> bool {
        let add = |count| (count < max).then_some(count + 1);
        self.connections.fetch_update(AcqRel, Relaxed, add).is_ok()
    }

    /// Counts one connection less.
    pub(super) fn remove_connection(&self) {
        self.connections.fetch_sub(1, AcqRel);
        self.ended.notify_one();
    }

    /// Waits until there is no connection.
    pub(super) async fn none_connected(&self) {
        loop {
            let ended = self.ended.notified();
            if self.connections() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Returns how many addresses and subjects are counted now.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.addresses.len(), self.subjects.len())
    }

    /// Counts an attempt to connect.
    ///
    /// # Errors
    /// The address exceeds `[limits] handshakes_per_second`.
    pub(super) fn handshake(
        &self,
        address: IpAddr,
        limits: &LimitSettings,
        now: Duration,
    ) -> Result<(), Rejection> {
        let rate = limits.handshakes_per_second;
        if rate == 0 {
            return Ok(());
        }
        let Some(key) = AddressKey::of(address) else { return Ok(()) };
        let now = nanoseconds(now);
        let mut shard = lock(self.handshakes.shard(&key));
        let mut paid = shard.get(&key).copied().unwrap_or(0);
        if !take(&mut paid, now, BURST / rate as u64) {
            return Err(Rejection::Handshakes(rate));
        }
        // An entry in the past is the same as no entry.
        if shard.len() >= SWEEP && shard.len() == shard.capacity() {
            shard.retain(|_, paid| *paid > now);
        }
        shard.insert(key, paid);
        Ok(())
    }
}

impl Limits {
    /// Counts a posted message of this many bytes. Returns false if its subject, or its address if it has none, exceeds the
    /// rate of one connection, so that it must not be published.
    pub(super) fn post(
        &self,
        subject: Option<&str>,
        address: IpAddr,
        bytes: usize,
        limits: &LimitSettings,
        now: Duration,
    ) -> bool {
        if limits.messages_per_second == 0 && limits.bytes_per_second == 0 {
            return true;
        }
        let key = match subject {
            Some(subject) => Some(PostKey::Subject(subject.into())),
            None => AddressKey::of(address).map(PostKey::Address),
        };
        let Some(key) = key else { return true };
        let mut shard = lock(self.posts.shard(&key));
        // A rate without anything to pay is the same as no entry.
        if shard.len() >= SWEEP && shard.len() == shard.capacity() {
            shard.retain(|_, rate| !rate.is_paid(nanoseconds(now)));
        }
        shard.entry(key).or_default().judge(bytes, limits, now) == Verdict::Taken
    }
}

/// The counts per address and per subject that one connection holds. Released when dropped.
#[derive(Default)]
pub(super) struct Seat(Option<Box<Counted>>);

struct Counted {
    limits: Arc<Limits>,
    address: Option<AddressKey>,
    subject: Option<Box<str>>,
}

impl Seat {
    /// Returns whether it holds no count.
    pub(super) fn is_free(&self) -> bool {
        self.0.is_none()
    }

    /// Counts a connection from this address.
    ///
    /// # Errors
    /// There are `[limits] connections_per_address` already.
    pub(super) fn of_address(
        limits: &Arc<Limits>,
        address: IpAddr,
        settings: &LimitSettings,
    ) -> Result<Seat, Rejection> {
        let max = settings.connections_per_address;
        let Some(key) = Some(address).filter(|_| max > 0).and_then(AddressKey::of) else {
            return Ok(Seat::default());
        };
        if !limits.addresses.take(&key, max) {
            return Err(Rejection::PerAddress(max));
        }
        let counted = Counted { limits: limits.clone(), address: Some(key), subject: None };
        Ok(Seat(Some(Box::new(counted))))
    }

    /// Counts the connection for this subject and no longer for another. A connection without a subject has no such
    /// limit.
    ///
    /// # Errors
    /// There are `[limits] connections_per_subject` already. The connection stays counted as before.
    pub(super) fn set_subject(
        &mut self,
        limits: &Arc<Limits>,
        subject: Option<&str>,
        settings: &LimitSettings,
    ) -> Result<(), Rejection> {
        let max = settings.connections_per_subject;
        let counted = self.0.as_deref().and_then(|counted| counted.subject.as_deref());
        let wanted = subject.filter(|_| max > 0);
        if wanted == counted {
            return Ok(());
        }
        let wanted: Option<Box<str>> = wanted.map(Box::from);
        if wanted.as_ref().is_some_and(|subject| !limits.subjects.take(subject, max)) {
            return Err(Rejection::PerSubject(max));
        }
        let new = || Box::new(Counted { limits: limits.clone(), address: None, subject: None });
        let counted = self.0.get_or_insert_with(new);
        let before = std::mem::replace(&mut counted.subject, wanted);
        before.iter().for_each(|subject| limits.subjects.give_back(subject));
        Ok(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let limits = &self.limits;
        self.address.iter().for_each(|key| limits.addresses.give_back(key));
        self.subject.iter().for_each(|subject| limits.subjects.give_back(subject));
    }
}

/// Returns the rates that a connection is told.
pub(super) fn rates_of(limits: &LimitSettings) -> Rates {
    Rates { messages: limits.messages_per_second, bytes: limits.bytes_per_second }
}

/// What one connection has sent recently. It exists only while a rate is set.
#[derive(Debug, Default)]
pub(super) struct Rate {
    messages: Nanoseconds,
    bytes: Nanoseconds,
    /// What was rejected since the last quiet time, as the time that its rate takes for it.
    over: Nanoseconds,
    refused: Option<Nanoseconds>,
}

/// The verdict on a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is within the rate.
    Taken,
    /// It is over the rate. The first of a burst is answered, the others are not.
    Refused {
        /// Whether to tell the client.
        answer: bool,
    },
    /// The excess lasted too long: the connection must be closed.
    Close,
}

impl Rate {
    /// Returns whether it would judge the next message as a new one does.
    fn is_paid(&self, now: Nanoseconds) -> bool {
        self.messages <= now && self.bytes <= now
    }

    /// Judges a message, ping or pong of this many bytes.
    pub(super) fn judge(&mut self, bytes: usize, limits: &LimitSettings, now: Duration) -> Verdict {
        let now = nanoseconds(now);
        let cost = |amount: usize, rate: usize| match rate {
            0 => 0,
            rate => (amount as u64).saturating_mul(BURST) / rate as u64,
        };
        let message = cost(1, limits.messages_per_second);
        let size = cost(bytes, limits.bytes_per_second);
        let (mut messages_paid, mut bytes_paid) = (self.messages, self.bytes);
        if take(&mut messages_paid, now, message) && take(&mut bytes_paid, now, size) {
            (self.messages, self.bytes) = (messages_paid, bytes_paid);
            return Verdict::Taken;
        }
        let first = self.refused.is_none_or(|at| now.saturating_sub(at) > FORGIVEN);
        if first {
            self.over = 0;
        }
        self.refused = Some(now);
        self.over = self.over.saturating_add(message.max(size));
        if self.over > TOLERATED { Verdict::Close } else { Verdict::Refused { answer: first } }
    }
}

/// Takes `cost` if the time that is paid for stays within [`BURST`] of the clock. After a quiet time one thing of any
/// size is taken.
fn take(paid: &mut Nanoseconds, now: Nanoseconds, cost: Nanoseconds) -> bool {
    let from = (*paid).max(now);
    if cost == 0 {
        return true;
    }
    if from > now && from - now + cost > BURST {
        return false;
    }
    *paid = from + cost;
    true
}

fn nanoseconds(now: Duration) -> Nanoseconds {
    now.as_nanos() as Nanoseconds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides, load};

    const SECOND: Duration = Duration::from_secs(1);

    fn limits(set: &[&str]) -> LimitSettings {
        let overrides = Overrides {
            set: set.iter().map(|pair| format!("limits.{pair}")).collect(),
            ..Overrides::default()
        };
        let environment = Environment::new([("SECRET", "a secret of more than thirty-two characters")]);
        load(&overrides, &environment).unwrap().settings.limits
    }

    #[test]
    fn an_address_has_its_handshakes_a_second_and_others_have_theirs() {
        let (all, limits) = (Limits::default(), limits(&["handshakes_per_second=10"]));
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap());
        let tries = |address, now: Duration| {
            (0..100).filter(|_| all.handshake(address, &limits, now).is_ok()).count()
        };
        assert_eq!((tries(one, SECOND), tries(other, SECOND)), (10, 10));
        assert_eq!(tries(one, SECOND * 3 / 2), 5, "half of them are there again");
        assert_eq!(tries(one, SECOND * 60), 10, "no more than a second's worth at once");
    }

    #[test]
    fn a_v6_customer_is_one_address_however_many_it_has() {
        let of = |text: &str| AddressKey::of(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }

    #[test]
    fn clients_without_an_address_have_no_limit_per_address() {
        let (all, limits) = (Limits::default(), limits(&["handshakes_per_second=1"]));
        for address in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
            let address = address.parse().unwrap();
            assert_eq!((0..100).filter(|_| all.handshake(address, &limits, SECOND).is_ok()).count(), 100);
        }
        assert_eq!(all.handshakes.len(), 0);
    }

    #[test]
    fn addresses_that_came_once_are_forgotten() {
        let (all, limits) = (Limits::default(), limits(&["handshakes_per_second=1"]));
        for number in 0..200_000_u32 {
            let address = std::net::Ipv4Addr::from_bits(number).into();
            all.handshake(address, &limits, SECOND * (1 + number / 1000)).unwrap();
        }
        assert!(all.handshakes.len() < 10_000, "{}", all.handshakes.len());
    }

    #[test]
    fn a_client_over_the_rate_is_told_once_and_closed_if_it_continues() {
        let limits = limits(&["messages_per_second=10"]);
        let mut rate = Rate::default();
        for _ in 0..10 {
            assert_eq!(rate.judge(1, &limits, SECOND), Verdict::Taken);
        }
        assert_eq!(rate.judge(1, &limits, SECOND), Verdict::Refused { answer: true });
        for _ in 0..49 {
            assert_eq!(rate.judge(1, &limits, SECOND), Verdict::Refused { answer: false });
        }
        assert_eq!(rate.judge(1, &limits, SECOND), Verdict::Close, "five seconds' worth are tolerated");

        let mut rate = Rate::default();
        for second in 1..100 {
            let now = SECOND * second * 3;
            let taken = (0..40).filter(|_| rate.judge(1, &limits, now) == Verdict::Taken).count();
            assert_eq!(taken, 10, "a quiet second forgives");
        }
    }

    #[test]
    fn bytes_have_a_rate_of_their_own_and_one_message_of_any_size_passes() {
        let limits = limits(&["bytes_per_second=1000"]);
        let mut rate = Rate::default();
        assert_eq!(rate.judge(4000, &limits, SECOND), Verdict::Taken);
        assert_eq!(rate.judge(1, &limits, SECOND * 2), Verdict::Refused { answer: true });
        assert_eq!(rate.judge(500, &limits, SECOND * 6), Verdict::Taken);
        assert_eq!(rate.judge(500, &limits, SECOND * 6), Verdict::Taken);
        assert_eq!(rate.judge(1, &limits, SECOND * 6), Verdict::Refused { answer: true });
    }
}
