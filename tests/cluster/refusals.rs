//! A log that takes no messages while the link to NATS is up: publishers are refused, and the administrator is told why.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::nats::NatsServer;
use crate::node::{LOG, Node};
use crate::support::{PATIENCE, sign};

/// Changes the stream of the log; `change` has other values of its configuration.
fn change(nats: &NatsServer, change: &Value) {
    let mut config = nats.jetstream("STREAM.INFO.philote", "")["config"].take();
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let answer = nats.jetstream("STREAM.UPDATE.philote", &config.to_string());
    assert!(answer.get("error").is_none(), "{answer}");
}

fn publish(node: &Node) -> u16 {
    let body = json!({"channel": "c", "data": "x"}).to_string();
    node.http("POST", "/api/publish", &sign(&json!({"api": true})), &body).0
}

fn refusing(node: &Node) -> Value {
    node.admin("GET", "/v1/status", "")["cluster"]["refusing"].take()
}

/// Waits until the node has logged a line with this text, and returns the number of such lines.
fn lines(node: &Node, text: &str) -> usize {
    node.wait_for(text, PATIENCE, |node| node.log().contains(text));
    node.log().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn a_full_log_is_told_once_with_its_reason_and_so_is_its_end() {
    let nats = NatsServer::start();
    let node = Node::start("a", &nats.url(), LOG);
    assert_eq!((publish(&node), refusing(&node)), (200, Value::Null));
    change(&nats, &json!({"max_msgs": 1, "discard": "new"}));
    for _ in 0..20 {
        assert_eq!(publish(&node), 503);
    }
    let reason = refusing(&node)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("maximum messages"), "{reason}");
    assert_eq!(node.ready().0, 200, "no other node could store more");
    let doctor = node.admin("GET", "/v1/doctor", "");
    let problem = |finding: &Value| {
        finding["verdict"] == "problem" && finding["found"].as_str().unwrap().contains(&reason)
    };
    assert!(doctor["findings"].as_array().unwrap().iter().any(problem), "{doctor}");
    assert_eq!(
        lines(&node, &format!("refuses messages or does not confirm them: {reason}")),
        1,
        "{}",
        node.log()
    );
    change(&nats, &json!({"max_msgs": -1, "discard": "old"}));
    assert_eq!(publish(&node), 200);
    let mended = Instant::now();
    node.wait_for("the log takes messages", PATIENCE, |node| refusing(node).is_null());
    assert!(mended.elapsed() > Duration::from_secs(5), "it may refuse some and store others");
    let (refuses, takes) = (lines(&node, "the log refuses"), lines(&node, "the log takes messages again"));
    assert_eq!((refuses, takes), (1, 1), "{}", node.log());
}

#[test]
fn a_log_that_confirms_nothing_is_told() {
    let nats = NatsServer::start();
    let node = Node::start("a", &nats.url(), LOG);
    change(&nats, &json!({"no_ack": true}));
    assert_eq!(publish(&node), 503);
    assert_eq!(refusing(&node)["reason"], "NATS has not confirmed a message for 5 s");
    assert_eq!(lines(&node, "refuses messages or does not confirm them"), 1, "{}", node.log());
}
