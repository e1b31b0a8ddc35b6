//! Nodes with a history while NATS, a link or a node dies: nothing that was acknowledged is lost without a word.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clients::{Connection, Event, Follower, Publisher, epoch_of, number_of};
use crate::nats::NatsServer;
use crate::node::{LOG, Node};
use crate::proxy::Proxy;
use crate::support::{PATIENCE, sign};
use crate::traffic::{Traffic, carry_on};

#[test]
fn fault_74_without_nats_a_node_with_a_history_refuses_messages_within_its_patience() {
    let mut nats = NatsServer::stopped();
    let sections = format!("{LOG}[cluster]\npatience = \"200ms\"\n");
    let node = Node::start_unready("a", &nats.url(), &sections);
    assert_eq!((node.cluster()["link"].clone(), node.ready().0), (json!("down"), 503));
    let mut reader = node.client(&["chat"]);
    let mut publisher = Publisher::enter(node.address(), "p", &["chat"]);
    publisher.publish("chat");
    publisher.settle();
    assert_eq!(publisher.refused_with("unavailable").len(), 1, "{:?}", publisher.refused);
    let api = sign(&json!({"api": true}));
    let body = json!({"channel": "chat", "data": "by HTTP"}).to_string();
    let (status, answer) = node.http("POST", "/api/publish", &api, &body);
    assert_eq!(status, 503, "{answer}");
    nats.restart();
    node.wait_ready();
    // Other nodes may have been connected before, so the reader may have missed their messages.
    let (code, _, messages) = reader.closed();
    assert_eq!((code, messages.len()), (1012, 0), "a refused message was delivered");
    let mut reader = node.client(&["chat"]);
    publisher.publish("chat");
    assert_eq!(reader.data(), "p 2", "a refused message was delivered");
}

/// A history of each node's own behind a cluster would be a silent gap for every client that moves.
#[test]
fn a_history_without_jetstream_refuses_to_start() {
    let nats = NatsServer::start_without_jetstream();
    let (status, log) = Node::start_and_end("a", &nats.url(), LOG);
    assert_eq!(status.code(), Some(78), "{log}");
    assert!(log.contains("JetStream"), "{log}");
}

#[test]
fn fault_74_nats_killed_and_restarted_under_traffic_loses_nothing_that_was_acknowledged() {
    let mut nats = NatsServer::start();
    let nodes = Node::start_all(["a", "b"], &nats.url(), LOG);
    let addresses = nodes.each_ref().map(|node| node.address());
    let traffic = Traffic::start(&addresses, Duration::from_millis(2));
    carry_on();
    nats.kill();
    for node in &nodes {
        node.wait_unready();
    }
    carry_on();
    nats.restart();
    for node in &nodes {
        node.wait_ready();
    }
    carry_on();
    let record = traffic.finish();
    record.print("NATS killed and restarted, history");
    record.assert_nobody_missed_anything();
}

/// A log in memory is gone with its server: places in it must not be taken for places in the new one.
#[test]
fn nats_killed_with_a_log_in_memory_begins_a_new_epoch() {
    let mut nats = NatsServer::start();
    let sections = format!("{LOG}[cluster]\nstorage = \"memory\"\n");
    let nodes = Node::start_all(["a", "b"], &nats.url(), &sections);
    let addresses = nodes.each_ref().map(|node| node.address());
    let traffic = Traffic::start(&addresses, Duration::from_millis(2));
    carry_on();
    nats.kill();
    for node in &nodes {
        node.wait_unready();
    }
    nats.restart();
    for node in &nodes {
        node.wait_ready();
    }
    carry_on();
    let record = traffic.finish();
    record.print("NATS killed and restarted, history in memory");
    record.assert_kept();
    for follower in &record.followers {
        assert!(follower.recovered.contains(&false), "the old log is gone: {:?}", follower.closes);
    }
}

/// As behind a broken switch: no packet comes, no socket closes.
#[test]
fn fault_77_a_held_link_is_seen_and_after_it_heals_nobody_has_missed_anything() {
    let nats = NatsServer::start();
    let proxy = Proxy::start(nats.address());
    let cut = Node::start("a", &proxy.url(), LOG);
    let free = Node::start("b", &nats.url(), LOG);
    free.wait_for_nodes(2);
    let traffic = Traffic::start(&[free.address(), cut.address()], Duration::from_millis(2));
    carry_on();
    proxy.cut();
    cut.wait_unready();
    free.wait_for_nodes(1);
    assert_eq!(free.ready().0, 200, "the other node is not concerned");
    carry_on();
    proxy.heal();
    cut.wait_ready();
    free.wait_for_nodes(2);
    carry_on();
    let record = traffic.finish();
    record.print("a link held for some seconds, history");
    record.assert_nobody_missed_anything();
}

