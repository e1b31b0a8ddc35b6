//! Clients that are thrown from node to node under traffic miss nothing and get nothing twice.

use std::time::{Duration, Instant};

use crate::clients::{Follower, Publisher};
use crate::nats::NatsServer;
use crate::node::{LOG, Node};
use crate::support::PATIENCE;
use crate::traffic::{CHANNEL, Traffic};

/// Two minutes with this variable set.
const LONG: &str = "PHILOTE_TEST_LONG";

/// Numbers without a pattern, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[test]
fn a_client_thrown_from_node_to_node_misses_nothing_and_gets_nothing_twice() {
    let time = Duration::from_secs(if std::env::var_os(LONG).is_some() { 120 } else { 10 });
    let nats = NatsServer::start();
    let nodes = Node::start_all(["a", "b", "c"], &nats.url(), LOG);
    let addresses = nodes.each_ref().map(|node| node.address());
    let mut traffic = Traffic::start(&addresses, Duration::from_millis(3));
    for seed in 0..4 {
        let mut random = Random(seed);
        let follower = Follower::enter(addresses[seed as usize % 3], CHANNEL);
        traffic.follow(follower, move || {
            (addresses[random.below(3) as usize], Duration::from_millis(random.below(200)))
        });
    }
    let began = Instant::now();
    // The traffic itself is the event; only its end has a time.
    while began.elapsed() < time {
        std::thread::sleep(Duration::from_millis(100));
    }
    let record = traffic.finish();
    record.print("thrown from node to node");
    let moves: usize = record.followers.iter().map(|follower| follower.recovered.len()).sum();
    assert!(moves > 8, "{moves} moves");
    for publisher in record.publishers.values() {
        assert!(publisher.refused.is_empty(), "{:?}", publisher.refused);
    }
    for follower in &record.followers {
        assert!(follower.closes.is_empty(), "{:?}", follower.closes);
    }
    record.assert_stored(0);
    // Thrown followers entered while traffic flowed, so each has the end of what those that stayed have.
    let whole = &record.followers[0].messages;
    for follower in &record.followers {
        assert!(follower.recovered.iter().all(|recovered| *recovered), "told that it missed messages");
        let first = whole.len() - follower.messages.len();
        assert!(follower.messages == whole[first..], "a follower differs from one that stayed");
    }
}

/// Where the client enters, its place is the end of the log. The other node has had the channel for longer, and its last
/// message there is before that.
#[test]
fn a_client_that_moves_before_its_channel_has_a_message_is_told_that_it_missed_nothing() {
    let nats = NatsServer::start();
    let [here, there] = Node::start_all(["a", "b"], &nats.url(), LOG);
    let mut other = Follower::enter(here.address(), "other");
    let mut stays = Follower::enter(there.address(), "quiet");
    let mut publisher = Publisher::enter(there.address(), "p", &["other", "quiet"]);
    (0..5).for_each(|_| publisher.publish("other"));
    assert!(other.read(here.address(), PATIENCE, "p 5"));
    let mut moves = Follower::enter(here.address(), "quiet");
    moves.move_to(there.address());
    assert_eq!(moves.recovered, [true]);
    publisher.publish("quiet");
    for follower in [&mut moves, &mut stays] {
        assert!(follower.read(there.address(), PATIENCE, "p 6"));
        assert_eq!((follower.data(), follower.closes.len()), (vec!["p 6"], 0));
    }
}
