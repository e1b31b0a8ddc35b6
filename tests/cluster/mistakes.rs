//! Mistakes in the settings of nodes that exchange messages all the same: each node says once what is wrong.

use serde_json::Value;
use tempfile::TempDir;

use crate::nats::NatsServer;
use crate::node::{LOG, Node, RELAY};
use crate::steering::ctl;
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

#[test]
fn a_node_with_a_secret_and_one_without_say_so() {
    let (nats, directory) = (NatsServer::start_without_jetstream(), TempDir::new().unwrap());
    let with = Node::start("with", &nats.url(), &with_secret(RELAY, "s", &directory));
    let without = Node::start("without", &nats.url(), RELAY);
    says(&with, "messages of node without are not signed with the secret that this node has", "warning");
    says(&without, "messages of node with are signed with a secret, and this node has none", "warning");
}
