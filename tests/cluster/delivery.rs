//! Messages between nodes in quiet times: each once, in one publisher's order without a history, in one order with it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clients::{Connection, Event, Publisher, by_publisher};
use crate::nats::NatsServer;
use crate::node::{LOG, Node, RELAY};
use crate::steering::api_token;
use crate::support::PATIENCE;
use crate::traffic::Flood;

/// How many messages are published on each node.
pub const MESSAGES: u64 = 10_000;

pub const NAMES: [&str; 3] = ["a", "b", "c"];

/// Starts a reader on each node, and returns when each hears the publishers of all nodes.
fn readers(nodes: &[Node; 3], channel: &str) -> Vec<Connection> {
    let claims = json!({"read": [channel]});
    let mut readers: Vec<_> =
        nodes.iter().map(|node| Connection::enter(node.address(), &claims, &Value::Null)).collect();
    for node in nodes {
        let mut probe = node.client(&[channel]);
        for reader in &mut readers {
            hears(reader, || probe.publish(channel, "probe"));
        }
    }
    readers
}

/// Repeats `publish` until this reader gets a message.
fn hears(reader: &mut Connection, mut publish: impl FnMut()) {
    for _ in 0..1_000 {
        publish();
        if let Some(Event::Frame(_)) = reader.next_within(Duration::from_millis(20)) {
            return;
        }
    }
    panic!("a reader does not hear another node");
}

/// The next messages without the probes, in a thread.
fn collect(mut reader: Connection, count: usize) -> thread::JoinHandle<Vec<Value>> {
    thread::spawn(move || {
        let messages = std::iter::repeat_with(|| reader.message());
        messages.filter(|message| message["data"] != "probe").take(count).collect()
    })
}

/// Publishes on all nodes at once; returns what each reader got, and the publishers.
pub fn publish_everywhere(nodes: &[Node; 3]) -> (Vec<Vec<Value>>, Vec<Publisher>) {
    let total = NAMES.len() * MESSAGES as usize;
    let readers: Vec<_> = readers(nodes, "chat").into_iter().map(|reader| collect(reader, total)).collect();
    let publishers: Vec<_> = nodes
        .iter()
        .zip(NAMES)
        .map(|(node, name)| {
            let address = node.address();
            thread::spawn(move || {
                let mut publisher = Publisher::enter(address, name, &["chat"]);
                for _ in 0..MESSAGES {
                    publisher.publish("chat");
                }
                publisher.settle();
                publisher
            })
        })
        .collect();
    let publishers = publishers.into_iter().map(|thread| thread.join().unwrap()).collect();
    (readers.into_iter().map(|reader| reader.join().unwrap()).collect(), publishers)
}

pub fn data(message: &Value) -> &str {
    message["data"].as_str().unwrap()
}

/// Each publisher's messages were read once and in their order.
pub fn assert_complete(read: &[Value]) {
    let numbers = by_publisher(read.iter().map(data));
    assert_eq!(numbers.keys().copied().collect::<Vec<_>>(), NAMES);
    assert!(numbers.values().all(|numbers| numbers.iter().copied().eq(1..=MESSAGES)));
}

#[test]
fn without_a_history_all_nodes_get_each_message_once_in_its_publishers_order() {
    let nats = NatsServer::start_without_jetstream();
    let nodes = Node::start_all(NAMES, &nats.url(), RELAY);
    let (read, publishers) = publish_everywhere(&nodes);
    for read in &read {
        assert_complete(read);
        assert!(read.iter().all(|message| message.get("id").is_none()));
    }
    for publisher in publishers {
        assert_eq!((publisher.stored.len() as u64, publisher.refused.len()), (MESSAGES, 0));
    }
}

/// A message must reach a reader that entered before it was published, on whichever node.
#[test]
fn a_reader_gets_what_is_published_elsewhere_the_instant_after_it_has_entered() {
    let nats = NatsServer::start();
    for sections in [RELAY, LOG] {
        let [one, other] = Node::start_all(["a", "b"], &nats.url(), sections);
        let mut publisher = Publisher::enter(other.address(), "p", &["c0", "c1", "c2", "c3", "c4"]);
        for number in 0..20 {
            let channel = format!("c{}", number % 5);
            let mut reader = Connection::enter(one.address(), &json!({"read": [&channel]}), &Value::Null);
            publisher.publish(&channel);
            assert_eq!(reader.data(), format!("p {}", number + 1), "{sections}");
        }
    }
}

