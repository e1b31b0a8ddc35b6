//! Server-Sent Events and messages by POST in a cluster.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::clients::{Connection, Publisher, number_of};
use crate::nats::NatsServer;
use crate::node::{LOG, Node};
use crate::sse_client::Events;
use crate::support::{body_of, sign, status};

/// The messages that each of two publishers publishes.
const EACH: usize = 60;

/// The messages that the reader of events reads on each of three nodes.
const ON_EACH_NODE: usize = 2 * EACH / 3;

/// Posts numbered messages; returns the ids in the answers, by the text of the message.
fn post(address: SocketAddr) -> BTreeMap<String, Value> {
    let token = sign(&json!({"write": ["c"]}));
    let one = |number| {
        let data = format!("posted {number}");
        let body = json!({"channel": "c", "data": data}).to_string();
        let mut stream = TcpStream::connect(address).unwrap();
        let head = "POST /any HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer";
        write!(stream, "{head} {token}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(status(&answer), 200, "{answer}");
        (data, body_of(&answer)["id"].clone())
    };
    (1..=EACH).map(one).collect()
}

/// Sends as many on a WebSocket.
fn send(address: SocketAddr) -> BTreeMap<String, Value> {
    let mut publisher = Publisher::enter(address, "sent", &["c"]);
    for _ in 0..EACH {
        publisher.publish("c");
        // One at a time, so that those of the other publisher come in between.
        publisher.settle();
    }
    assert!(publisher.refused.is_empty(), "{:?}", publisher.refused);
    publisher.stored.into_iter().map(|(number, id)| (format!("sent {number}"), id)).collect()
}

#[test]
fn a_reader_of_events_goes_from_node_to_node_and_sees_the_order_of_a_websocket() {
    let nats = NatsServer::start();
    let [a, b, c] = Node::start_all(["a", "b", "c"], &nats.url(), LOG);
    let claims = json!({"read": ["c"]});
    let mut events = Events::open(&b, "", &claims, "");
    events.access();
    let mut socket = Connection::enter(c.address(), &claims, &Value::Null);
    let [on_a, on_b] = [&a, &b].map(|node| node.address());
    let (by_events, by_socket, mut published) = std::thread::scope(|scope| {
        let publishers = [scope.spawn(move || post(on_a)), scope.spawn(move || send(on_b))];
        let mut read: Vec<Value> = Vec::new();
        for next in [Some(&a), Some(&c), None] {
            let mut last = None;
            for _ in 0..ON_EACH_NODE {
                let event = events.next();
                read.push(event.data());
                last = event.id;
            }
            // It leaves while messages come.
            if let (Some(node), Some(last)) = (next, last) {
                events = Events::open(node, "", &claims, &format!("Last-Event-ID: {last}\r\n"));
                assert_eq!(events.access()["recovered"], json!({"c": true}));
            }
        }
        let by_socket: Vec<Value> = (0..2 * EACH).map(|_| socket.message()).collect();
        let published: BTreeMap<String, Value> =
            publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect();
        (read, by_socket, published)
    });
    assert_eq!(by_events.len(), by_socket.len());
    for (event, message) in by_events.iter().zip(&by_socket) {
        assert_eq!(event, message, "a message is lost, comes twice or in another order");
        assert_eq!(published.remove(event["data"].as_str().unwrap()).as_ref(), Some(&event["id"]));
    }
    assert!(by_events.is_sorted_by_key(|message| number_of(&message["id"])) && published.is_empty());
    // The two publishers have published at the same time.
    let posted = |message: &Value| message["data"].as_str().unwrap().starts_with("posted ");
    let changes = by_events.windows(2).filter(|pair| posted(&pair[0]) != posted(&pair[1])).count();
    assert!(changes > 1, "nothing shows the order of two publishers");
}
