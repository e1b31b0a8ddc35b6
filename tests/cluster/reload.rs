//! What a reload changes in a running cluster: the log's time to live, and renewed files of the link.

use serde_json::{Value, json};

use crate::nats::NatsServer;
use crate::node::{LOG, Node, RELAY};
use crate::steering::{DONE, ctl};
use crate::support::PATIENCE;

/// Changes the configuration of a node, and reloads it. Returns the keys that were applied, and those that need a restart.
fn reload(node: &Node, from: &str, to: &str) -> (Value, Value) {
    let file = node.directory.path().join("philote.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(from, to)).unwrap();
    let (status, out, err) = ctl(node, &["reload", "--json"]);
    assert_eq!(status, DONE, "{err}");
    let mut reloaded: Value = serde_json::from_str(&out).unwrap();
    (reloaded["applied"].take(), reloaded["needs_restart"].take())
}

#[test]
fn a_reload_changes_how_long_the_log_keeps_messages() {
    let nats = NatsServer::start();
    let [a, b] = Node::start_all(["a", "b"], &nats.url(), LOG);
    let seconds = |key: &str| {
        let info = nats.jetstream("STREAM.INFO.philote", "");
        info["config"][key].as_u64().unwrap() / 1_000_000_000
    };
    assert_eq!((seconds("max_age"), seconds("duplicate_window")), (600, 120));
    assert_eq!(reload(&a, "10m", "1h"), (json!(["history.ttl"]), json!([])));
    a.wait_for("the log has the time", PATIENCE, |_| seconds("max_age") == 3_600);
    // Shorter than messages may be repeated.
    reload(&a, "1h", "30s");
    reload(&b, "10m", "30s");
    a.wait_for("the log has the time", PATIENCE, |_| seconds("max_age") == 30);
    assert_eq!(seconds("duplicate_window"), 30);
    assert_eq!((a.counted("link_ends"), b.counted("link_ends")), (0, 0), "no link ends for it");
}

#[test]
fn a_renewed_password_is_used_after_a_reload_when_the_next_link_begins() {
    let users = |password: &str| {
        format!("users: [{{ user: philote, password: {password} }}, {{ user: test, password: test }}]")
    };
    let mut nats =
        NatsServer::start_with(&format!("no_auth_user: test\nauthorization {{ {} }}\n", users("former")));
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "former\n").unwrap();
    let file = password.path().display();
    let sections = format!("{RELAY}[cluster]\nuser = \"philote\"\npassword_file = \"{file}\"\n");
    let node = Node::start("a", &nats.url(), &sections);
    std::fs::write(password.path(), "renewed\n").unwrap();
    assert_eq!(reload(&node, "", ""), (json!(["cluster.password_file"]), json!([])));
    assert_eq!(node.counted("link_ends"), 0, "the present link stays");
    nats.kill();
    nats.configure(|text| text.replace(&users("former"), &users("renewed")));
    nats.restart();
    node.wait_ready();
    // Other settings of the cluster still need a restart.
    let (applied, needs_restart) = reload(&node, "name = \"a\"", "name = \"b\"");
    assert_eq!((applied, needs_restart), (json!([]), json!(["cluster.name"])));
    assert!(!node.log().contains("renewed\"") && !node.log().contains("former"), "no password is logged");
}

#[test]
fn renewed_certificates_are_used_when_the_next_link_begins() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    // Each is its own authority.
    let renew = || {
        let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(path("nats.pem"), pair.cert.pem()).unwrap();
        std::fs::write(path("nats.key"), pair.signing_key.serialize_pem()).unwrap();
        pair.cert.pem()
    };
    std::fs::write(path("ca.pem"), renew()).unwrap();
    let show = |name: &str| path(name).display().to_string();
    let mut nats = NatsServer::start_with(&format!(
        "allow_non_tls: true\ntls {{ cert_file: \"{}\", key_file: \"{}\" }}\n",
        show("nats.pem"),
        show("nats.key")
    ));
    let sections = format!("{LOG}[cluster]\n[cluster.tls]\nca = \"{}\"\n", show("ca.pem"));
    let url = nats.url().replace("nats://", "tls://");
    let node = Node::start("a", &url, &sections);
    let authority = renew();
    nats.kill();
    nats.restart();
    node.wait_unready();
    std::fs::write(path("ca.pem"), "half a file").unwrap();
    let (status, _, err) = ctl(&node, &["reload"]);
    assert_ne!(status, DONE);
    assert!(err.contains("cluster.tls.ca"), "{err}");
    std::fs::write(path("ca.pem"), authority).unwrap();
    assert_eq!(reload(&node, "", ""), (json!(["cluster.tls.ca"]), json!([])));
    node.wait_ready();
}
