//! Orders that reach all nodes: philotectl and the HTTP API.

use std::process::Output;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::nats::NatsServer;
use crate::node::Node;
use crate::support::{Client, PATIENCE, keep, sign};

pub const CLUSTER_SECRET: &str = "the secret of a cluster of tests";

pub const DONE: i32 = 0;
const TIMED_OUT: i32 = 5;

/// A file with the cluster's secret, and the sections that name it.
pub fn secret() -> (TempDir, String) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("cluster.secret");
    std::fs::write(&path, format!("{CLUSTER_SECRET}\n")).unwrap();
    let sections = format!("[cluster]\nsecret_file = \"{}\"\n", path.display());
    (directory, sections)
}

/// Runs philotectl on a node; returns its exit status, standard output and standard error.
pub fn ctl(node: &Node, line: &[&str]) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_philotectl"));
    command.args(line).env("PHILOTE_ADMIN_SOCKET", node.directory.path().join("admin.sock"));
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    keep(&out);
    keep(&err);
    (status.code().unwrap(), out, err)
}

pub fn ctl_json(node: &Node, line: &[&str]) -> Value {
    let (_, out, err) = ctl(node, &[line, &["--json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("{line:?}: {out}{err}"))
}

pub fn named(node: &Node, subject: &str, channel: &str) -> Client {
    node.client_with(&json!({"read": [channel], "write": [channel, "written"], "sub": subject}))
}

pub fn api_token() -> String {
    sign(&json!({"api": true}))
}

/// The values of a key in the rows of a list, sorted.
fn column(rows: &Value, key: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut values: Vec<String> = rows.as_array().unwrap().iter().map(|row| text(&row[key])).collect();
    values.sort_unstable();
    values
}

#[test]
fn philotectl_shows_and_disconnects_on_all_nodes() {
    let nats = NatsServer::start_without_jetstream();
    let (_secret, sections) = secret();
    let nodes = Node::start_all(["a", "b", "c"], &nats.url(), &sections);
    let mut alices: Vec<Client> = nodes.iter().map(|node| named(node, "alice", "chat")).collect();
    let mut bob = named(&nodes[1], "bob", "news");

    let known = ctl_json(&nodes[0], &["nodes"]);
    assert_eq!(
        (column(&known["nodes"], "name"), &known["steering"]),
        (vec!["a".into(), "b".into(), "c".into()], &json!(true))
    );
    for node in known["nodes"].as_array().unwrap() {
        assert_eq!(
            (&node["version"], &node["link"], &node["mode"]),
            (&json!("1.0.0"), &json!("up"), &json!("relay"))
        );
        assert_eq!(node["this"], node["name"] == "a");
    }
    let (status, out, err) = ctl(&nodes[1], &["nodes"]);
    assert_eq!((status, out.lines().count(), err.as_str()), (DONE, 3, ""));
    assert!(out.starts_with("b\t1.0.0\trelay\t"), "this one first: {out}");

    let connections = ctl_json(&nodes[0], &["connections", "--subject", "alice"]);
    assert_eq!(
        (&connections["matched"], column(&connections["connections"], "node")),
        (&json!(3), vec!["a".into(), "b".into(), "c".into()])
    );
    assert_eq!(connections["nodes"], json!({"answered": ["a", "b", "c"]}));
    let (_, rows, _) = ctl(&nodes[0], &["connections", "--subject", "bob"]);
    assert!(rows.trim_end().ends_with("\tb"), "the node is the last column: {rows}");
    let local = ctl_json(&nodes[0], &["connections", "--local"]);
    assert_eq!(
        (&local["matched"], &local["nodes"], &local["connections"][0]["node"]),
        (&json!(1), &Value::Null, &Value::Null)
    );

    let channels = ctl_json(&nodes[2], &["channels", "--sort", "readers"]);
    let row = |at: usize| {
        (
            channels["channels"][at]["channel"].clone(),
            channels["channels"][at]["readers"].clone(),
            channels["channels"][at]["writers"].clone(),
        )
    };
    assert_eq!((row(0), row(1)), ((json!("chat"), json!(3), json!(3)), (json!("news"), json!(1), json!(1))));

    let (status, out, err) = ctl(&nodes[2], &["disconnect", "--subject", "alice", "--dry-run"]);
    assert_eq!((status, out.as_str(), err.as_str()), (DONE, "3 connections would be disconnected\n", ""));
    let (status, out, _) = ctl(&nodes[2], &["disconnect", "--subject", "alice", "--local"]);
    assert_eq!((status, out.as_str()), (DONE, "1 connection is being disconnected\n"));
    assert_eq!(alices.pop().unwrap().closed().0, 4403);
    let (status, out, _) = ctl(&nodes[2], &["disconnect", "--subject", "alice"]);
    assert_eq!((status, out.as_str()), (DONE, "2 connections are being disconnected\n"));
    for mut alice in alices {
        assert_eq!(alice.closed().0, 4403);
    }
    bob.settle();
    let audited = nodes[0].wait_for_line("cluster: disconnect");
    assert!(audited.contains("of subject \"alice\" by node c: done, 1 being closed"), "{audited}");
    let closed = ctl_json(&nodes[1], &["connections", "--state", "closed", "--subject", "alice"]);
    assert_eq!(column(&closed["connections"], "node"), ["a", "b", "c"]);
    let disconnected =
        closed["reasons"].as_array().unwrap().iter().find(|row| row["reason"] == "disconnected");
    assert_eq!(disconnected.unwrap()["total"], 3);
}

#[test]
fn the_http_api_lists_and_disconnects_on_all_nodes() {
    let nats = NatsServer::start_without_jetstream();
    let (_secret, sections) = secret();
    let nodes = Node::start_all(["a", "b"], &nats.url(), &sections);
    let mut clients: Vec<Client> = nodes.iter().map(|node| named(node, "alice", "chat")).collect();
    let _bob = named(&nodes[1], "bob", "only b");
    let get = |path: &str| nodes[0].http("GET", path, &api_token(), "").1;

    let both = json!({"answered": ["a", "b"]});
    let channels = get("/api/channels");
    assert_eq!(
        channels["channels"],
        json!([
            {"channel": "chat", "readers": 2, "writers": 2},
            {"channel": "only b", "readers": 1, "writers": 1},
        ])
    );
    assert_eq!((&channels["next"], &channels["nodes"]), (&Value::Null, &both));
    let first = get("/api/channels?limit=1");
    assert_eq!(
        (column(&first["channels"], "channel"), &first["next"]),
        (vec!["chat".into()], &json!("chat"))
    );
    let second = get("/api/channels?limit=1&after=chat");
    assert_eq!(
        (column(&second["channels"], "channel"), &second["next"]),
        (vec!["only b".into()], &Value::Null)
    );
    assert_eq!(column(&get("/api/channels?local=true")["channels"], "channel"), ["chat"]);
    assert_eq!(nodes[0].http("GET", "/api/channels?local=1", &api_token(), "").0, 400);

    let channel = get("/api/channels/chat");
    assert_eq!(
        (&channel["readers"], &channel["writers"], &channel["subjects"]),
        (&json!(2), &json!(2), &json!(["alice"]))
    );
    assert_eq!(get("/api/channels/written")["writers"], 3, "a channel without readers has writers on both");
    let connections = get("/api/connections?subject=alice");
    assert_eq!((connections["connections"].as_array().unwrap().len(), &connections["nodes"]), (2, &both));
    let of_b = nodes[1].http("GET", "/api/connections?subject=alice&local=true", &api_token(), "").1;
    let id = of_b["connections"][0]["connection"].clone();
    // A token that shows only one channel shows no more of another node.
    let narrow = sign(&json!({"api": true, "read": ["only b"]}));
    assert_eq!(
        column(&nodes[0].http("GET", "/api/channels", &narrow, "").1["channels"], "channel"),
        ["only b"]
    );
    let seen = nodes[0].http("GET", "/api/connections?subject=alice", &narrow, "").1;
    assert_eq!(column(&seen["connections"], "read"), ["[]", "[]"]);

    let post = |body: Value| nodes[0].http("POST", "/api/disconnect", &api_token(), &body.to_string());
    let done = post(json!({"connection": id}));
    assert_eq!(done, (200, json!({"disconnected": 1, "refused_until": null, "nodes": both})));
    assert_eq!(clients.pop().unwrap().closed().0, 4403);
    let done = post(json!({"subject": "alice", "refuse_for": "1h"})).1;
    assert_eq!((&done["disconnected"], &done["nodes"]), (&json!(1), &both));
    assert_eq!(clients.pop().unwrap().closed().0, 4403);
    assert!(nodes[1].try_client(&sign(&json!({"read": ["chat"], "sub": "alice"}))).is_err());
}

#[test]
fn a_ban_and_a_lifted_one_reach_nodes_that_join_later() {
    let nats = NatsServer::start_without_jetstream();
    let (_secret, sections) = secret();
    let [a, b] = Node::start_all(["a", "b"], &nats.url(), &sections);
    let (status, out, err) = ctl(&a, &["disconnect", "--subject", "alice", "--refuse-for", "1h"]);
    assert_eq!((status, err.as_str()), (DONE, ""), "{out}");
    let refuses = |node: &Node| node.try_client(&sign(&json!({"read": ["c"], "sub": "alice"}))).is_err();
    assert!(refuses(&a) && refuses(&b));

    let c = Node::start("c", &nats.url(), &sections);
    c.wait_for("it has heard of the ban", PATIENCE, |c| {
        ctl_json(c, &["refused", "--local"])["refused"][0]["subject"] == "alice"
    });
    assert!(refuses(&c));
    let until = |node: &Node| ctl_json(node, &["refused", "--local"])["refused"][0]["until"].clone();
    // Each node counts the hour from when it hears of the ban, which may be in the next second.
    assert!([until(&a), until(&b)].contains(&until(&c)));

    // While c is away, the ban is lifted. It comes back with the ban in its file.
    let directory = c.stop();
    let (status, out, _) = ctl(&b, &["refused", "--remove", "alice"]);
    assert_eq!((status, out.as_str()), (DONE, "alice is no longer banned\n"));
    assert!(!refuses(&a) && !refuses(&b));
    let c = Node::start_from(directory);
    c.wait_ready();
    c.wait_for("it has heard that the ban is lifted", PATIENCE, |c| {
        ctl_json(c, &["refused", "--local"])["refused"] == json!([])
    });
    assert!(!refuses(&c) && !refuses(&a) && !refuses(&b), "nor does it bring the ban back");

    // A node that was alone tells the others its own bans.
    let alone = Node::start_unready("d", "nats://127.0.0.1:1", &sections);
    alone.wait_for("it serves", PATIENCE, |node| node.http("GET", "/health", "", "").0 == 200);
    let (_, _, err) = ctl(&alone, &["disconnect", "--subject", "eve", "--refuse-for", "1h"]);
    assert_eq!(err, "", "it knows no other node");
    let mut eve = named(&b, "eve", "c");
    let directory = alone.stop();
    let file = directory.path().join("philote.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("nats://127.0.0.1:1", &nats.url())).unwrap();
    let d = Node::start_from(directory);
    d.wait_ready();
    assert_eq!(eve.closed().0, 4403, "also connections that were open before");
    let refused = ctl_json(&a, &["refused"]);
    assert_eq!(
        (column(&refused["refused"], "subject"), &refused["nodes"]["answered"]),
        (vec!["eve".into()], &json!(["a", "b", "c", "d"]))
    );
}

#[test]
fn a_frozen_node_is_named_as_not_answering_and_learns_of_the_ban_when_it_is_back() {
    let nats = NatsServer::start_without_jetstream();
    let (_secret, sections) = secret();
    let [a, _b, c] = Node::start_all(["a", "b", "c"], &nats.url(), &sections);
    let mut there = named(&c, "alice", "chat");
    let mut here = named(&a, "alice", "chat");
    c.signal(Signal::STOP);
    let listed = ctl(&a, &["connections"]);
    assert_eq!((listed.0, listed.1.lines().count()), (DONE, 1));
    assert_eq!(listed.2, "node c did not answer in time\n");
    let (status, out, err) = ctl(&a, &["disconnect", "--subject", "alice", "--refuse-for", "1h"]);
    assert_eq!((status, err.as_str()), (TIMED_OUT, "node c did not answer in time\n"));
    assert!(out.starts_with("1 connection is being disconnected; alice is banned until "), "{out}");
    assert_eq!(here.closed().0, 4403);
    let channels = a.http("GET", "/api/channels", &api_token(), "").1;
    assert_eq!(channels["nodes"], json!({"answered": ["a", "b"], "unanswered": ["c"]}));
    a.wait_for("c counts as down", PATIENCE, |a| {
        let nodes = ctl_json(a, &["nodes"]);
        nodes["nodes"].as_array().unwrap().iter().any(|node| node["name"] == "c" && node["link"] == "down")
    });
    c.signal(Signal::CONT);
    // Its link is a new one, so it may be asked to reconnect first.
    let code = there.closed().0;
    assert!([4403, 1012].contains(&code), "{code}");
    c.wait_for("it has heard of the ban", PATIENCE, |c| {
        ctl_json(c, &["refused", "--local"])["refused"][0]["subject"] == "alice"
    });
}

#[test]
fn without_a_secret_an_order_is_of_one_node_and_says_so() {
    let nats = NatsServer::start_without_jetstream();
    let [a, b] = Node::start_all(["a", "b"], &nats.url(), "");
    let _alices = [named(&a, "alice", "chat"), named(&b, "alice", "chat")];
    let note = "this is node a only: steering across nodes is off, because cluster.secret_file is not set";
    let (status, out, err) = ctl(&a, &["connections"]);
    assert_eq!((status, out.lines().count(), err), (DONE, 1, format!("{note}\n")));
    let (_, out, err) = ctl(&a, &["disconnect", "--subject", "alice", "--dry-run"]);
    assert_eq!((out.as_str(), err), ("1 connection would be disconnected\n", format!("{note}\n")));
    let listed = a.http("GET", "/api/channels", &api_token(), "").1;
    assert_eq!(listed["nodes"], json!({"answered": ["a"], "note": note}));
    let (_, out, err) = ctl(&a, &["nodes"]);
    assert_eq!(out.lines().count(), 2);
    assert!(err.contains("cluster.secret_file is not set"), "{err}");
    // Nodes with a secret do not hear of it, and name it.
    let (_secret, sections) = secret();
    let c = Node::start("c", &nats.url(), &sections);
    c.wait_for_nodes(3);
    let listed = ctl_json(&c, &["connections"]);
    assert_eq!(listed["nodes"], json!({"answered": ["c"], "unanswered": ["a", "b"]}));
}

#[test]
fn an_abbreviated_id_must_be_of_one_connection_on_all_nodes() {
    let nats = NatsServer::start_without_jetstream();
    let (_secret, sections) = secret();
    let [a, b] = Node::start_all(["a", "b"], &nats.url(), &sections);
    let mut clients = Vec::new();
    // Two nodes with a connection each whose ids begin alike, and no third.
    let prefix = loop {
        assert!(clients.len() < 200);
        clients.push(named(&a, "x", "chat"));
        clients.push(named(&b, "x", "chat"));
        let listed = ctl_json(&a, &["connections"]);
        let starts: Vec<(String, String)> = listed["connections"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                (row["id"].as_str().unwrap()[..2].to_owned(), row["node"].as_str().unwrap().to_owned())
            })
            .collect();
        let shared = starts.iter().find(|(start, _)| {
            let nodes: Vec<_> =
                starts.iter().filter(|(other, _)| other == start).map(|(_, node)| node).collect();
            nodes.len() == 2 && nodes[0] != nodes[1]
        });
        if let Some((start, _)) = shared {
            break start.clone();
        }
    };
    let (status, _, err) = ctl(&a, &["disconnect", &prefix]);
    assert_eq!(status, 1);
    assert!(err.starts_with(&format!("2 connections have ids that begin with {prefix}")), "{err}");
    clients.iter_mut().for_each(Client::settle);
    let of_b = ctl_json(&b, &["connections", "--local", "--limit", "1"])["connections"][0]["id"].clone();
    let (status, out, _) = ctl(&a, &["disconnect", &of_b.as_str().unwrap()[..30]]);
    assert_eq!((status, out.as_str()), (DONE, "1 connection is being disconnected\n"));
}

#[test]
fn nodes_with_a_history_are_steered_too() {
    let nats = NatsServer::start();
    let (_secret, sections) = secret();
    let [a, b] = Node::start_all(["a", "b"], &nats.url(), &format!("{}{sections}", crate::node::LOG));
    let mut alice = named(&b, "alice", "chat");
    assert_eq!(ctl_json(&a, &["nodes"])["nodes"][1]["mode"], "log");
    let (status, out, err) = ctl(&a, &["disconnect", "--subject", "alice", "--refuse-for", "1h"]);
    assert_eq!((status, err.as_str()), (DONE, ""), "{out}");
    assert_eq!(alice.closed().0, 4403);
    assert_eq!(column(&ctl_json(&b, &["refused"])["refused"], "subject"), ["alice"]);
}
