//! `philotectl explain` in a cluster: what a client has got on all nodes together, and what is not known of those that are gone.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::clients::{Connection, Publisher, number_of};
use crate::nats::NatsServer;
use crate::node::{LOG, Node};
use crate::steering::{ctl, ctl_json, secret};
use crate::support::PATIENCE;

const NOTHING_MATCHED: i32 = 6;

fn enter(node: &Node, since: &Value) -> Connection {
    Connection::enter(node.address(), &json!({"sub": "alice", "read": ["room"]}), since)
}

/// Publishes a message, waits until these nodes have it, and returns its id.
fn publish(publisher: &mut Publisher, channel: &str, nodes: &[&Node]) -> String {
    publisher.publish(channel);
    publisher.settle();
    let id = publisher.stored.last().unwrap().1.clone();
    for node in nodes {
        node.wait_for("it has the message", PATIENCE, |node| {
            number_of(&explain(node, &["--local"])["history"]["last"]) >= number_of(&id)
        });
    }
    id.as_str().unwrap().to_owned()
}

/// Stops a node, and waits until none of its threads runs.
fn freeze(node: &Node) {
    node.signal(Signal::STOP);
    let is_stopped = |thread: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
    };
    let threads = || std::fs::read_dir(format!("/proc/{}/task", node.pid())).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !threads().all(is_stopped) {
        assert!(Instant::now() < deadline, "it still runs");
        std::thread::yield_now();
    }
}

/// Ends a connection, and waits until its node remembers this number of its ended ones.
fn leave(connection: Connection, node: &Node, ended: u64) {
    drop(connection);
    node.wait_for("it has ended", PATIENCE, |node| {
        let closed = ["connections", "--state", "closed", "--subject", "alice", "--local"];
        ctl_json(node, &closed)["matched"] == ended
    });
}

fn explain(node: &Node, more: &[&str]) -> Value {
    ctl_json(node, &[&["explain", "--subject", "alice", "--channel", "room"], more].concat())
}

fn verdict(node: &Node, id: &str, more: &[&str]) -> String {
    let answer = explain(node, &[&["--id", id], more].concat());
    format!("{}: {}", answer["verdict"]["verdict"].as_str().unwrap(), answer["verdict"]["message"])
}

