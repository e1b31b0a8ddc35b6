//! NATS is absent, killed or frozen while clients of nodes without a history publish and read.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clients::{Connection, Event, Publisher};
use crate::nats::NatsServer;
use crate::node::{LOG, Node, RELAY};
use crate::support::PATIENCE;
use crate::traffic::{Flood, carry_on};

const MIB: u64 = 1 << 20;

#[test]
fn fault_74_without_nats_a_node_starts_serves_its_own_clients_and_says_what_is_missing() {
    let mut nats = NatsServer::stopped();
    let node = Node::start_unready("a", &nats.url(), RELAY);
    assert_eq!(node.cluster()["link"], "down");
    assert_eq!((node.ready().0, node.http("GET", "/health", "", "").0), (503, 200));
    let mut reader = node.client(&["chat"]);
    let mut publisher = Publisher::enter(node.address(), "p", &["chat"]);
    for number in 1..=100 {
        publisher.publish("chat");
        assert_eq!(reader.data(), format!("p {number}"));
    }
    publisher.settle();
    assert_eq!(publisher.stored.len(), 100);
    nats.restart();
    node.wait_ready();
    // Other nodes may have been connected before, so the reader may have missed their messages.
    assert_eq!(reader.closed().0, 1012);
    let mut reader = node.client(&["chat"]);
    publisher.publish("chat");
    assert_eq!(reader.data(), "p 101");
}

#[test]
fn a_required_cluster_makes_health_itself_fail() {
    let nats = NatsServer::stopped();
    let node = Node::start_unready("a", &nats.url(), "[cluster]\nrequired = true\n");
    assert_eq!(node.http("GET", "/health", "", "").0, 503);
}

#[test]
fn fault_75_after_an_outage_without_a_history_readers_are_told_and_nothing_comes_twice() {
    let mut nats = NatsServer::start_without_jetstream();
    let [one, other] = Node::start_all(["a", "b"], &nats.url(), RELAY);
    let claims = json!({"read": ["chat"]});
    let mut near = Connection::enter(one.address(), &claims, &Value::Null);
    let mut far = Connection::enter(other.address(), &claims, &Value::Null);
    let mut publisher = Publisher::enter(one.address(), "p", &["chat"]);
    publisher.publish("chat");
    assert_eq!([near.data(), far.data()], ["p 1", "p 1"]);
    nats.kill();
    one.wait_unready();
    other.wait_unready();
    for number in 2..=101 {
        publisher.publish("chat");
        assert_eq!(near.data(), format!("p {number}"), "local delivery goes on");
    }
    publisher.settle();
    assert_eq!(publisher.stored.len(), 101);
    nats.restart();
    one.wait_ready();
    other.wait_ready();
    // The reader that missed messages is closed, and no late message comes before that.
    let Event::Closed(code, reason) = far.next() else { panic!("a message from the outage arrived") };
    assert_eq!(code, 1012, "{reason}");
    let mut far = Connection::enter(other.address(), &claims, &Value::Null);
    one.wait_for_nodes(2);
    publisher.publish("chat");
    assert_eq!(far.data(), "p 102");
    let lost = one.counted("lost");
    println!(
        "NATS killed, no history: 100 messages published meanwhile, {lost} counted as lost, far reader closed with 1012: {reason}"
    );
    assert_eq!(lost, 100);
}

/// A frozen server keeps its sockets, so nothing but silence says that it is gone.
/// async-nats takes a thousand messages of any length, and keeps them while nothing can be written.
#[test]
fn long_messages_for_a_frozen_nats_server_take_little_memory() {
    let nats = NatsServer::start();
    for kind in [RELAY, LOG] {
        let sections =
            format!("{kind}[websocket]\nmax_message_size = \"900KiB\"\n[limits]\nqueue_bytes = \"2MiB\"\n");
        let node = Node::start("a", &nats.url(), &sections);
        let before = node.memory().0;
        nats.freeze();
        let flood = || node.client_with(&json!({"write": ["flood"]}));
        let floods: Vec<_> = (0..4).map(|_| Flood::of(flood(), "flood", 800_000, 1)).collect();
        let (mut worst, deadline) = (before, Instant::now() + PATIENCE);
        while node.ready().0 == 200 {
            worst = worst.max(node.memory().0);
            assert!(Instant::now() < deadline, "the frozen server is not noticed");
        }
        nats.thaw();
        node.wait_ready();
        let sent: u64 = floods.into_iter().map(Flood::stop).sum();
        println!("{kind}: {sent} messages; KiB before {}, at the worst {}", before >> 10, worst >> 10);
        assert!(worst < before + 64 * MIB, "{before} bytes before, {worst} at the worst");
    }
}

