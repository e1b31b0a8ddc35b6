//! Subjects come, go and move between nodes by chance, while a link is cut and a node is killed: what followers are told
//! replays to who is there.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;

use crate::clients::{Connection, Event};
use crate::nats::NatsServer;
use crate::node::Node;
use crate::presence::{Follower, enter, modes};
use crate::proxy::Proxy;
use crate::support::PATIENCE;

const SUBJECTS: [&str; 6] = ["bob", "cy", "dan", "eve", "fay", "gus"];

/// Numbers by chance, the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// Connections that read the channel, with their subjects.
#[derive(Default)]
struct Visitors(Vec<(&'static str, Connection)>);

impl Visitors {
    /// A subject comes, goes, or moves to this node.
    fn change(&mut self, chance: &mut Chance, node: &Node) {
        if self.0.len() < 3 || (self.0.len() < 12 && chance.below(2) == 0) {
            let subject = SUBJECTS[chance.below(SUBJECTS.len())];
            self.0.push((subject, enter(node.address(), subject, "hall")));
            return;
        }
        let (subject, connection) = self.0.swap_remove(chance.below(self.0.len()));
        drop(connection);
        if chance.below(2) == 0 {
            self.0.push((subject, enter(node.address(), subject, "hall")));
        }
    }

    /// Who is there. Connections that were closed are not.
    fn names(&mut self) -> BTreeSet<&'static str> {
        let is_open = |connection: &mut Connection| loop {
            match connection.next_within(Duration::from_millis(1)) {
                None => return true,
                Some(Event::Closed(..)) => return false,
                Some(Event::Frame(_)) => {}
            }
        };
        self.0.retain_mut(|(_, connection)| is_open(connection));
        self.0.iter().map(|(subject, _)| *subject).collect()
    }
}

/// Waits until a follower has been told of exactly the subjects that are there.
fn converges(follower: &mut Follower, visitors: &mut Visitors, others: &[&str]) {
    let began = Instant::now();
    loop {
        let mut expected: BTreeSet<&str> = visitors.names();
        expected.extend(others);
        if follower.names() == expected {
            return;
        }
        assert!(
            began.elapsed() < 2 * PATIENCE,
            "{:?} were told, and {expected:?} are there",
            follower.names()
        );
        follower.hear(Duration::from_millis(200));
    }
}

#[test]
fn what_followers_are_told_replays_to_who_is_there() {
    let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    for (sections, _file) in modes() {
        println!("seed {seed}");
        let mut chance = Chance(seed);
        let nats = NatsServer::start();
        let proxy = Proxy::start(nats.address());
        let sections = format!("[presence]\ngrace = \"1s\"\n{sections}");
        let start = |name, url: &str| Node::start_unready(name, url, &sections);
        let mut nodes = [start("a", &nats.url()), start("b", &proxy.url()), start("c", &nats.url())];
        nodes.iter().for_each(|node| node.wait_for_nodes(3));
        let mut visitors = Visitors::default();
        let mut ann = Follower::enter(nodes[0].address(), "ann", "hall");
        let mut run = |visitors: &mut Visitors, ann: &mut Follower, nodes: &[&Node]| {
            for _ in 0..40 {
                let node = nodes[chance.below(nodes.len())];
                visitors.change(&mut chance, node);
                ann.hear(Duration::from_millis(25));
            }
        };
        let [a, b, c] = &nodes;
        run(&mut visitors, &mut ann, &[a, b, c]);
        converges(&mut ann, &mut visitors, &["ann"]);
        // A follower that comes later is told the same.
        let mut zoe = Follower::enter(c.address(), "zoe", "hall");
        converges(&mut zoe, &mut visitors, &["ann", "zoe"]);
        drop(zoe);

        proxy.cut();
        run(&mut visitors, &mut ann, &[a, b, c]);
        b.wait_unready();
        run(&mut visitors, &mut ann, &[a, b, c]);
        proxy.heal();
        b.wait_ready();
        run(&mut visitors, &mut ann, &[a, b, c]);
        converges(&mut ann, &mut visitors, &["ann"]);

        // NATS itself is silent for so long that every link breaks, and no node hears of another.
        nats.freeze();
        run(&mut visitors, &mut ann, &[a, b, c]);
        nodes.iter().for_each(Node::wait_unready);
        nats.thaw();
        nodes.iter().for_each(Node::wait_ready);
        let mut ann = Follower::enter(nodes[0].address(), "ann", "hall");
        converges(&mut ann, &mut visitors, &["ann"]);

        nodes[2].signal(Signal::KILL);
        let [a, b, _] = &nodes;
        run(&mut visitors, &mut ann, &[a, b]);
        nodes[2] = start("c", &nats.url());
        nodes[2].wait_ready();
        let [a, b, c] = &nodes;
        run(&mut visitors, &mut ann, &[a, b, c]);
        converges(&mut ann, &mut visitors, &["ann"]);
        let answer = ann.ask();
        assert_eq!(answer["unanswered"], serde_json::Value::Null, "{answer}");
        converges(&mut ann, &mut visitors, &["ann"]);
    }
}
