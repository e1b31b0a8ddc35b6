//! A log from whose middle messages were taken out: nobody is told that nothing is missing.

use serde_json::{Value, json};

use crate::clients::{Connection, Event, Publisher, number_of};
use crate::nats::NatsServer;
use crate::node::{LOG, Node};
use crate::proxy::Proxy;
use crate::support::PATIENCE;

/// Publishes this many messages, and returns the ids of all.
fn publish(node: &Node, count: usize) -> Vec<Value> {
    let mut publisher = Publisher::enter(node.address(), "p", &["chat"]);
    (0..count).for_each(|_| publisher.publish("chat"));
    publisher.settle();
    publisher.stored.into_iter().map(|(_, id)| id).collect()
}

fn delete(nats: &NatsServer, id: &Value) {
    let request = json!({"seq": number_of(id)}).to_string();
    let answer = nats.jetstream("STREAM.MSG.DELETE.philote", &request);
    assert_eq!(answer["success"], true, "{answer}");
}

/// Comes back from each of these places. Returns what `recovered` says, and the ids of the messages that are missed.
fn come_back(node: &Node, ids: &[Value]) -> Vec<(bool, Vec<Value>)> {
    let back = |id: &Value| {
        let mut connection =
            Connection::enter(node.address(), &json!({"read": ["chat"]}), &json!({"chat": id}));
        let recovered = connection.access["recovered"]["chat"].as_bool().unwrap();
        let missed = ids.iter().filter(|other| number_of(other) > number_of(id)).count();
        (recovered, (0..missed).filter(|_| recovered).map(|_| connection.message()["id"].take()).collect())
    };
    ids.iter().map(back).collect()
}

fn line(id: &Value) -> String {
    format!("messages {0} to {0} of the log were gone before this node had them", number_of(id))
}

#[test]
fn readers_that_wait_for_a_deleted_message_are_closed_and_cannot_resume_before_it() {
    let nats = NatsServer::start();
    let proxy = Proxy::start(nats.address());
    let late = Node::start("a", &proxy.url(), LOG);
    let other = Node::start("b", &nats.url(), LOG);
    let mut reader = Connection::enter(late.address(), &json!({"read": ["chat"]}), &Value::Null);
    publish(&other, 1);
    assert_eq!(reader.data(), "p 1");
    proxy.sever();
    late.wait_unready();
    let ids = publish(&other, 5);
    delete(&nats, &ids[2]);
    proxy.heal();
    late.wait_ready();
    assert_eq!([reader.message()["id"].take(), reader.message()["id"].take()], ids[..2], "before the hole");
    assert!(matches!(reader.next(), Event::Closed(1012, _)));
    late.wait_for("a line", PATIENCE, |node| node.log().contains(&line(&ids[2])));
    assert!(late.counted("gaps") > 0);
    let told = come_back(&late, &ids);
    assert_eq!(told[0], (false, vec![]));
    assert_eq!(told[1], (false, vec![]));
    assert_eq!(told[3], (true, ids[4..].to_vec()));
    // The other node had the message before it was deleted.
    assert_eq!(come_back(&other, &ids)[0], (true, ids[1..].to_vec()));
}

#[test]
fn a_node_that_starts_recovers_nobody_across_a_hole() {
    let nats = NatsServer::start();
    let first = Node::start("a", &nats.url(), LOG);
    let ids = publish(&first, 8);
    delete(&nats, &ids[2]);
    let late = Node::start("b", &nats.url(), LOG);
    let told = come_back(&late, &ids);
    assert_eq!((&told[1], &told[3]), (&(false, vec![]), &(true, ids[4..].to_vec())));
    late.wait_for("a line", PATIENCE, |node| node.log().contains(&line(&ids[2])));
    // Behind several holes, too. The histories may begin later than at the last one.
    delete(&nats, &ids[4]);
    delete(&nats, &ids[6]);
    let later = Node::start("c", &nats.url(), LOG);
    let told = come_back(&later, &ids);
    assert!(told[..6].iter().all(|(recovered, _)| !recovered), "{told:?}");
    assert_eq!(told[7], (true, vec![]));
    let more = publish(&first, 1);
    let mut back = Connection::enter(later.address(), &json!({"read": ["chat"]}), &json!({"chat": ids[7]}));
    assert_eq!(back.access["recovered"]["chat"], true);
    assert_eq!(back.message()["id"], more[0]);
}
