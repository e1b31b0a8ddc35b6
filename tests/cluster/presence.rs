//! Who reads a channel, on all nodes: answers and changes give the true set of subjects, whatever becomes of nodes and links.
//! presence_chance.rs has them come, go, move and fail by chance, and presence_bounds.rs has the bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::clients::{Connection, Event};
use crate::nats::NatsServer;
use crate::node::{LOG, Node, RELAY};
use crate::proxy::Proxy;
use crate::steering::secret;
use crate::support::PATIENCE;

/// Both kinds of cluster, the first without the cluster's secret.
pub fn modes() -> [(String, Option<tempfile::TempDir>); 2] {
    let (file, sections) = secret();
    [(RELAY.to_owned(), None), (format!("{LOG}{sections}"), Some(file))]
}

pub fn enter(address: SocketAddr, subject: &str, channel: &str) -> Connection {
    let claims = json!({"sub": subject, "read": [channel], "presence": true, "info": {"name": subject}});
    Connection::enter(address, &claims, &Value::Null)
}

/// What one follower was told of a channel.
pub struct Follower {
    connection: Connection,
    channel: String,
    pub subjects: BTreeMap<String, u64>,
    pub anonymous: u64,
}

impl Follower {
    pub fn enter(address: SocketAddr, subject: &str, channel: &str) -> Follower {
        let connection = enter(address, subject, channel);
        let (subjects, channel) = (BTreeMap::new(), channel.to_owned());
        let mut follower = Follower { connection, channel, subjects, anonymous: 0 };
        follower.ask();
        follower
    }

    /// Asks, follows, and returns the answer.
    pub fn ask(&mut self) -> Value {
        let frame = json!({"presence": [self.channel], "follow": true});
        self.connection.send(&frame).unwrap_or_else(|event| panic!("{event:?}"));
        loop {
            let frame = self.hear(PATIENCE).unwrap_or_else(|| panic!("no answer"));
            if frame["subjects"].is_object() {
                return frame;
            }
        }
    }

    /// The next frame of presence within this time.
    pub fn hear(&mut self, time: Duration) -> Option<Value> {
        let frame = match self.connection.next_within(time)? {
            Event::Frame(frame) if frame["presence"].is_object() => frame["presence"].clone(),
            other => panic!("no presence: {other:?}"),
        };
        assert_eq!(frame["channel"], self.channel, "{frame}");
        self.anonymous = frame["anonymous"].as_u64().unwrap_or(self.anonymous);
        if let Some(subjects) = frame["subjects"].as_object() {
            self.subjects =
                subjects.iter().map(|(name, count)| (name.clone(), count.as_u64().unwrap())).collect();
        }
        for joined in frame["joined"].as_array().into_iter().flatten() {
            let name = joined.as_str().unwrap().to_owned();
            assert_eq!(frame["info"][&name]["name"], name.as_str());
            assert!(self.subjects.insert(name, 1).is_none(), "joined twice: {frame}");
        }
        for left in frame["left"].as_array().into_iter().flatten() {
            assert!(self.subjects.remove(left.as_str().unwrap()).is_some(), "left twice: {frame}");
        }
        assert_eq!(frame["count"], self.subjects.len(), "{frame}");
        Some(frame)
    }

    pub fn names(&self) -> BTreeSet<&str> {
        self.subjects.keys().map(String::as_str).collect()
    }

    /// Hears changes until these subjects are there, and returns how long that took.
    pub fn wait_for(&mut self, subjects: &[&str]) -> Duration {
        let (began, expected) = (Instant::now(), subjects.iter().copied().collect::<BTreeSet<_>>());
        while self.names() != expected {
            let left = PATIENCE.saturating_sub(began.elapsed());
            let heard = self.hear(left);
            assert!(heard.is_some(), "{:?} instead of {expected:?}", self.names());
        }
        began.elapsed()
    }

    /// Asserts that nothing is told for this long.
    pub fn hears_nothing(&mut self, time: Duration) {
        assert_eq!(self.hear(time), None);
    }
}

