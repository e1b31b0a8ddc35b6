//! Joining channels on an open connection: the answer means that nothing is missing from then on.

use std::time::Duration;

use serde_json::{Value, json};

use crate::clients::{Connection, Event, Publisher};
use crate::nats::NatsServer;
use crate::node::{LOG, Node, RELAY};
use crate::proxy::{Proxy, SILENCE};
use crate::support::{PATIENCE, sign};

/// The next frame that is no message; asserts that it comes.
fn answer(client: &mut Connection) -> Value {
    match client.next() {
        Event::Frame(frame) => frame,
        Event::Closed(code, reason) => panic!("closed with {code}: {reason}"),
    }
}

#[test]
fn a_channel_is_answered_as_joined_when_messages_of_other_nodes_reach_it() {
    let nats = NatsServer::start_without_jetstream();
    let proxy = Proxy::start(nats.address());
    let a = Node::start_unready("a", &proxy.url(), RELAY);
    let b = Node::start_unready("b", &nats.url(), RELAY);
    [&a, &b].iter().for_each(|node| node.wait_for_nodes(2));
    let claims = json!({"read": ["hall"], "may": {"read": ["room:*"]}});
    let mut reader = Connection::enter(a.address(), &claims, &Value::Null);
    let mut elsewhere = Connection::enter(b.address(), &json!({"may": {"write": ["room:*"]}}), &Value::Null);
    let mut here = Connection::enter(a.address(), &json!({"write": ["hall"]}), &Value::Null);
    let token = sign(&json!({"read": ["hall", "news"], "may": {"read": ["room:*"]}}));
    let requests = [
        (json!({"join": ["room:1", "room:2"]}), "joined"),
        (json!({"auth": token}), "access"),
        (json!({"join": ["room:3"]}), "joined"),
    ];
    for (request, key) in requests {
        proxy.cut();
        reader.send(&request).unwrap();
        // It gets its other messages meanwhile.
        here.send(&json!({"channel": "hall", "data": "meanwhile"})).unwrap();
        assert_eq!(answer(&mut reader)["data"], "meanwhile", "{request} was answered before NATS knew");
        assert!(reader.next_within(SILENCE).is_none(), "{request} was answered before NATS knew");
        proxy.heal();
        assert!(answer(&mut reader)[key].is_object(), "{request}");
        a.wait_ready();
    }
    for channel in ["room:1", "room:2", "room:3"] {
        elsewhere.send(&json!({"channel": channel, "data": channel})).unwrap();
        assert_eq!(answer(&mut reader)["data"], channel);
    }
    // What has readers here already, or what is not allowed, is answered at once.
    let mut second = Connection::enter(a.address(), &claims, &Value::Null);
    proxy.cut();
    second.send(&json!({"join": ["room:1"]})).unwrap();
    assert!(answer(&mut second)["joined"].is_object());
    second.send(&json!({"join": ["hidden"]})).unwrap();
    assert_eq!(answer(&mut second)["error"], "forbidden");
    // With a link that stays silent it is answered within a bound.
    second.send(&json!({"join": ["room:9"]})).unwrap();
    second.send(&json!({"leave": ["room:9"]})).unwrap();
    let Some(Event::Frame(joined)) = second.next_within(PATIENCE) else { panic!("no answer") };
    assert!(joined["joined"].is_object(), "{joined}");
    assert_eq!(answer(&mut second)["left"], json!(["room:9"]), "in its order");
}

#[test]
fn a_channel_is_resumed_on_an_open_connection_of_a_node_that_lags_behind() {
    let nats = NatsServer::start();
    let proxy = Proxy::start(nats.address());
    let a = Node::start_unready("a", &nats.url(), LOG);
    let b = Node::start_unready("b", &proxy.url(), LOG);
    [&a, &b].iter().for_each(|node| node.wait_ready());
    let claims = json!({"read": ["hall"], "may": {"read": ["room:*"]}});
    let mut reader = Connection::enter(b.address(), &claims, &Value::Null);
    let mut publisher = Publisher::enter(a.address(), "p", &["room:1", "news"]);
    let token = sign(&json!({"read": ["hall", "news"], "may": {"read": ["room:*"]}}));
    for (channel, key) in [("room:1", "joined"), ("news", "access")] {
        proxy.cut();
        publisher.publish(channel);
        publisher.settle();
        let id = publisher.stored.last().unwrap().1.clone();
        let request = match key {
            "joined" => json!({"join": [channel], "since": {channel: id}}),
            _ => json!({"auth": token, "since": {channel: id}}),
        };
        reader.send(&request).unwrap();
        assert!(reader.next_within(SILENCE).is_none(), "the message of this id is not there yet");
        proxy.heal();
        let mut answer = answer(&mut reader)[key].take();
        let recovered = if key == "joined" {
            &mut answer[channel]["recovered"]
        } else {
            &mut answer["recovered"][channel]
        };
        assert_eq!(recovered.take(), true, "{answer}");
        b.wait_ready();
    }
    publisher.publish("room:1");
    assert_eq!(reader.data(), "p 3");
    // It waits for no longer than a publisher would.
    proxy.cut();
    publisher.publish("room:1");
    publisher.settle();
    let id = publisher.stored.last().unwrap().1.clone();
    reader.send(&json!({"join": ["room:2"], "since": {"room:2": id}})).unwrap();
    let Some(Event::Frame(answer)) = reader.next_within(Duration::from_secs(10)) else { panic!("no answer") };
    assert_eq!(answer["joined"]["room:2"]["recovered"], false, "{answer}");
}
