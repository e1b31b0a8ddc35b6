//! What one address, one subject and one connection may use: counts that are freed with their connection, and rates.
//!
//! Nothing here is kept for a limit that is off. A rate is kept as one number, the time at which what was taken so far
//! is paid for (the generic cell rate algorithm): so much ahead of the clock is what may come at once.

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

/// Entries of a part before those that mean nothing any more are looked for.
const SWEEP: usize = 64;

/// What may come at once, in a time's worth of the rate.
const BURST: Nanoseconds = 1_000_000_000;

/// What a connection may send beyond its rate before it is closed, in a time's worth of the rate.
const TOLERATED: Nanoseconds = 5_000_000_000;

/// After so long without anything over the rate, what was before is forgiven.
const FORGIVEN: Nanoseconds = 1_000_000_000;

/// Since the server's start, by the monotonic clock.
type Nanoseconds = u64;

/// Who shares a limit per address: one IPv4 address, or the /64 that one IPv6 customer has at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin(IpAddr);

impl Origin {
    /// `None` where nobody knows the address: all whom a proxy on a Unix socket does not name would be one client.
    pub(super) fn of(address: IpAddr) -> Option<Origin> {
        let address = match address.to_canonical() {
            address if address.is_unspecified() => return None,
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
            v4 => v4,
        };
        Some(Origin(address))
    }
}

/// Connections by who they belong to. An entry goes with its last connection.
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
    addresses: Counts<Origin>,
    subjects: Counts<Box<str>>,
    handshakes: Sharded<Origin, Nanoseconds, SHARDS>,
}

impl Limits {
    /// How many connections there are.
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

    /// How many addresses and subjects are counted at the moment.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.addresses.len(), self.subjects.len())
    }

    /// Counts an attempt to come in.
    ///
    /// # Errors
    /// More of them than `[limits] handshakes_per_second` from this address.
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
        let Some(origin) = Origin::of(address) else { return Ok(()) };
        let now = nanoseconds(now);
        let mut shard = lock(self.handshakes.shard(&origin));
        let mut paid = shard.get(&origin).copied().unwrap_or(0);
        if !take(&mut paid, now, BURST / rate as u64) {
            return Err(Rejection::Handshakes(rate));
        }
        // An entry that the clock has passed is as good as none.
        if shard.len() >= SWEEP && shard.len() == shard.capacity() {
            shard.retain(|_, paid| *paid > now);
        }
        shard.insert(origin, paid);
        Ok(())
    }
}

/// A connection's part of the counts, given back when dropped.
#[derive(Default)]
pub(super) struct Seat(Option<Box<Counted>>);

struct Counted {
    limits: Arc<Limits>,
    address: Option<Origin>,
    subject: Option<Box<str>>,
}

impl Seat {
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
        let Some(origin) = Some(address).filter(|_| max > 0).and_then(Origin::of) else {
            return Ok(Seat::default());
        };
        if !limits.addresses.take(&origin, max) {
            return Err(Rejection::PerAddress(max));
        }
        let counted = Counted { limits: limits.clone(), address: Some(origin), subject: None };
        Ok(Seat(Some(Box::new(counted))))
    }

    /// Counts it as this subject's, and no more as another's. Who has no name has no limit of this kind.
    ///
    /// # Errors
    /// There are `[limits] connections_per_subject` already; whose it was counted as stays as it was.
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
        self.address.iter().for_each(|origin| limits.addresses.give_back(origin));
        self.subject.iter().for_each(|subject| limits.subjects.give_back(subject));
    }
}

/// The rates that a connection is told.
pub(super) fn rates_of(limits: &LimitSettings) -> Rates {
    Rates { messages: limits.messages_per_second, bytes: limits.bytes_per_second }
}

/// What one connection has sent of late. It has one only while a rate is set.
#[derive(Debug, Default)]
pub(super) struct Rate {
    messages: Nanoseconds,
    bytes: Nanoseconds,
    /// What was refused since all was well, in a time's worth of the rate.
    over: Nanoseconds,
    refused: Option<Nanoseconds>,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is within the rate.
    Taken,
    /// It is over the rate. The first of a burst is answered, the others are not.
    Refused {
        /// Whether to say so.
        answer: bool,
    },
    /// It was too much for too long: the connection is closed.
    Close,
}

impl Rate {
    /// Judges a message, or a ping or pong, of so many bytes.
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

/// Takes `cost` if the time that is paid for stays within [`BURST`] of the clock; of whoever was quiet long enough, one
/// thing of any size.
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
        let of = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }

    #[test]
    fn who_has_no_address_has_no_limit_per_address() {
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
    fn what_is_over_the_rate_is_answered_once_and_closed_when_it_goes_on() {
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
