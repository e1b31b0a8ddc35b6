//! What presence costs between nodes, its bounds, and messages of it that no node has sent.

use std::collections::BTreeSet;
use std::time::Duration;

use philote::cluster::steering::message::{Message, Nonce, Seal};
use serde_json::{Value, json};

use crate::clients::Connection;
use crate::nats::NatsServer;
use crate::nats_client::NatsClient;
use crate::node::{Node, RELAY};
use crate::presence::{Follower, enter};
use crate::steering::secret;
use crate::support::PATIENCE;

const DROPPED: &str = "philote_cluster_dropped_total{reason=\"malformed\"}";

/// Reads what nodes announce until each of these has done so three times. Returns the messages of presence.
fn told(client: &mut NatsClient, nodes: &[&str]) -> Vec<Value> {
    let mut told = Vec::new();
    let mut heard = vec![0; nodes.len()];
    while heard.iter().any(|count| *count < 3) {
        let mut message: Value = serde_json::from_slice(&client.next().payload).unwrap();
        if message["presence"].is_object() {
            told.push(message["presence"].take());
        } else if let Some(at) =
            nodes.iter().position(|name| message["node"].as_str().unwrap().starts_with(&format!("{name}@")))
        {
            heard[at] += 1;
        }
    }
    told
}

#[test]
fn of_a_channel_that_nobody_follows_nodes_tell_each_other_nothing() {
    let nats = NatsServer::start_without_jetstream();
    let nodes = Node::start_all(["a", "b"], &nats.url(), RELAY);
    let mut client = nats.client();
    client.subscribe("philote.1.n");
    let come_and_go = |channel: &str| {
        for subject in ["bob", "cy", "dan"] {
            nodes.iter().for_each(|node| drop(enter(node.address(), subject, channel)));
        }
        let _stays = nodes.each_ref().map(|node| enter(node.address(), "eve", channel));
    };
    come_and_go("quiet");
    assert_eq!(told(&mut client, &["a", "b"]), [] as [Value; 0]);
    let ann = Follower::enter(nodes[0].address(), "ann", "hall");
    come_and_go("quiet");
    let messages = told(&mut client, &["a", "b"]);
    assert!(!messages.is_empty(), "it was told that the hall is followed");
    assert!(!json!(messages).to_string().contains("quiet"), "{messages:?}");
    drop(ann);
    nodes[0].wait_until("ann has left", |status| status["connections"] == 0);
    told(&mut client, &["a", "b"]);
    come_and_go("hall");
    assert_eq!(told(&mut client, &["a", "b"]), [] as [Value; 0], "it is followed no longer");
}

#[test]
fn fault_77_forged_presence_is_dropped_and_counted() {
    let nats = NatsServer::start_without_jetstream();
    let (_secret, sections) = secret();
    let [a, b] = Node::start_all(["a", "b"], &nats.url(), &sections);
    let mut ann = Follower::enter(a.address(), "ann", "hall");
    let _bob = enter(b.address(), "bob", "hall");
    ann.wait_for(&["ann", "bob"]);
    let start = {
        let (_, out, _) = crate::steering::ctl(&b, &["nodes", "--json"]);
        let nodes: Value = serde_json::from_str(&out).unwrap();
        nodes["nodes"][0]["start"].as_str().unwrap().to_owned()
    };
    let part = json!({"channel": "hall", "whole": true, "subjects": [["eve", 1, null]], "anonymous": 9});
    let body = |number: u64, part: &Value| {
        json!({"presence": {"node": format!("b@{start}"), "number": number, "begins": true, "channels": [part]}})
            .to_string()
    };
    let mut client = nats.client();
    let mut expect = |metric: &str, payload: &[u8]| {
        let before = a.metric(metric);
        client.publish("philote.1.n", payload);
        client.flush();
        a.wait_for(metric, PATIENCE, |a| a.metric(metric) > before);
    };
    expect(DROPPED, body(1_000, &part).as_bytes());
    let forged = Seal::new(b"another secret of a cluster here", "philote");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let seal = |seal: &Seal, body: &str| {
        let node = &format!("b@{start}");
        let (nonce, answered) = (Nonce::random(), None);
        let message =
            Message { node, sent_ms: now, nonce, answered, kind: "announces", body: body.as_bytes() };
        seal.seal(&message)
    };
    expect("philote_cluster_steering_rejected_total{reason=\"forged\"}", &seal(&forged, &body(1_000, &part)));
    // With the secret, but what no node would tell.
    let right = Seal::new(crate::steering::CLUSTER_SECRET.as_bytes(), "philote");
    let info = json!({"name": "x".repeat(300)});
    for subjects in [json!([["eve", 1, info]]), json!([["eve", 1, "x"]]), json!([["x".repeat(300), 1, null]])]
    {
        let part = json!({"channel": "hall", "whole": true, "subjects": subjects});
        expect(DROPPED, &seal(&right, &body(1, &part)));
        expect(DROPPED, &seal(&right, &body(1_000_000, &part)));
    }
    expect(DROPPED, &seal(&right, r#"{"presence":{"node":"b"}}"#));
    ann.hears_nothing(Duration::from_millis(1));
    // The node itself goes on, once it has noticed that it must tell everything again.
    let _cy = enter(b.address(), "cy", "hall");
    assert_eq!((ann.subjects.len(), ann.anonymous), (2, 0));
}

#[test]
fn many_subjects_are_told_in_several_messages_and_above_the_limit_only_their_exact_number() {
    let nats = NatsServer::start_on(std::net::Ipv4Addr::LOCALHOST, "max_payload: 16384\n");
    let [a, b] = Node::start_all(["a", "b"], &nats.url(), "[presence]\nsubjects = 300\n");
    let names: Vec<String> = (0..250).map(|number| format!("{number:0>60}")).collect();
    let claims =
        |name: &str| json!({"sub": name, "read": ["hall"], "info": {"name": name, "more": "x".repeat(100)}});
    let on = |node: &Node, names: &[String]| -> Vec<Connection> {
        let enter = |name: &String| Connection::enter(node.address(), &claims(name), &Value::Null);
        names.iter().map(enter).collect()
    };
    let _readers = [on(&b, &names), on(&a, &names[..50])];
    let mut client = nats.client();
    client.subscribe("philote.1.n");
    let ann = Follower::enter(a.address(), &names[0], "hall");
    let expected: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(ann.names(), expected);
    assert_eq!(ann.subjects[&names[0]], 3);
    assert!(told(&mut client, &["a", "b"]).len() > 5, "they were told in several messages");
    // 60 more are above the limit: on both nodes some, and some on both.
    let more: Vec<String> = (250..310).map(|number| format!("{number:0>60}")).collect();
    let _more = [on(&b, &more[..40]), on(&a, &more[20..])];
    let mut asker = enter(a.address(), &names[0], "hall");
    let counted = |asker: &mut Connection| {
        asker.send(&json!({"presence": ["hall"]})).unwrap();
        let crate::clients::Event::Frame(mut frame) = asker.next() else { panic!("closed") };
        frame["presence"].take()
    };
    let began = std::time::Instant::now();
    loop {
        let answer = counted(&mut asker);
        if answer["count"] == 310 {
            assert_eq!((&answer["subjects"], &answer["cut"]), (&Value::Null, &Value::Null));
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
