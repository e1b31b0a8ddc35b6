//! Mistakes in the settings of nodes that exchange messages all the same: each node says once what is wrong.

use serde_json::Value;
use tempfile::TempDir;

use crate::nats::NatsServer;
use crate::node::{LOG, Node, RELAY};
use crate::steering::{ctl, ctl_json, named};
use crate::support::PATIENCE;

/// Checks that the node says this of its cluster: one line in its log, in its status, and with this verdict in doctor.
fn says(node: &Node, text: &str, verdict: &str) {
    let status = || node.admin("GET", "/v1/status", "")["cluster"]["mistakes"].clone();
    let has = |mistakes: &Value| {
        mistakes.as_array().unwrap().iter().any(|mistake| mistake.as_str().unwrap().contains(text))
    };
    node.wait_for(text, PATIENCE, |_| has(&status()));
    let doctor = node.admin("GET", "/v1/doctor", "");
    let found =
        |finding: &Value| finding["verdict"] == verdict && finding["found"].as_str().unwrap().contains(text);
    assert!(doctor["findings"].as_array().unwrap().iter().any(found), "{doctor}");
    let (_, shown, _) = ctl(node, &["status"]);
    assert!(shown.contains(text), "{shown}");
    // Announcements come each second.
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    let log = node.log();
    assert_eq!(log.lines().filter(|line| line.contains(text)).count(), 1, "{log}");
}

/// Sections of a node with this secret.
fn with_secret(history: &str, secret: &str, directory: &TempDir) -> String {
    let path = directory.path().join(secret);
    std::fs::write(&path, format!("{}\n", secret.repeat(40))).unwrap();
    format!("{history}[cluster]\nsecret_file = \"{}\"\n", path.display())
}

#[test]
fn nodes_with_different_secrets_say_so() {
    let (nats, directory) = (NatsServer::start(), TempDir::new().unwrap());
    for history in [RELAY, LOG] {
        let [one, other] = ["s", "t"].map(|secret| with_secret(history, secret, &directory));
        let one = Node::start("one", &nats.url(), &one);
        assert_eq!(one.admin("GET", "/v1/status", "")["cluster"]["mistakes"], serde_json::json!([]));
        let other = Node::start("other", &nats.url(), &other);
        for (node, name) in [(&one, "other"), (&other, "one")] {
            let text = format!("messages of node {name} are signed with another secret");
            says(node, &text, "warning");
            assert!(node.metric("philote_cluster_steering_rejected_total{reason=\"forged\"}") > 0);
            assert!(node.log().contains("give all nodes the same [cluster] secret_file"), "{}", node.log());
        }
    }
}

/// The third one took both for one node that starts again each second, and knew the readers of one of them.
#[test]
fn two_nodes_with_one_name_are_noticed_by_all_and_both_are_heard() {
    let (nats, directory) = (NatsServer::start(), TempDir::new().unwrap());
    for history in [RELAY, LOG] {
        let sections = with_secret(history, "s", &directory);
        let [twin, other, third] =
            ["twin", "twin", "third"].map(|name| Node::start(name, &nats.url(), &sections));
        let _readers =
            [(&twin, "alice"), (&other, "bob")].map(|(node, subject)| named(node, subject, "chat"));
        for node in [&twin, &other] {
            says(node, "another node has the name of this one, twin", "problem");
        }
        says(&third, "two nodes have the name twin", "problem");
        assert_eq!(third.cluster()["nodes"], 3);
        let log = third.log();
        assert!(log.lines().filter(|line| line.contains("is there")).count() <= 3, "{log}");
        for subject in ["alice", "bob"] {
            let found = ctl_json(&third, &["connections", "--subject", subject]);
            assert_eq!(found["matched"], 1, "{found}");
        }
    }
}

#[test]
fn a_node_that_starts_again_shares_its_name_with_nobody() {
    let (nats, directory) = (NatsServer::start_without_jetstream(), TempDir::new().unwrap());
    let sections = with_secret(RELAY, "s", &directory);
    let [killed, other] = Node::start_all(["a", "b"], &nats.url(), &sections);
    drop(killed);
    let again = Node::start("a", &nats.url(), &sections);
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    for node in [again, other] {
        assert_eq!(node.admin("GET", "/v1/status", "")["cluster"]["mistakes"], serde_json::json!([]));
    }
}

/// Who reads the subjects of NATS can send again what a node has sealed.
#[test]
fn fault_77_what_a_node_said_before_it_started_again_names_no_namesake_when_others_repeat_it() {
    let (nats, directory) = (NatsServer::start_without_jetstream(), TempDir::new().unwrap());
    let node = Node::start("a", &nats.url(), &with_secret(RELAY, "s", &directory));
    let mut stranger = nats.client();
    stranger.subscribe("philote.1.n");
    let heard = [stranger.next().payload, stranger.next().payload, stranger.next().payload];
    let node = Node::start_from(node.stop());
    let dropped = "philote_cluster_dropped_total{reason=\"malformed\"}";
    let before = node.metric(dropped);
    for payload in &heard {
        stranger.publish("philote.1.n", payload);
    }
    stranger.flush();
    node.wait_for("the repeated announcements", PATIENCE, |node| node.metric(dropped) == before + 3);
    let cluster = &node.admin("GET", "/v1/status", "")["cluster"];
    assert_eq!((&cluster["mistakes"], &cluster["nodes"]), (&serde_json::json!([]), &serde_json::json!(1)));
}

#[test]
fn a_node_with_a_secret_and_one_without_say_so() {
    let (nats, directory) = (NatsServer::start_without_jetstream(), TempDir::new().unwrap());
    let with = Node::start("with", &nats.url(), &with_secret(RELAY, "s", &directory));
    let without = Node::start("without", &nats.url(), RELAY);
    says(&with, "messages of node without are not signed with the secret that this node has", "warning");
    says(&without, "messages of node with are signed with a secret, and this node has none", "warning");
}
