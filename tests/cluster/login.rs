//! A mistake in the account of a node in NATS: the log tells it once, and the status as long as it lasts.

use std::time::{Duration, Instant};

use crate::nats::NatsServer;
use crate::node::{LOG, Node, RELAY};
use crate::support::PATIENCE;

/// Starts a node with a password on a NATS server with these users, and returns its warnings and errors after several attempts
/// to connect.
fn complaints(users: &str, sections: &str, reason: &str) -> Vec<String> {
    let other = "{ user: test, password: test }";
    let nats = NatsServer::start_with(&format!(
        "no_auth_user: test\nauthorization {{ users: [{users}, {other}] }}\n"
    ));
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "secret\n").unwrap();
    let file = password.path().display();
    let sections = format!("{sections}[cluster]\nuser = \"philote\"\npassword_file = \"{file}\"\n");
    let node = Node::start_unready("a", &nats.url(), &sections);
    let attempts = || nats.log().lines().filter(|line| line.contains("[ERR]")).count();
    let began = Instant::now();
    while attempts() < 6 {
        assert!(began.elapsed() < PATIENCE, "{}", nats.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let shown = node.admin("GET", "/v1/status", "")["cluster"]["reason"].clone();
    assert!(shown.as_str().unwrap().contains(reason), "{shown}");
    let log = node.log();
    let complaints = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    let complaints = complaints.filter(|line| !line.contains("history.messages"));
    complaints.map(str::to_owned).collect()
}

#[test]
fn a_wrong_password_is_told_once() {
    let complaints = complaints("{ user: philote, password: other }", RELAY, "authorization violation");
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    assert!(complaints[0].contains("the link to NATS is down, and is tried again"), "{complaints:?}");
}

#[test]
fn a_missing_right_is_told_once_whatever_the_inbox() {
    for sections in [RELAY, LOG] {
        let users = "{ user: philote, password: secret, permissions: { publish: \">\", subscribe: [\"philote.1.*\", \"philote.1.m.>\"] } }";
        let complaints = complaints(users, sections, ".inbox.");
        assert_eq!(complaints.len(), 1, "{complaints:#?}");
    }
}