/// Nothing follows the lost message that would show the gap. Heartbeats name the last sequence.
#[test]
fn a_lost_last_message_is_seen_and_fetched_within_seconds() {
    let nats = NatsServer::start();
    let proxy = Proxy::start(nats.address());
    let node = Node::start("a", &proxy.url(), LOG);
    let publishing = Node::start("b", &nats.url(), LOG);
    let mut reader = Connection::enter(node.address(), &json!({"read": ["chat"]}), &Value::Null);
    let mut publisher = Publisher::enter(publishing.address(), "p", &["chat"]);
    publisher.publish("chat");
    assert_eq!(reader.data(), "p 1");
    let mut first = true;
    proxy.lose(move |message| {
        let found = message.windows(5).any(|bytes| bytes == b"\"p 2\"");
        found && std::mem::take(&mut first)
    });
    let began = Instant::now();
    publisher.publish("chat");
    publisher.settle();
    let mut place = String::new();
    let event = reader.next();
    let seen = began.elapsed();
    assert_eq!(proxy.lost(), 1);
    let how = match event {
        Event::Frame(message) => {
            assert_eq!(message["data"], "p 2");
            place.push_str(message["id"].as_str().unwrap());
            "delivered"
        }
        Event::Closed(1012, _) => "readers closed with 1012",
        other => panic!("{other:?}"),
    };
    println!("the last message lost: {how} after {seen:?}");
    assert!(seen < PATIENCE / 3, "{seen:?}");
    // Whatever the reader was told, the message is there for those that come back.
    node.wait_ready();
    let mut late = Connection::enter(node.address(), &json!({"read": ["chat"]}), &json!({"chat": null}));
    assert_eq!([late.data(), late.data()], ["p 1", "p 2"]);
}

#[test]
fn a_killed_node_disturbs_no_other_and_its_readers_go_on_elsewhere() {
    let nats = NatsServer::start();
    let [one, other] = Node::start_all(["a", "b"], &nats.url(), LOG);
    let mut publisher = Publisher::enter(one.address(), "p", &["chat"]);
    let mut stays = Follower::enter(other.address(), "chat");
    let mut moves = Follower::enter(one.address(), "chat");
    for _ in 0..1_000 {
        publisher.publish("chat");
    }
    assert!(moves.read(one.address(), PATIENCE, "p 500"));
    publisher.settle();
    let (killed, to) = (one, other.address());
    drop(killed);
    other.wait_for_nodes(1);
    moves.move_to(to);
    let mut publisher = Publisher::enter(to, "q", &["chat"]);
    publisher.publish("chat");
    for follower in [&mut moves, &mut stays] {
        assert!(follower.read(to, PATIENCE, "q 1"));
        let data: Vec<String> = (1..=1_000).map(|number| format!("p {number}")).collect();
        assert!(follower.data()[..1_000] == data, "{}", follower.messages.len());
        assert!(follower.closes.is_empty());
    }
    assert_eq!(moves.recovered, [true]);
}

/// Such clients have missed what the log had, and are closed. One that went on from the place of its own message would never
/// get it.
#[test]
fn clients_that_came_before_the_log_was_read_are_not_told_the_places_of_their_messages() {
    let mut nats = NatsServer::start();
    let node = Node::start("a", &nats.url(), LOG);
    store(&nats, &node, 10);
    node.stop();
    nats.kill();
    let sections = format!("{LOG}[cluster]\npatience = \"1m\"\n");
    let node = Node::start_unready("a", &nats.url(), &sections);
    let claims = json!({"read": ["chat"], "write": ["chat"]});
    // The closes are spread over time, so most of these get their answer before.
    let mut clients = [(); 40].map(|()| Connection::enter(node.address(), &claims, &Value::Null));
    for client in &mut clients {
        client.send(&json!({"channel": "chat", "data": "early", "ack": "early"})).unwrap();
    }
    nats.restart();
    let mut answers = Vec::new();
    for client in &mut clients {
        loop {
            match client.next() {
                Event::Frame(frame) => answers.push(frame),
                Event::Closed(code, reason) => break assert_eq!(code, 1012, "{reason}"),
            }
        }
    }
    assert!(!answers.is_empty(), "all were closed before the log had answered");
    for answer in answers {
        assert_eq!((&answer["ack"], answer.get("id")), (&json!("early"), None), "{answer}");
    }
}