/// The node, the place and the end of each connection.
fn rows(answer: &Value) -> Vec<Value> {
    let row = |row: &Value| {
        let place = ["after", "up_to", "last"].map(|key| row["place"][key].clone());
        json!([row["node"], place, row["closed"]["code"]])
    };
    answer["connections"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn a_client_that_moves_between_nodes_is_explained_on_any_of_them() {
    let nats = NatsServer::start();
    let (_secret, sections) = secret();
    let [a, b, c] = Node::start_all(["a", "b", "c"], &nats.url(), &format!("{LOG}{sections}"));
    let all = [&a, &b, &c];
    let mut publisher = Publisher::enter(c.address(), "p", &["room", "other"]);
    let first = publish(&mut publisher, "room", &all);
    let mut alice = enter(&a, &Value::Null);
    let second = publish(&mut publisher, "room", &all);
    assert_eq!(alice.message()["id"], second);
    leave(alice, &a, 1);
    // The next message comes while it is away, and is recovered on another node.
    let recovered = publish(&mut publisher, "room", &all);
    let other = publish(&mut publisher, "other", &all);
    let mut alice = enter(&b, &json!({"room": second}));
    assert_eq!(alice.message()["id"], recovered);
    leave(alice, &b, 1);
    // The next one is missed, because it comes back without its place.
    let missed = publish(&mut publisher, "room", &all);
    let mut alice = enter(&a, &Value::Null);
    let last = publish(&mut publisher, "room", &all);
    assert_eq!(alice.message()["id"], last);
    leave(alice, &a, 2);
    // Messages of another channel are none that it misses.
    publish(&mut publisher, "other", &all);
    let _alice = enter(&b, &Value::Null);

    let ended = 1006;
    let expected = [
        json!(["a", [first, second, second], ended]),
        json!(["b", [second, recovered, recovered], ended]),
        json!(["a", [missed, last, last], ended]),
        json!(["b", [last, last, last], null]),
    ];
    for node in all {
        let answer = explain(node, &[]);
        assert_eq!(rows(&answer), expected);
        assert_eq!(answer["nodes"], json!({"answered": ["a", "b", "c"]}));
        for id in [&second, &recovered, &last] {
            assert!(verdict(node, id, &[]).starts_with("written: "), "{id}: {answer}");
        }
        assert!(verdict(node, &missed, &[]).starts_with("not_written: \"no connection of this subject read"));
        let of_other = verdict(node, &other, &[]);
        assert!(of_other.starts_with("unknown: \"the channel has no message with this id"), "{of_other}");
    }
    let (status, text, err) = ctl(&c, &["explain", "--subject", "alice", "--channel", "room"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((status, err.as_str(), lines.len()), (0, "", 5), "{text}");
    for (at, on, gap) in
        [(0, "a", ""), (1, "b", "recovered, "), (2, "a", "missed "), (3, "b", "has nothing ")]
    {
        assert!(lines[at].contains(&format!(" on node {on}, {gap}")), "{at}: {text}");
        assert_eq!(lines[at].contains("missed"), gap == "missed ", "{at}: {text}");
    }

    // Of one node only.
    assert_eq!(rows(&explain(&c, &["--local"])), [] as [Value; 0]);
    let mut on_a = [expected[0].clone(), expected[2].clone()];
    on_a.iter_mut().for_each(|row| row[0] = Value::Null);
    assert_eq!(rows(&explain(&a, &["--local"])), on_a);
    assert!(verdict(&a, &second, &["--local"]).starts_with("written: "));
    let here = verdict(&a, &recovered, &["--local"]);
    assert!(here.starts_with("not_written: \"on this node, no connection of this subject read"), "{here}");

    // One does not answer: what it knows is missing, and what the others know is not.
    freeze(&b);
    let answer = explain(&c, &["--id", &last]);
    assert_eq!(answer["nodes"], json!({"answered": ["a", "c"], "unanswered": ["b"]}));
    assert_eq!(answer["verdict"]["verdict"], "written", "{answer}");
    let line = ["explain", "--subject", "alice", "--channel", "room", "--id", &missed];
    let (status, text, err) = ctl(&c, &line);
    assert_eq!((status, err.as_str()), (NOTHING_MATCHED, "node b did not answer in time\n"), "{text}");
    assert!(text.contains(": unknown: not all nodes of the cluster have answered"), "{text}");
    b.signal(Signal::CONT);
}

/// Nobody remembers what the connections of such a node have got.
#[test]
fn what_only_a_node_knew_that_has_left_or_started_again_is_not_known() {
    let nats = NatsServer::start();
    let (_secret, sections) = secret();
    let [a, b] = Node::start_all(["a", "b"], &nats.url(), &format!("{LOG}{sections}"));
    let mut publisher = Publisher::enter(b.address(), "p", &["room"]);
    let mut alice = enter(&a, &Value::Null);
    let read = publish(&mut publisher, "room", &[&a, &b]);
    assert_eq!(alice.message()["id"], read);
    leave(alice, &a, 1);
    let missed = publish(&mut publisher, "room", &[&a, &b]);
    assert!(verdict(&b, &read, &[]).starts_with("written: "));
    assert!(verdict(&b, &missed, &[]).starts_with("not_written: "));
    let directory = a.stop();
    b.wait_for("it knows that the other has left", PATIENCE, |b| {
        ctl_json(b, &["nodes"])["nodes"].as_array().unwrap().len() == 1
    });
    let unknown = |why: &str| format!("unknown: \"it was published while a node was there that has {why}");
    let of_gone = unknown("left the cluster or started again since");
    for id in [&read, &missed] {
        assert!(verdict(&b, id, &[]).starts_with(&of_gone), "{}", verdict(&b, id, &[]));
    }
    let alone = publish(&mut publisher, "room", &[&b]);
    assert!(verdict(&b, &alone, &[]).starts_with("not_written: "), "only this node was there");
    let a = Node::start_from(directory);
    a.wait_ready();
    for node in [&a, &b] {
        node.wait_for_nodes(2);
        for id in [&read, &missed, &alone] {
            assert!(verdict(node, id, &[]).starts_with(&of_gone), "{}", verdict(node, id, &[]));
        }
    }
    let both = publish(&mut publisher, "room", &[&a, &b]);
    assert!(verdict(&a, &both, &[]).starts_with("not_written: "), "{}", verdict(&a, &both, &[]));
}
