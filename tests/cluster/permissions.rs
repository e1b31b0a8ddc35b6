//! What philote-cluster(7) says that NATS must allow is enough.

use serde_json::{Value, json};

use crate::clients::{Connection, Publisher};
use crate::nats::NatsServer;
use crate::node::{LOG, Node, RELAY};

const PAGE: &str = include_str!("../../man/philote-cluster.7");

/// The subjects that the page names in the part on permissions, in the order of the page.
fn subjects() -> Vec<&'static str> {
    let part = PAGE.split(".Ss What NATS must allow").nth(1).unwrap().split("Nobody else").next().unwrap();
    part.lines()
        .filter_map(|line| line.strip_prefix(".Ql ")?.split(' ').next())
        .filter(|word| word.ends_with('>'))
        .collect()
}

#[test]
fn the_permissions_that_the_manual_names_are_enough() {
    let subjects = subjects();
    assert_eq!(subjects, ["philote.>", "$JS.API.>", "$JS.FC.>"]);
    let quoted = |subjects: &[&str]| {
        subjects.iter().map(|subject| format!("\"{subject}\"")).collect::<Vec<_>>().join(", ")
    };
    let [publish, subscribe] = [&subjects[..], &subjects[..1]].map(quoted);
    let user = format!(
        "{{ user: philote, password: secret, permissions: {{ publish: [{publish}], subscribe: [{subscribe}] }} }}"
    );
    let other = "{ user: test, password: test }";
    let nats = NatsServer::start_with(&format!(
        "no_auth_user: test\nauthorization {{ users: [{user}, {other}] }}\n"
    ));
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "secret\n").unwrap();
    for sections in [RELAY, LOG] {
        let file = password.path().display();
        let sections = format!("{sections}[cluster]\nuser = \"philote\"\npassword_file = \"{file}\"\n");
        let [one, other] = Node::start_all(["a", "b"], &nats.url(), &sections);
        let mut reader = Connection::enter(other.address(), &json!({"read": ["chat"]}), &Value::Null);
        let mut publisher = Publisher::enter(one.address(), "p", &["chat"]);
        for number in 1..=2_000 {
            publisher.publish("chat");
            assert_eq!(reader.data(), format!("p {number}"));
        }
        publisher.settle();
        assert!(publisher.refused.is_empty(), "{:?}", publisher.refused);
        // A refused subject would end the link.
        assert_eq!((one.counted("link_ends"), other.counted("link_ends")), (0, 0), "{}", one.log());
    }
}
