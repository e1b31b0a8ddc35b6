//! The fixture itself: a test that trusts it must not pass because nothing was cut or killed.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::namespace::Namespace;
use crate::nats::NatsServer;
use crate::nats_client::NatsClient;
use crate::node::Node;
use crate::proxy::{Proxy, SILENCE};

/// Creates a stream whose messages are in a file, and stores these.
fn store(server: &NatsServer, messages: &[&str]) {
    let config = json!({"name": "s", "subjects": ["s.>"], "storage": "file"}).to_string();
    let answer = server.jetstream("STREAM.CREATE.s", &config);
    assert!(answer.get("error").is_none(), "{answer}");
    for message in messages {
        let answer: Value = serde_json::from_slice(&server.client().request("s.x", message)).unwrap();
        assert!(answer["seq"].is_u64(), "{answer}");
    }
}

fn stored(server: &NatsServer) -> u64 {
    server.jetstream("STREAM.INFO.s", "")["state"]["messages"].as_u64().unwrap()
}

#[test]
fn a_killed_nats_server_keeps_its_port_and_its_store_and_an_older_store_can_be_put_back() {
    let mut server = NatsServer::start();
    let address = server.address();
    store(&server, &["1", "2"]);
    server.kill();
    let older = server.copy_store();
    server.restart();
    assert_eq!((server.address(), stored(&server)), (address, 2));
    server.client().request("s.x", "3");
    assert_eq!(stored(&server), 3);
    server.kill();
    server.put_back(&older);
    server.restart();
    assert_eq!(stored(&server), 2);
}

#[test]
fn a_frozen_nats_server_answers_after_it_is_thawed() {
    let server = NatsServer::start();
    let (mut client, mut other) = (server.client(), server.client());
    client.subscribe("x");
    server.freeze();
    other.publish("x", b"late");
    let began = Instant::now();
    let waiting = std::thread::spawn(move || client.next());
    std::thread::sleep(SILENCE);
    assert!(!waiting.is_finished());
    server.thaw();
    assert_eq!(waiting.join().unwrap().payload, b"late");
    assert!(began.elapsed() >= SILENCE);
}

#[test]
fn a_proxy_holds_back_loses_and_severs() {
    let server = NatsServer::start();
    let proxy = Proxy::start(server.address());
    let mut behind = NatsClient::connect(proxy.address());
    behind.subscribe("x");
    let mut direct = server.client();
    proxy.lose(|message| message.ends_with(b"\r\n2\r\n"));
    for text in [&b"1"[..], b"2", b"3"] {
        direct.publish("x", text);
    }
    direct.flush();
    assert_eq!([behind.next().payload, behind.next().payload], [b"1".to_vec(), b"3".to_vec()]);
    assert_eq!(proxy.lost(), 1);
    proxy.cut();
    direct.publish("x", b"held");
    direct.flush();
    let waiting = std::thread::spawn(move || (behind.next().payload, behind));
    std::thread::sleep(SILENCE);
    assert!(!waiting.is_finished());
    proxy.heal();
    let (payload, mut behind) = waiting.join().unwrap();
    assert_eq!(payload, b"held");
    proxy.sever();
    assert!(behind.try_next().is_none());
    assert!(NatsClient::try_connect(proxy.address()).is_none());
    proxy.heal();
    NatsClient::connect(proxy.address()).flush();
}

#[test]
#[ignore = "needs root and iproute2: tests/run includes it"]
fn a_cut_link_of_a_namespace_loses_packets_and_clients_still_reach_what_runs_inside() {
    let server = NatsServer::start_on(Ipv4Addr::UNSPECIFIED, "");
    let namespace = Namespace::new();
    let at = format!("{}/{}", namespace.gateway(), server.address().port());
    let reaches = || {
        let mut plain = Command::new("bash");
        plain.args(["-c", &format!("read -t 1 -r line </dev/tcp/{at} && echo \"$line\"")]);
        let output = namespace.enter(&plain).output().unwrap();
        output.stdout.starts_with(b"INFO ")
    };
    assert!(reaches());
    namespace.cut();
    assert!(!reaches());
    let daemon = Node::start_plain_in(&namespace);
    daemon.client(&["c"]).settle();
    namespace.heal();
    assert!(reaches());
}