#[test]
fn all_nodes_tell_the_same_readers_and_a_move_between_nodes_is_no_event() {
    for (sections, _file) in modes() {
        let nats = NatsServer::start();
        let sections = format!("[presence]\ngrace = \"5s\"\n{sections}");
        let nodes = Node::start_all(["a", "b", "c"], &nats.url(), &sections);
        let [a, b, c] = &nodes;
        let mut ann = Follower::enter(a.address(), "ann", "hall");
        assert_eq!(ann.names(), ["ann"].into());
        let bob = [enter(b.address(), "bob", "hall"), enter(c.address(), "bob", "hall")];
        let _nobody = Connection::enter(c.address(), &json!({"read": ["hall"]}), &Value::Null);
        ann.wait_for(&["ann", "bob"]);
        let mut cy = Follower::enter(c.address(), "cy", "hall");
        assert_eq!(cy.names(), ["ann", "bob", "cy"].into());
        ann.wait_for(&["ann", "bob", "cy"]);
        let mut answers = Vec::new();
        for node in &nodes {
            let mut asker = enter(node.address(), "cy", "hall");
            asker.send(&json!({"presence": ["hall"]})).unwrap();
            let Event::Frame(mut answer) = asker.next() else { panic!("no answer") };
            answers.push(answer["presence"].take());
            // Of this node the others hear only that the subject has one connection less.
        }
        for answer in &answers {
            assert_eq!(answer["subjects"].as_object().unwrap().len(), 3, "{answer}");
            assert_eq!(
                (&answer["subjects"]["bob"], &answer["anonymous"], &answer["info"]["bob"]["name"]),
                (&json!(2), &json!(1), &json!("bob"))
            );
            assert_eq!((&answer["count"], &answer["unanswered"]), (&json!(3), &Value::Null));
        }
        // bob moves to node a: nobody is told.
        drop(bob);
        let bob = enter(a.address(), "bob", "hall");
        ann.hears_nothing(Duration::from_secs(8));
        cy.hears_nothing(Duration::from_millis(1));
        drop(bob);
        ann.wait_for(&["ann", "cy"]);
        cy.wait_for(&["ann", "cy"]);
        // The token of another subject, on another node.
        let mut dan = enter(b.address(), "dan", "hall");
        ann.wait_for(&["ann", "cy", "dan"]);
        let token = crate::support::sign(&json!({"sub": "eve", "read": ["hall"], "info": {"name": "eve"}}));
        dan.send(&json!({"auth": token})).unwrap();
        ann.wait_for(&["ann", "cy", "eve"]);
        cy.wait_for(&["ann", "cy", "eve"]);
    }
}

#[test]
fn the_subjects_of_a_killed_node_have_left_within_15_seconds() {
    for (sections, _file) in modes() {
        let nats = NatsServer::start();
        let [a, b, c] = Node::start_all(["a", "b", "c"], &nats.url(), &sections);
        let mut ann = Follower::enter(a.address(), "ann", "hall");
        let mut cy = Follower::enter(c.address(), "cy", "hall");
        let (_bob, _dan) = (enter(b.address(), "bob", "hall"), enter(b.address(), "dan", "hall"));
        let _too = enter(c.address(), "dan", "hall");
        ann.wait_for(&["ann", "bob", "cy", "dan"]);
        cy.wait_for(&["ann", "bob", "cy", "dan"]);
        drop(b);
        let took = ann.wait_for(&["ann", "cy", "dan"]);
        assert!(took <= Duration::from_secs(15), "{took:?}");
        cy.wait_for(&["ann", "cy", "dan"]);
        // Its name says that it may have readers, until it starts again.
        assert_eq!(ann.ask()["unanswered"], json!(["b"]));
        let b = Node::start("b", &nats.url(), &sections);
        a.wait_for_nodes(3);
        let _bob = enter(b.address(), "bob", "hall");
        ann.wait_for(&["ann", "bob", "cy", "dan"]);
        assert_eq!(ann.ask()["unanswered"], Value::Null);
        // A node that stops says so, and its readers leave.
        drop(b.stop());
        ann.wait_for(&["ann", "cy", "dan"]);
        assert_eq!(ann.ask()["unanswered"], Value::Null);
    }
}

#[test]
fn a_node_that_does_not_answer_is_named_and_its_readers_are_told_when_it_does() {
    let nats = NatsServer::start();
    let [a, b] = Node::start_all(["a", "b"], &nats.url(), LOG);
    let _bob = enter(b.address(), "bob", "hall");
    b.signal(Signal::STOP);
    let mut ann = Follower::enter(a.address(), "ann", "other");
    // On a busy machine the link of `a` may be in doubt for a moment.
    let deadline = Instant::now() + PATIENCE;
    while ann.ask()["unanswered"] != json!(["b"]) {
        assert!(Instant::now() < deadline, "b is not named");
        // Without a link each answer comes at once, and so many questions are refused.
        a.wait_ready();
    }
    let mut ann = Follower::enter(a.address(), "ann", "hall");
    assert_eq!(ann.names(), ["ann"].into());
    b.signal(Signal::CONT);
    ann.wait_for(&["ann", "bob"]);
    assert_eq!(ann.ask()["unanswered"], Value::Null);
}

#[test]
fn a_link_that_was_down_is_told_everything_again() {
    let nats = NatsServer::start();
    let proxy = Proxy::start(nats.address());
    let a = Node::start_unready("a", &nats.url(), LOG);
    let b = Node::start_unready("b", &proxy.url(), LOG);
    [&a, &b].iter().for_each(|node| node.wait_for_nodes(2));
    let mut ann = Follower::enter(a.address(), "ann", "hall");
    let mut bob = Follower::enter(b.address(), "bob", "hall");
    let dan = enter(b.address(), "dan", "hall");
    ann.wait_for(&["ann", "bob", "dan"]);
    bob.wait_for(&["ann", "bob", "dan"]);
    proxy.cut();
    b.wait_unready();
    let _eve = enter(a.address(), "eve", "hall");
    let _fay = enter(b.address(), "fay", "hall");
    drop(dan);
    // Each node goes on with what it can know.
    ann.wait_for(&["ann", "eve"]);
    bob.wait_for(&["bob", "fay"]);
    assert_eq!(ann.ask()["unanswered"], json!(["b"]));
    proxy.heal();
    ann.wait_for(&["ann", "bob", "eve", "fay"]);
    bob.wait_for(&["ann", "bob", "eve", "fay"]);
    assert_eq!((&ann.ask()["unanswered"], &bob.ask()["unanswered"]), (&Value::Null, &Value::Null));
}
