//! A log that was rewritten: its sequence numbers name other messages than those that clients have read.

use serde_json::{Value, json};

use crate::clients::{Connection, Publisher, epoch_of, number_of};
use crate::nats::NatsServer;
use crate::node::{LOG, Node};

/// Publishes this many messages, and returns the ids of all.
fn publish(node: &Node, name: &str, count: usize) -> Vec<Value> {
    let mut publisher = Publisher::enter(node.address(), name, &["chat"]);
    for _ in 0..count {
        publisher.publish("chat");
    }
    publisher.settle();
    assert!(publisher.refused.is_empty(), "{:?}", publisher.refused);
    publisher.stored.into_iter().map(|(_, id)| id).collect()
}

/// Comes back with this id; returns what `recovered` says, and the connection.
fn come_back(node: &Node, id: &Value) -> (bool, Connection) {
    let connection = Connection::enter(node.address(), &json!({"read": ["chat"]}), &json!({"chat": id}));
    (connection.access["recovered"]["chat"].as_bool().unwrap(), connection)
}

/// A server whose log lost its second half, after nodes served the whole. `alive`: whether nodes live through it.
fn rewritten(alive: bool) {
    let mut nats = NatsServer::start();
    let mut nodes = Node::start_all(["a", "b"], &nats.url(), LOG);
    let kept = publish(&nodes[0], "kept", 100);
    nats.kill();
    let older = nats.copy_store();
    nats.restart();
    for node in &nodes {
        node.wait_ready();
    }
    let lost = publish(&nodes[0], "lost", 100);
    if !alive {
        let [one, other] = nodes;
        drop((one, other));
        nats.kill();
        nats.put_back(&older);
        nats.restart();
        nodes = Node::start_all(["a", "b"], &nats.url(), LOG);
    } else {
        for node in &nodes {
            assert!(come_back(node, &lost[50]).0);
        }
        nats.kill();
        nats.put_back(&older);
        nats.restart();
        for node in &nodes {
            node.wait_ready();
        }
    }
    // The new messages have the sequence numbers of the lost ones.
    let new = publish(&nodes[0], "new", 150);
    assert!(
        number_of(&new[149]) >= number_of(&lost[99]),
        "the numbers must be used again: {} {}",
        new[149],
        lost[99]
    );
    for node in &nodes {
        for id in [&lost[0], &lost[50], &lost[99]] {
            let (recovered, _) = come_back(node, id);
            assert!(!recovered, "told that nothing is missing after {id}, whose successors are gone");
        }
        let (recovered, mut connection) = come_back(node, &kept[99]);
        if recovered {
            // True would be right only with all that followed in the log as it was then.
            panic!("told that nothing is missing after {}: {}", kept[99], connection.message());
        }
        let (recovered, mut connection) = come_back(node, &new[100]);
        assert!(recovered);
        assert_eq!(connection.data(), "new 102");
        assert_ne!(epoch_of(&new[0]), epoch_of(&lost[0]));
    }
}

#[test]
fn a_log_rewritten_while_nodes_live_never_recovers_wrongly() {
    rewritten(true);
}

#[test]
fn a_log_rewritten_while_all_nodes_are_dead_never_recovers_wrongly() {
    rewritten(false);
}