#[test]
fn a_publisher_gets_what_others_publish_and_never_its_own_message() {
    let nats = NatsServer::start();
    for sections in [RELAY, LOG] {
        let nodes = Node::start_all(NAMES, &nats.url(), sections);
        let mut clients = nodes.each_ref().map(|node| node.client(&["chat", "done"]));
        for (client, name) in clients.iter_mut().zip(NAMES) {
            for number in 0..100 {
                client.publish("chat", &format!("{name} {number}"));
            }
        }
        for (client, own) in clients.iter_mut().zip(NAMES) {
            let read: Vec<String> = (0..200).map(|_| client.data()).collect();
            let numbers = by_publisher(read.iter().map(String::as_str));
            assert_eq!(numbers.len(), 2, "{sections}");
            for (name, numbers) in numbers {
                assert!(name != own && numbers.into_iter().eq(0..100), "{sections} {name}");
            }
        }
        // Nothing is left behind these.
        clients[0].publish("done", "x");
        assert_eq!(clients[1].data(), "x");
        clients[1].publish("done", "y");
        assert_eq!([clients[0].data(), clients[2].data(), clients[2].data()], ["y", "x", "y"]);
    }
}

/// Backends name connections of any node in `exclude`.
#[test]
fn an_excluded_connection_on_another_node_gets_nothing() {
    let nats = NatsServer::start();
    for sections in [RELAY, LOG] {
        let [one, other] = Node::start_all(["a", "b"], &nats.url(), sections);
        let claims = json!({"read": ["chat"]});
        let mut excluded = Connection::enter(other.address(), &claims, &Value::Null);
        let mut included = Connection::enter(other.address(), &claims, &Value::Null);
        let id = excluded.access["connection"].clone();
        let api = crate::support::sign(&json!({"api": true}));
        for (data, exclude) in [("first", json!([id])), ("second", json!([]))] {
            let body = json!({"channel": "chat", "data": data, "exclude": exclude}).to_string();
            let (status, answer) = one.http("POST", "/api/publish", &api, &body);
            assert_eq!(status, 200, "{answer}");
        }
        assert_eq!([included.data(), included.data(), excluded.data()], ["first", "second", "second"]);
    }
}

/// A name is one token of a subject, and some bytes mean something to NATS.
#[test]
fn fault_76_channels_of_any_name_are_carried_between_nodes() {
    let nats = NatsServer::start();
    let long = "é".repeat(127);
    let names = [
        "a.b",
        "*",
        ">",
        "a.*",
        "a.>",
        ".",
        "..",
        " ",
        "a b",
        "=",
        "=41",
        "A",
        "a=2Eb",
        "é",
        "日本",
        "🦀",
        "$SYS",
        "_INBOX.x",
        "__proto__",
        "a/b:c@d+e-f_g",
        "\"",
        "\\",
        "%",
        "epoch",
        "m",
        &long,
    ];
    for sections in [RELAY, LOG] {
        let [one, other] = Node::start_all(["a", "b"], &nats.url(), sections);
        let claims = json!({"read": names});
        let mut reader = Connection::enter(one.address(), &claims, &Value::Null);
        let mut publisher = other.client_with(&json!({"write": names}));
        for name in names {
            publisher.publish(name, "x");
            let message = reader.message();
            assert_eq!(message["channel"], name, "{sections}");
        }
    }
}

/// The queue for NATS was one for all, and what came while it was full was lost, whoever had sent it.
#[test]
fn publishers_that_are_faster_than_nats_cost_no_messages_of_others() {
    const QUIET_MESSAGES: usize = 50;
    let nats = NatsServer::start();
    let [one, other] = Node::start_all(["a", "b"], &nats.url(), RELAY);
    let mut reader = Connection::enter(other.address(), &json!({"read": ["quiet"]}), &Value::Null);
    let mut publisher = Publisher::enter(one.address(), "p", &["quiet"]);
    let body = json!(vec![json!({"channel": "batches", "data": "x"}); 10_000]).to_string();
    let batch = format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        api_token(),
        body.len()
    );
    let (address, is_done) = (one.address(), Arc::new(AtomicBool::new(false)));
    let ended = is_done.clone();
    let posts = thread::spawn(move || {
        while !ended.load(Relaxed) {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(batch.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    });
    let floods: Vec<_> =
        (0..3).map(|_| Flood::start(one.client_with(&json!({"write": ["flood"]})), "flood")).collect();
    one.wait_for("much is sent", PATIENCE, |one| one.counted("sent") > 200_000);
    for number in 1..=QUIET_MESSAGES {
        publisher.publish("quiet");
        assert_eq!(reader.data(), format!("p {number}"));
    }
    floods.into_iter().for_each(|flood| _ = flood.stop());
    is_done.store(true, Relaxed);
    posts.join().unwrap();
    assert_eq!(one.counted("lost"), 0);
}
