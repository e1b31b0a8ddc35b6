//! What clients of a node are told that has not read the log yet, or that must read it from its beginning again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::clients::{Connection, Event, Publisher, number_of};
use crate::nats::NatsServer;
use crate::node::{LOG, Node};
use crate::proxy::Proxy;
use crate::support::{PATIENCE, sign};

/// Holds a proxy's messages from the server back at the first one for which `chosen` returns true, and at most for a second,
/// so that no node gives its link up. Returns the two ends: it has come, and it may go on.
fn hold_at(
    proxy: &Proxy,
    mut chosen: impl FnMut(&[u8]) -> bool + Send + 'static,
) -> (Receiver<()>, Sender<()>) {
    let ((came, comes), (go, goes)) = (channel(), channel());
    proxy.lose(move |message| {
        if chosen(message) {
            came.send(()).unwrap();
            let _ = goes.recv_timeout(Duration::from_secs(1));
        }
        false
    });
    (comes, go)
}

fn contains(message: &[u8], text: &str) -> bool {
    message.windows(text.len()).any(|bytes| bytes == text.as_bytes())
}

/// Such a client reads nothing any more. It got an answer to its token that named its channels and no position, and "forbidden"
/// for the presence of a channel that it had joined.
#[test]
fn a_client_that_is_about_to_be_closed_gets_no_answer_without_positions() {
    let mut nats = NatsServer::start();
    let node = Node::start("a", &nats.url(), LOG);
    let mut publisher = Publisher::enter(node.address(), "p", &["hall"]);
    publisher.publish("hall");
    publisher.settle();
    node.stop();
    nats.kill();
    let node = Node::start_unready("a", &nats.url(), LOG);
    let claims = json!({"read": ["hall"], "may": {"read": ["room:*"]}, "presence": true});
    let token = sign(&json!({"read": ["hall", "news"], "presence": true}));
    // The closes are spread over time, so most of these ask before.
    let mut clients = [(); 60].map(|()| Connection::enter(node.address(), &claims, &Value::Null));
    nats.restart();
    node.wait_for("its readers are closed", PATIENCE, |node| node.counted("readers_closed") > 0);
    let requests = [json!({"auth": token}), json!({"join": ["room:1"]}), json!({"presence": ["hall"]})];
    for (at, client) in clients.iter_mut().enumerate() {
        // One that was closed already cannot send.
        let _ = client.send(&requests[at % requests.len()]);
    }
    let mut asked = 0;
    for client in &mut clients {
        match client.next() {
            Event::Frame(frame) => panic!("an answer to a client that reads nothing: {frame}"),
            Event::Closed(code, reason) => assert!([1012, 1006].contains(&code), "{code} {reason}"),
        }
        asked += 1;
    }
    assert_eq!(asked, clients.len());
}

/// The node keeps the part that it has read, and reads on from there: what was told to clients meanwhile stays true.
#[test]
fn a_position_from_the_middle_of_the_log_is_good_after_the_link_was_cut_there() {
    const MESSAGES: usize = 1_600;
    let nats = NatsServer::start();
    let first = Node::start("a", &nats.url(), LOG);
    let mut publisher = Publisher::enter(first.address(), "p", &["chat"]);
    let before = Connection::enter(first.address(), &json!({"read": ["chat"]}), &Value::Null).access;
    (0..MESSAGES).for_each(|_| publisher.publish("chat"));
    publisher.settle();
    let proxy = Proxy::start(nats.address());
    let (mut passed, losing) = (0, Arc::new(AtomicBool::new(true)));
    let loses = losing.clone();
    proxy.lose(move |message| {
        passed += usize::from(contains(message, "\"p "));
        passed > MESSAGES / 2 && contains(message, "\"p ") && loses.load(Relaxed)
    });
    let late = Node::start_unready("b", &proxy.url(), LOG);
    late.wait_for("its link has ended", PATIENCE, |node| node.log().contains("is down"));
    let read = json!({"read": ["chat"]});
    let mut reader = Connection::enter(late.address(), &read, &Value::Null);
    let place = reader.access["ids"]["chat"].clone();
    let last = number_of(&publisher.stored[MESSAGES - 1].1);
    println!("the link was cut after {} of {last}", number_of(&place));
    assert!((100..last).contains(&number_of(&place)), "{place} is not in the middle of {last}");
    publisher.publish("chat");
    publisher.settle();
    losing.store(false, Relaxed);
    late.wait_ready();
    assert!(matches!(reader.next(), Event::Closed(1012, _)), "it has missed a part of the log");
    for id in [before["ids"]["chat"].clone(), place] {
        let mut again = Connection::enter(late.address(), &read, &json!({"chat": id}));
        assert_eq!(again.access["recovered"]["chat"], true, "{id}");
        let missed =
            publisher.stored.iter().map(|(_, place)| place).filter(|place| number_of(place) > number_of(&id));
        for place in missed {
            assert_eq!(&again.message()["id"], place);
        }
    }
}

/// Between the moment when the node knows that messages are gone and the moment when its histories begin again, a client was
/// told by the old ones that it had missed nothing, and nobody told it otherwise.
#[test]
fn a_client_that_comes_before_the_histories_begin_again_is_closed_with_the_others() {
    let nats = NatsServer::start();
    let proxy = Proxy::start(nats.address());
    let node = Node::start("a", &proxy.url(), LOG);
    let mut publisher = Publisher::enter(node.address(), "p", &["chat"]);
    publisher.publish("chat");
    publisher.settle();
    let id = publisher.stored[0].1.clone();
    proxy.sever();
    node.wait_unready();
    let other = Node::start("b", &nats.url(), LOG);
    let mut publisher = Publisher::enter(other.address(), "q", &["chat"]);
    publisher.publish("chat");
    publisher.settle();
    other.stop();
    let stream = nats.jetstream("STREAM.NAMES", "")["streams"][0].as_str().unwrap().to_owned();
    nats.jetstream(&format!("STREAM.PURGE.{stream}"), "");
    // The first consumer shows that the place is gone, and the second is that of the new beginning.
    let mut made = 0;
    let (second, go) = hold_at(&proxy, move |message| {
        let makes = contains(message, "consumer_create_response");
        made += u32::from(makes);
        makes && made == 2
    });
    proxy.heal();
    second.recv_timeout(PATIENCE).unwrap();
    let mut reader = Connection::enter(node.address(), &json!({"read": ["chat"]}), &json!({"chat": id}));
    go.send(()).unwrap();
    node.wait_ready();
    if reader.access["recovered"]["chat"] == true {
        let event = reader.next_within(PATIENCE);
        assert!(matches!(event, Some(Event::Closed(1012, _))), "nobody said that q 1 is missing: {event:?}");
    }
}
