//! Links of nodes with a history: one that loses packets, and one between two NATS servers.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::links::{routed, wait_out};
use crate::namespace::Namespace;
use crate::nats::NatsServer;
use crate::node::{LOG, Node};
use crate::proxy::Proxy;
use crate::support::PATIENCE;
use crate::traffic::Traffic;

#[test]
#[ignore = "needs root and iproute2: tests/run includes it"]
fn a_link_cut_for_ten_seconds_loses_nothing_that_was_acknowledged_with_a_history() {
    let nats = NatsServer::start_on(Ipv4Addr::UNSPECIFIED, "jetstream { store_dir: \"STORE\" }\n");
    let inside = Namespace::new();
    let url = format!("nats://{}:{}", inside.gateway(), nats.address().port());
    let cut = Node::start_in(&inside, "a", &url, LOG);
    let free = Node::start("b", &format!("nats://127.0.0.1:{}", nats.address().port()), LOG);
    free.wait_for_nodes(2);
    let traffic = Traffic::start(&[free.address(), cut.address()], Duration::from_millis(2));
    let began = Instant::now();
    inside.cut();
    cut.wait_unready();
    println!("a cut link is noticed after {:?}", began.elapsed());
    free.wait_for_nodes(1);
    assert_eq!(free.ready().0, 200, "the other node is not concerned");
    wait_out(began);
    let began = Instant::now();
    inside.heal();
    cut.wait_ready();
    println!("and its end after {:?}", began.elapsed());
    free.wait_for_nodes(2);
    let record = traffic.finish();
    record.print("a link cut for 10 s, history");
    record.assert_nobody_missed_anything();
}

/// Two servers with JetStream, joined by a route. The stream is on one of them, and the other one's clients lose it when the
/// route is cut, although their own server answers.
#[test]
fn a_route_cut_between_two_nats_servers_is_a_link_that_is_down_with_a_history() {
    let jetstream = |name: &str| format!("server_name: {name}\njetstream {{ store_dir: \"STORE\" }}\n");
    let (first, second, route) = routed(&jetstream("one"), &jetstream("two"));
    // JetStream answers once both have elected a leader.
    let deadline = Instant::now() + PATIENCE;
    while !first.client().answers("$JS.API.INFO", Duration::from_secs(1)) {
        assert!(Instant::now() < deadline, "JetStream does not start: {}", first.log());
    }
    let nodes = [Node::start("a", &first.url(), LOG), Node::start("b", &second.url(), LOG)];
    nodes[0].wait_for_nodes(2);
    let log = &first.jetstream("STREAM.NAMES", "")["streams"][0];
    let info = first.jetstream(&format!("STREAM.INFO.{}", log.as_str().unwrap()), "");
    let [mut beside, mut apart] = nodes.each_ref();
    if info["cluster"]["leader"] == "two" {
        (beside, apart) = (apart, beside);
    }
    let traffic = Traffic::start(&[beside.address(), apart.address()], Duration::from_millis(2));
    for how in [Proxy::cut as fn(&Proxy), Proxy::sever] {
        how(&route);
        apart.wait_unready();
        beside.wait_for_nodes(1);
        route.heal();
        apart.wait_ready();
        beside.wait_ready();
        beside.wait_for_nodes(2);
    }
    let record = traffic.finish();
    record.print("a cut between two NATS servers, history");
    record.assert_nobody_missed_anything();
}
