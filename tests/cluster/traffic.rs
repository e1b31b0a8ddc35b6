//! Traffic that goes on while something breaks, and the rules that what was read must keep.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;

use crate::clients::{Follower, Publisher, by_publisher, epoch_of, number_of};
use crate::support::Client;

/// The channel of all traffic.
pub const CHANNEL: &str = "traffic";

/// The text of the message after which every reader stops.
const LAST: &str = "the last 1";

/// How long a follower stays at a node that it does not leave.
const STAYS: Duration = Duration::from_secs(3_600);

/// Lets the traffic continue for a while between two events.
pub fn carry_on() {
    thread::sleep(Duration::from_millis(500));
}

/// Publishers and followers in threads of their own.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<Publisher>>,
    followers: Vec<JoinHandle<Follower>>,
    addresses: Vec<SocketAddr>,
}

/// What everybody sent and read.
pub struct Record {
    pub publishers: BTreeMap<String, Publisher>,
    pub followers: Vec<Follower>,
}

impl Traffic {
    /// Starts a publisher and a follower on each of these nodes; a publisher pauses this long after each message.
    pub fn start(addresses: &[SocketAddr], pause: Duration) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let mut traffic =
            Traffic { stop, publishers: Vec::new(), followers: Vec::new(), addresses: addresses.to_vec() };
        for &address in addresses {
            traffic.follow(Follower::enter(address, CHANNEL), move || (address, STAYS));
        }
        for (number, &address) in addresses.iter().enumerate() {
            let mut publisher = Publisher::enter(address, &format!("p{number}"), &[CHANNEL]);
            let stop = traffic.stop.clone();
            traffic.publishers.push(thread::spawn(move || {
                while !stop.load(Relaxed) {
                    publisher.publish(CHANNEL);
                    thread::sleep(pause);
                }
                publisher.settle();
                publisher
            }));
        }
        traffic
    }

    /// Adds a follower that stays at each node as long as `next` says.
    pub fn follow(
        &mut self,
        mut follower: Follower,
        mut next: impl FnMut() -> (SocketAddr, Duration) + Send + 'static,
    ) {
        self.followers.push(thread::spawn(move || {
            let (mut address, mut time) = next();
            while !follower.read(address, time, LAST) {
                (address, time) = next();
                follower.move_to(address);
            }
            follower
        }));
    }

    /// Stops the publishers, and lets every follower read to the end.
    pub fn finish(self) -> Record {
        self.stop.store(true, Relaxed);
        let publishers: Vec<_> = self.publishers.into_iter().map(|thread| thread.join().unwrap()).collect();
        let mut last = Publisher::enter(self.addresses[0], "the last", &[CHANNEL]);
        last.publish(CHANNEL);
        last.settle();
        assert_eq!(last.refused, BTreeMap::new(), "the last message was refused");
        let followers = self.followers.into_iter().map(|thread| thread.join().unwrap()).collect();
        let name = |number: usize| format!("p{number}");
        let publishers =
            publishers.into_iter().enumerate().map(|(n, publisher)| (name(n), publisher)).collect();
        Record { publishers, followers }
    }
}

impl Record {
    /// What must hold with a history, whatever broke: one order, nothing twice, nothing that was refused, and every message
    /// that was acknowledged, except where a follower was told that it missed some.
    pub fn assert_kept(&self) {
        (0..self.followers.len()).for_each(|follower| self.assert_stored(follower));
    }

    /// The same for one follower.
    pub fn assert_stored(&self, follower: usize) {
        let follower = &self.followers[follower];
        let data = follower.data();
        let unique: BTreeSet<_> = data.iter().collect();
        assert_eq!(unique.len(), data.len(), "a message came twice");
        for pair in follower.messages.windows(2) {
            let [one, next] = [&pair[0]["id"], &pair[1]["id"]];
            assert!(
                epoch_of(one) != epoch_of(next) || number_of(one) < number_of(next),
                "{one} before {next}"
            );
        }
        let told = follower.recovered.contains(&false);
        let read = by_publisher(data);
        for (name, publisher) in &self.publishers {
            let read: BTreeSet<u64> = read.get(&**name).into_iter().flatten().copied().collect();
            let refused = publisher.refused_with("unavailable");
            assert_eq!(read.intersection(&refused).count(), 0, "{name}: a refused message was delivered");
            let stored = publisher.stored.iter().map(|(number, _)| *number);
            let missing: Vec<u64> = stored.filter(|number| !read.contains(number)).collect();
            let (count, first) = (missing.len(), missing.first());
            assert!(told || count == 0, "{name}: {count} lost without a word, the first is {first:?}");
        }
    }

    /// All followers read the same messages, and were always told so.
    pub fn assert_nobody_missed_anything(&self) {
        self.assert_kept();
        for follower in &self.followers {
            assert!(follower.recovered.iter().all(|recovered| *recovered), "{:?}", follower.closes);
            assert!(follower.messages == self.followers[0].messages, "two followers read different messages");
        }
    }

    /// One line for the table of the manual.
    pub fn print(&self, what: &str) {
        let sent: u64 = self.publishers.values().map(Publisher::sent).sum();
        let stored: usize = self.publishers.values().map(|publisher| publisher.stored.len()).sum();
        let of =
            |code: &str| -> usize { self.publishers.values().map(|one| one.refused_with(code).len()).sum() };
        let followers: Vec<_> = self
            .followers
            .iter()
            .map(|follower| {
                let codes: Vec<u16> = follower.closes.iter().map(|(code, _)| *code).collect();
                let told = follower.recovered.iter().filter(|recovered| **recovered).count();
                json!({"read": follower.messages.len(), "closes": codes, "recovered": told,
                    "not recovered": follower.recovered.len() - told})
            })
            .collect();
        println!(
            "{what}: sent {sent}, acknowledged {stored}, unavailable {}, unanswered {}; followers {}",
            of("unavailable"),
            of("unanswered"),
            json!(followers)
        );
    }
}

/// Publishes without waiting for answers, as fast as the node reads, until it is dropped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Flood {
    /// Floods a channel of this name with messages of 200 bytes.
    pub fn start(client: Client, channel: &str) -> Flood {
        Flood::of(client, channel, 200, 64)
    }

    /// Floods a channel with messages of this length, so many in one write.
    pub fn of(mut client: Client, channel: &str, bytes: usize, messages: usize) -> Flood {
        use std::io::{Read, Write};
        let stop = Arc::new(AtomicBool::new(false));
        let message = json!({"channel": channel, "data": "x".repeat(bytes)}).to_string();
        let batch = crate::wire::frame(0x81, message.as_bytes()).repeat(messages);
        let mut answers = client.stream().try_clone().unwrap();
        let mut stream = client.stream().try_clone().unwrap();
        let (ended, ends) = (stop.clone(), stop.clone());
        let writer = thread::spawn(move || {
            let mut sent = 0;
            while !ended.load(Relaxed) && stream.write_all(&batch).is_ok() {
                sent += messages as u64;
            }
            let _ = stream.shutdown(std::net::Shutdown::Both);
            drop(client);
            sent
        });
        // Unread answers would make it a slow reader.
        let reader = thread::spawn(move || {
            let mut bytes = vec![0; 65_536];
            let mut count = 0;
            while let Ok(length @ 1..) = answers.read(&mut bytes) {
                count += length as u64;
                if ends.load(Relaxed) {
                    break;
                }
            }
            count
        });
        Flood { stop, threads: vec![writer, reader] }
    }

    /// Ends it; returns how many messages it sent.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        let counts: Vec<u64> = self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        counts[0]
    }
}