/// Stores messages in the log as another run of a node would, far faster than a client could.
fn store(nats: &NatsServer, node: &Node, messages: u64) {
    let mut spy = nats.client();
    spy.subscribe("philote.1.p.>");
    let mut publisher = Publisher::enter(node.address(), "p", &["chat"]);
    publisher.publish("chat");
    publisher.settle();
    let example = spy.next();
    let text = String::from_utf8(example.payload).unwrap();
    let (_, message) = text.split_once('\n').unwrap();
    let mut stranger = nats.client();
    for number in 1..=messages {
        let payload = format!("n@0000000000000007 {number} m -\n{message}");
        stranger.publish(&example.subject, payload.as_bytes());
    }
    stranger.flush();
}

/// The record of the epoch is in the log, and leaves it with the oldest messages.
#[test]
fn a_node_joins_after_the_whole_log_was_replaced() {
    const MESSAGES: u64 = 10_000;
    let nats = NatsServer::start();
    let sections = format!("{LOG}[cluster]\nlog_bytes = \"1MiB\"\n");
    let first = Node::start("a", &nats.url(), &sections);
    let enter = || Connection::enter(first.address(), &json!({"read": ["chat"]}), &Value::Null);
    let before = enter().access["ids"]["chat"].clone();
    for turn in 1..=2 {
        store(&nats, &first, MESSAGES);
        first.wait_for("it has read them", PATIENCE, |node| node.counted("received") >= MESSAGES * turn);
        // It must become ready, which it is only with an epoch.
        drop(Node::start("b", &nats.url(), &sections));
        first.wait_for_nodes(1);
    }
    assert_eq!(epoch_of(&enter().access["ids"]["chat"]), epoch_of(&before), "clients could not go on");
}

/// NATS sends a log as fast as the network takes it. More than a node can read in that time must wait there, and not end
/// the link: a node on a busy machine began again and again, and was never ready.
#[test]
fn a_node_that_reads_a_long_log_slowly_is_ready_after_one_attempt() {
    const MESSAGES: u64 = 100_000;
    let nats = NatsServer::start();
    let first = Node::start("a", &nats.url(), LOG);
    store(&nats, &first, MESSAGES);
    let late = Node::start("b", &nats.url(), LOG);
    late.wait_for("it has read the log", PATIENCE, |node| node.counted("received") >= MESSAGES);
    assert_eq!((late.counted("received"), late.counted("link_ends")), (MESSAGES + 1, 0), "{}", late.log());
    assert!(!late.log().contains("is down"), "{}", late.log());
}

/// What NATS has sent already waits in the node. Reading it went on beside the next link, which reads the same: messages came
/// twice and out of order into the history, and then the daemon aborted.
#[test]
fn fault_75_a_link_that_ends_while_a_long_log_is_read_delivers_nothing_twice() {
    const MESSAGES: u64 = 100_000;
    let nats = NatsServer::start();
    let first = Node::start("a", &nats.url(), LOG);
    store(&nats, &first, MESSAGES);
    let proxy = Proxy::start(nats.address());
    let (half, seen) = std::sync::mpsc::channel();
    let mut passed = 0;
    proxy.lose(move |_| {
        passed += 1;
        if passed == MESSAGES / 2 {
            half.send(()).unwrap();
        }
        false
    });
    let late = Node::start_unready("b", &proxy.url(), LOG);
    seen.recv_timeout(PATIENCE).unwrap();
    proxy.sever();
    proxy.heal();
    late.wait_ready();
    assert_eq!(late.counted("received"), MESSAGES + 1, "{}", late.log());
    let mut reader = Connection::enter(late.address(), &json!({"read": ["chat"]}), &json!({"chat": null}));
    let begins = number_of(&reader.access["ids"]["chat"]);
    let numbers: Vec<u64> = (0..100).map(|_| number_of(&reader.message()["id"])).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next) && numbers[0] > begins, "{numbers:?}");
}
