//! Links of nodes without a history: one that loses packets, and one between two NATS servers.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clients::{Connection, Event, Publisher};
use crate::namespace::Namespace;
use crate::nats::{NatsServer, free_port};
use crate::node::{LOG, Node, RELAY};
use crate::proxy::Proxy;
use crate::support::PATIENCE;

/// How long a link is cut.
pub const CUT: Duration = Duration::from_secs(10);

/// Waits until `since` is as long ago as links are cut.
pub fn wait_out(since: Instant) {
    std::thread::sleep(CUT.saturating_sub(since.elapsed()));
}

/// async-nats waited for an hour before it would connect again by itself, and kept the socket for so long: a cluster whose NATS
/// is restarted again and again ran out of descriptors.
#[test]
fn the_socket_of_a_link_that_has_ended_is_closed() {
    const ENDS: usize = 5;
    let mut nats = NatsServer::start();
    let nodes =
        [("relays", RELAY), ("logs", LOG)].map(|(name, sections)| Node::start(name, &nats.url(), sections));
    let descriptors = |node: &Node| std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count();
    let before = nodes.each_ref().map(descriptors);
    for _ in 0..ENDS {
        nats.kill();
        nodes.iter().for_each(Node::wait_unready);
        nats.restart();
        nodes.iter().for_each(Node::wait_ready);
    }
    for (node, before) in nodes.iter().zip(before) {
        println!("{before} descriptors before {ENDS} restarts of NATS, {} after", descriptors(node));
        node.wait_for("its sockets are closed", PATIENCE, |node| descriptors(node) < before + ENDS - 1);
    }
}

#[test]
#[ignore = "needs root and iproute2: tests/run includes it"]
fn a_link_cut_for_ten_seconds_closes_readers_that_may_have_missed_messages_without_a_history() {
    let nats = NatsServer::start_on(Ipv4Addr::UNSPECIFIED, "");
    let inside = Namespace::new();
    let url = format!("nats://{}:{}", inside.gateway(), nats.address().port());
    let cut = Node::start_in(&inside, "a", &url, RELAY);
    let free = Node::start("b", &format!("nats://127.0.0.1:{}", nats.address().port()), RELAY);
    free.wait_for_nodes(2);
    cut.wait_for_nodes(2);
    let claims = json!({"read": ["chat"]});
    let mut readers = [&cut, &free].map(|node| Connection::enter(node.address(), &claims, &Value::Null));
    let mut inner = Publisher::enter(cut.address(), "inner", &["chat"]);
    let mut outer = Publisher::enter(free.address(), "outer", &["chat"]);
    outer.publish("chat");
    assert_eq!(readers.each_mut().map(|reader| reader.data()), ["outer 1", "outer 1"]);
    let began = Instant::now();
    inside.cut();
    cut.wait_unready();
    for _ in 0..100 {
        inner.publish("chat");
        outer.publish("chat");
    }
    inner.settle();
    outer.settle();
    for (reader, name, first) in [(0, "inner", 1), (1, "outer", 2)] {
        let read: Vec<String> = (0..100).map(|_| readers[reader].data()).collect();
        let sent: Vec<String> = (first..first + 100).map(|number| format!("{name} {number}")).collect();
        assert_eq!(read, sent, "local delivery goes on");
    }
    wait_out(began);
    inside.heal();
    cut.wait_ready();
    for reader in &mut readers {
        let Event::Closed(code, reason) = reader.next() else {
            panic!("a message from the time of the cut arrived")
        };
        assert_eq!(code, 1012, "{reason}");
    }
    println!(
        "a link cut for 10 s, no history: 100 messages on each side; lost {} and {}; all readers closed with 1012",
        cut.counted("lost"),
        free.counted("lost")
    );
    let mut reader = Connection::enter(free.address(), &claims, &Value::Null);
    inner.publish("chat");
    assert_eq!(reader.data(), "inner 101");
}

/// Two servers joined by a route through a proxy; only the second one looks for the first. `one` and `two` are further lines
/// of their configurations.
pub fn routed(one: &str, two: &str) -> (NatsServer, NatsServer, Proxy) {
    let port = free_port();
    let cluster = |listen: u16, routes: &str| {
        format!(
            "cluster {{ name: t, listen: \"127.0.0.1:{listen}\", no_advertise: true, routes: [{routes}] }}\n"
        )
    };
    // JetStream wants a route in each configuration. One to the server itself is ignored.
    let own = format!("\"nats-route://127.0.0.1:{port}\"");
    let first = NatsServer::start_on(Ipv4Addr::LOCALHOST, &(cluster(port, &own) + one));
    let proxy = Proxy::start((Ipv4Addr::LOCALHOST, port).into());
    let route = format!("\"nats-route://{}\"", proxy.address());
    let second = NatsServer::start_on(Ipv4Addr::LOCALHOST, &(cluster(free_port(), &route) + two));
    (first, second, proxy)
}

/// No client of NATS is told that two servers have lost each other, and each node still hears itself.
#[test]
fn a_route_cut_between_two_nats_servers_leaves_no_silent_gap_without_a_history() {
    let (first, second, route) = routed("", "");
    let one = Node::start("a", &first.url(), RELAY);
    let other = Node::start("b", &second.url(), RELAY);
    one.wait_for_nodes(2);
    other.wait_for_nodes(2);
    let claims = json!({"read": ["chat"]});
    let mut reader = Connection::enter(other.address(), &claims, &Value::Null);
    let mut publisher = Publisher::enter(one.address(), "p", &["chat"]);
    publisher.publish("chat");
    assert_eq!(reader.data(), "p 1");
    route.sever();
    one.wait_for_nodes(1);
    other.wait_for_nodes(1);
    publisher.publish("chat");
    publisher.settle();
    route.heal();
    one.wait_for_nodes(2);
    other.wait_for_nodes(2);
    publisher.publish("chat");
    // Two of three messages without a word would be the gap.
    match reader.next() {
        Event::Frame(message) => assert_eq!(message["data"], "p 2"),
        Event::Closed(code, reason) => assert_eq!(code, 1012, "{reason}"),
    }
    let mut reader = Connection::enter(other.address(), &claims, &Value::Null);
    let mut number = 3;
    while reader.next_within(Duration::from_millis(100)).is_none() {
        number += 1;
        assert!(number < 100, "the nodes do not hear each other again");
        publisher.publish("chat");
    }
}
