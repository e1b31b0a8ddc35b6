//! Messages on the cluster's subjects that no node sent: dropped, counted, and without effect.

use serde_json::{Value, json};

use crate::clients::{Connection, Publisher};
use crate::nats::NatsServer;
use crate::node::{LOG, Node, RELAY};
use crate::steering::secret;
use crate::support::PATIENCE;

const ISSUER: &str = "0a1b2c3d-0000-4000-8000-000000000001";

/// Payloads that no node of this version sends.
fn hostile() -> Vec<Vec<u8>> {
    let message =
        |channel: &str| format!(r#"{{"issuer":"{ISSUER}","channel":"{channel}","data":"hostile"}}"#);
    let head = "n@0000000000000007 1 m -";
    let good = message("chat");
    let texts = [
        String::new(),
        "\n".to_owned(),
        good.clone(),
        head.to_owned(),
        format!("{head}\n"),
        format!("{head}\n{good}\n"),
        format!("{head}\n{}", message("other")),
        format!("{head}\n{}", good.replace("\"hostile\"", "{\"hostile\":1}")),
        format!("{head}\n{}", good.replace("data", "error")),
        format!("{head}\n{}", good.replace("hostile", "\\ud800")),
        format!("{head}\n{}", good.replace(ISSUER, "someone")),
        format!("{head} 1\n{good}"),
        format!("n@0000000000000007 1 z -\n{good}"),
        format!("n@0000000000000007 99999999999999999999 m -\n{good}"),
        format!("{}@0000000000000007 1 m -\n{good}", "n".repeat(65)),
        format!("n@0000000000000007 1 m {}\n{good}", vec![ISSUER; 2_000].join(",")),
        format!("{head}\n{}", "[".repeat(10_000)),
        "{}".to_owned(),
        "null".to_owned(),
        r#"{"name":"n","version":"1.0.0","nodes":1e400}"#.to_owned(),
        "x".repeat(1_000_000),
    ];
    let mut payloads: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
    payloads.push(vec![0xff; 200]);
    payloads.push((0..=255).collect());
    payloads.push(b"\0".repeat(100));
    payloads
}

#[test]
fn fault_77_messages_that_no_node_sent_are_dropped_and_counted() {
    let nats = NatsServer::start();
    for sections in [RELAY, LOG] {
        let [one, other] = Node::start_all(["a", "b"], &nats.url(), sections);
        let claims = json!({"read": ["chat", "other", "A", "a"]});
        let mut reader = Connection::enter(one.address(), &claims, &Value::Null);
        let mut publisher = Publisher::enter(other.address(), "p", &["chat"]);
        publisher.publish("chat");
        assert_eq!(reader.data(), "p 1");
        // The subject of the channel in the log has its shard; a subscription tells it.
        let mut spy = nats.client();
        spy.subscribe("philote.1.m.>");
        spy.subscribe("philote.1.p.>");
        publisher.publish("chat");
        let subject = spy.next().subject;
        assert_eq!(reader.data(), "p 2");
        let before = one.counted("dropped");
        let mut stranger = nats.client();
        let mut sent = 0;
        for payload in hostile() {
            for subject in [&*subject, "philote.1.n", "philote.1.s"] {
                stranger.publish(subject, &payload);
                stranger.publish_with_reply(subject, "_INBOX.stranger", &payload);
            }
            sent += 4;
        }
        // Subjects that no channel has, and another version's.
        for subject in [
            "philote.1.p.zz.chat",
            "philote.1.p.00.=41",
            "philote.1.p.x",
            "philote.1.p.00.a.b",
            "philote.2.m.chat",
            "philote.2.p.00.chat",
        ] {
            stranger.publish(subject, &hostile()[4]);
        }
        stranger.flush();
        // What follows is delivered, and nothing before it was.
        publisher.publish("chat");
        assert_eq!(reader.data(), "p 3", "{sections}");
        for node in [&one, &other] {
            node.wait_ready();
            node.wait_for_nodes(2);
        }
        // Announcements come by another subscription than the message that follows them.
        one.wait_for(&format!("it has counted {sent}: {sections}"), PATIENCE, |one| {
            one.counted("dropped") - before >= sent
        });
    }
}

/// Whoever can write to NATS can write messages, but only of the form that nodes write, and they are counted as theirs.
#[test]
fn fault_77_nodes_with_another_prefix_share_nothing() {
    let nats = NatsServer::start();
    for sections in [RELAY, LOG] {
        let one = Node::start("a", &nats.url(), sections);
        let elsewhere = format!("{sections}[cluster]\nsubject_prefix = \"another.one\"\n");
        let [two, three] = Node::start_all(["b", "c"], &nats.url(), &elsewhere);
        let claims = json!({"read": ["chat"]});
        let mut readers = [&one, &two].map(|node| Connection::enter(node.address(), &claims, &Value::Null));
        let mut far = Publisher::enter(three.address(), "far", &["chat"]);
        let mut near = Publisher::enter(one.address(), "near", &["chat"]);
        far.publish("chat");
        assert_eq!(readers[1].data(), "far 1");
        near.publish("chat");
        assert_eq!(readers[0].data(), "near 1", "{sections}");
        assert_eq!(one.cluster()["nodes"], 1);
    }
}

/// A node with a history and one without cannot understand each other.
#[test]
fn fault_77_a_node_in_the_other_mode_is_named_in_a_warning() {
    let nats = NatsServer::start();
    let relay = Node::start("relays", &nats.url(), RELAY);
    let log = Node::start("logs", &nats.url(), LOG);
    relay.wait_for("it warns", PATIENCE, |node| node.log().contains("logs"));
    log.wait_for("it warns", PATIENCE, |node| node.log().contains("relays"));
}

/// Each asked for an answer to all nodes, and was a line in the log. The answers broke the link.
#[test]
fn fault_77_a_flood_of_invented_nodes_breaks_no_link_and_fills_no_log() {
    const INVENTED: usize = 30_000;
    let nats = NatsServer::start();
    let (_secret, sections) = secret();
    let nodes = Node::start_all(["a", "b"], &nats.url(), &sections);
    let mut stranger = nats.client();
    for number in 0..INVENTED {
        let announcement = json!({
            "node": format!("n{number}@0000000000000001"), "version": "1.0.0", "mode": "relay", "number": 1, "sent": 0,
            "connections": 0, "messages_per_second": 0.0, "asks": true, "epoch": "f00d",
        });
        stranger.publish("philote.1.n", announcement.to_string().as_bytes());
    }
    stranger.flush();
    let late = Node::start("late", &nats.url(), &sections);
    for node in &nodes {
        node.wait_for("it knows the node that starts", PATIENCE, |node| {
            let listed = node.admin("GET", "/v1/nodes", "");
            listed["nodes"].as_array().unwrap().iter().any(|node| node["name"] == "late")
        });
        node.wait_for("it counts the lines", 2 * PATIENCE, |node| node.log().contains("were left out"));
        assert_eq!(node.counted("link_ends"), 0, "{}", node.log());
        let lines = node.log().matches(" is there").count();
        assert!(lines < 200, "{lines} lines");
    }
    late.wait_ready();
}

#[test]
fn fault_77_a_flood_of_forged_epochs_fills_no_log() {
    const EPOCHS: u64 = 2_000;
    let nats = NatsServer::start();
    let node = Node::start("a", &nats.url(), LOG);
    let mut stranger = nats.client();
    for number in 1..=EPOCHS {
        let record = json!({"epoch": format!("{:x}", number << 32 | 1 << 63), "replaces": null});
        stranger.publish("philote.1.p.epoch", record.to_string().as_bytes());
    }
    stranger.flush();
    node.wait_for("it counts the lines", 2 * PATIENCE, |node| node.log().contains("were left out"));
    let lines = node.log().matches("given the log a new epoch").count();
    assert!((1..200).contains(&lines), "{lines} lines");
    let mut publisher = Publisher::enter(node.address(), "p", &["chat"]);
    publisher.publish("chat");
    publisher.settle();
    assert_eq!(publisher.stored.len(), 1);
}

/// NATS answers no request of a node itself that somebody reads.
#[test]
fn fault_77_who_reads_all_subjects_of_nats_takes_no_link_down() {
    const SIGNS: usize = 5;
    let nats = NatsServer::start();
    for sections in [RELAY, LOG] {
        let nodes = Node::start_all(["a", "b"], &nats.url(), sections);
        let mut stranger = nats.client();
        stranger.subscribe(">");
        let mut own: Vec<String> = Vec::new();
        while own.len() < SIGNS * nodes.len() {
            let message = stranger.next();
            own.extend(message.subject.starts_with("philote.1.own.").then_some(message.subject));
        }
        let [one, other] = &nodes;
        // What asks for a sign before it goes on: a reader of a channel that no node reads.
        let claims = json!({"read": ["chat"]});
        let mut reader = Connection::enter(one.address(), &claims, &Value::Null);
        let mut publisher = Publisher::enter(other.address(), "p", &["chat"]);
        publisher.publish("chat");
        assert_eq!(reader.data(), "p 1");
        for node in &nodes {
            assert_eq!((node.counted("link_ends"), node.ready().0), (0, 200), "{}", node.log());
            assert_eq!(node.log().matches("by a second connection").count(), 1, "{}", node.log());
        }

        // A stranger's request is answered nowhere, as the answer could be an order to NATS by a node's rights.
        let mut asking = nats.client();
        asking.subscribe("elsewhere");
        for subject in &own {
            asking.publish_with_reply(subject, "elsewhere", b"");
        }
        let seen = own.len() + SIGNS * nodes.len();
        while own.len() < seen {
            let message = stranger.next();
            own.extend(message.subject.starts_with("philote.1.own.").then_some(message.subject));
        }
        asking.publish("elsewhere", b"no answer before this");
        assert_eq!(asking.next().payload, b"no answer before this");
    }
}