#[test]
fn fault_74_a_frozen_nats_server_blocks_nobody_and_no_memory_grows() {
    const FREEZE: Duration = Duration::from_secs(20);
    for (kind, sections) in [("history", LOG), ("no history", RELAY)] {
        let nats = NatsServer::start();
        let nodes = Node::start_all(["a", "b"], &nats.url(), sections);
        let [one, other] = &nodes;
        let mut local = one.client(&["elsewhere"]);
        local.settle();
        let floods: Vec<_> =
            (0..2).map(|_| Flood::start(one.client_with(&json!({"write": ["flood"]})), "flood")).collect();
        carry_on();
        let before = one.memory().0;
        // The node asks NATS for a sign each second. When it does so next, NATS has not taken anything for a while.
        let mut announcements = nats.client();
        announcements.subscribe("philote.1.n");
        while !announcements.next().payload.windows(9).any(|bytes| bytes == b"\"node\":\"a") {}
        nats.freeze();
        let began = Instant::now();
        one.wait_unready();
        let noticed = began.elapsed();
        let mut worst = before;
        while began.elapsed() < FREEZE {
            worst = worst.max(one.memory().0);
            // The node answers all the time.
            local.settle();
            std::thread::sleep(Duration::from_millis(50));
        }
        nats.thaw();
        let thawed = Instant::now();
        one.wait_ready();
        other.wait_ready();
        let healed = thawed.elapsed();
        let sent: u64 = floods.into_iter().map(Flood::stop).sum();
        let after = one.memory().0;
        println!(
            "NATS frozen for {FREEZE:?}, {kind}: {sent} messages sent, noticed after {noticed:?}, ready {healed:?} after the \
             thaw; MiB before {}, at the worst {}, after {}",
            before / MIB,
            worst / MIB,
            after / MIB
        );
        assert!(worst < before + 64 * MIB, "{kind}: {before} {worst}");
        let mut far = Connection::enter(other.address(), &json!({"read": ["chat"]}), &Value::Null);
        let mut publisher = Publisher::enter(one.address(), "p", &["chat"]);
        publisher.publish("chat");
        assert_eq!(far.data(), "p 1");
    }
}

/// A message that NATS would not take must not be lost without a word, and must not block what follows.
#[test]
fn fault_76_a_payload_over_the_limit_of_nats_is_an_error_to_its_publisher() {
    let nats = NatsServer::start_with("max_payload: 4096\n");
    for sections in [RELAY, LOG] {
        let [one, other] = Node::start_all(["a", "b"], &nats.url(), sections);
        let claims = json!({"read": ["chat"]});
        let [mut near, mut far] =
            [&one, &other].map(|node| Connection::enter(node.address(), &claims, &Value::Null));
        let mut publisher = Connection::enter(one.address(), &json!({"write": ["chat"]}), &Value::Null);
        publisher.send(&json!({"channel": "chat", "data": "x".repeat(8_000), "ack": "1"})).unwrap();
        publisher.send(&json!({"channel": "chat", "data": "short", "ack": "2"})).unwrap();
        let Event::Frame(first) = publisher.next() else { panic!("closed") };
        assert!(first["error"].is_string() && first["ack"] == "1", "{sections}: {first}");
        assert!(first["message"].as_str().unwrap().contains("NATS"), "{first}");
        let Event::Frame(second) = publisher.next() else { panic!("closed") };
        assert!(second.get("error").is_none() && second["ack"] == "2", "{second}");
        assert_eq!([near.data(), far.data()], ["short", "short"], "{sections}");
        assert_eq!(one.counted("link_ends"), 0, "one message must not end the link for all");
    }
}
