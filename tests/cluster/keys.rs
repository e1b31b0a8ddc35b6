//! The `key` of a message that a backend publishes: its repetition is not published again.

use serde_json::{Value, json};

use crate::clients::{Connection, number_of};
use crate::nats::NatsServer;
use crate::node::{LOG, Node};
use crate::support::sign;

fn publish(node: &Node, messages: &Value) -> (u16, Value) {
    node.http("POST", "/api/publish", &sign(&json!({"api": true})), &messages.to_string())
}

/// Backends with different channels know nothing of each other, and number their keys alike.
#[test]
fn a_key_counts_within_its_channel() {
    let nats = NatsServer::start();
    let [one, other] = Node::start_all(["a", "b"], &nats.url(), LOG);
    let mut reader = Connection::enter(one.address(), &json!({"read": ["a", "a.17", "b"]}), &Value::Null);
    let message = |channel: &str, key: &str| json!({"channel": channel, "data": format!("{channel} {key}"), "key": key});
    let (status, first) = publish(&one, &message("a", "17"));
    assert_eq!((status, &first["published"][0]["repeated"]), (200, &Value::Null));
    let batch =
        json!([message("b", "17"), message("a", "17"), message("a", ".17.17"), message("a.17", "17")]);
    let (status, answer) = publish(&other, &batch);
    let repeated: Vec<_> = (0..4).map(|at| answer["published"][at]["repeated"] == true).collect();
    assert_eq!((status, repeated), (200, vec![false, true, false, false]), "{answer}");
    assert_eq!(number_of(&answer["published"][1]["id"]), number_of(&first["published"][0]["id"]));
    let read: Vec<_> = (0..4).map(|_| reader.data()).collect();
    assert_eq!(read, ["a 17", "b 17", "a .17.17", "a.17 17"]);
}

/// NATS counts the header that contains the key to the payload, and a payload that it does not take would end the link.
#[test]
fn the_longest_message_with_the_longest_key_is_published() {
    const MAX_PAYLOAD: usize = 4_096;
    let nats = NatsServer::start_with(&format!("max_payload: {MAX_PAYLOAD}\n"));
    let (name, prefix) = ("n".repeat(64), "p".repeat(64));
    let node = Node::start(&name, &nats.url(), &format!("{LOG}[cluster]\nsubject_prefix = \"{prefix}\"\n"));
    let key = "k".repeat(64);
    // From too long ones on, so that the first that is taken is the longest.
    let taken = (0..MAX_PAYLOAD).find_map(|shorter| {
        let data = "x".repeat(MAX_PAYLOAD - shorter);
        let (status, answer) = publish(&node, &json!({"channel": "c", "data": data, "key": key}));
        (status != 400).then_some((status, answer))
    });
    assert_eq!(taken.unwrap().0, 200);
    assert_eq!(node.counted("link_ends"), 0);
}
