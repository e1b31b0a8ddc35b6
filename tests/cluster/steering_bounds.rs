//! Messages that would steer a node and must not, and the bounds of steering.

use std::io::{Read, Write};
use std::time::{Duration, Instant, SystemTime};

use philote::cluster::steering::message::{Message, Nonce, Seal};
use serde_json::{Value, json};

use crate::clients::Connection;
use crate::nats::NatsServer;
use crate::node::Node;
use crate::steering::{CLUSTER_SECRET, DONE, api_token, ctl, ctl_json, named, secret};
use crate::support::PATIENCE;

#[test]
fn fault_77_forged_stale_replayed_and_foreign_orders_are_dropped_and_counted() {
    let nats = NatsServer::start_without_jetstream();
    let (_secret, sections) = secret();
    let node = Node::start("a", &nats.url(), &sections);
    let mut alice = named(&node, "alice", "chat");
    let mut client = nats.client();
    let order = json!({"order": {"all": true, "ids": [], "channel": null, "subject": null, "address": null, "reconnect": false, "ban_seconds": null}, "dry_run": false});
    let order = json!({"room": 10_000, "query": order}).to_string();
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    let seal = Seal::new(CLUSTER_SECRET.as_bytes(), "philote");
    let message = |sent_ms, kind| Message {
        node: "x@0000000000000001",
        sent_ms,
        nonce: Nonce::random(),
        answered: None,
        kind,
        body: order.as_bytes(),
    };
    let mut expect = |reason: &str, payload: &[u8]| {
        let name = format!("philote_cluster_steering_rejected_total{{reason=\"{reason}\"}}");
        let before = node.metric(&name);
        client.publish_with_reply("philote.1.s", "_INBOX.test.x", payload);
        client.flush();
        node.wait_for(&name, PATIENCE, |node| node.metric(&name) == before + 1);
    };
    expect(
        "forged",
        &Seal::new(b"another secret of a cluster here", "philote").seal(&message(now(), "disconnect")),
    );
    expect("forged", &Seal::new(CLUSTER_SECRET.as_bytes(), "other").seal(&message(now(), "disconnect")));
    expect("stale", &seal.seal(&message(now() - 31_000, "disconnect")));
    expect("stale", &seal.seal(&message(now() + 31_000, "disconnect")));
    let mut next = seal.seal(&message(now(), "disconnect"));
    next[0] = b'2';
    expect("version", &next);
    expect("malformed", b"{}");
    expect("malformed", &vec![b'x'; 500_000]);
    // One that is accepted once is refused when it is sent again.
    let listed = seal.seal(&message(now(), "unknown"));
    client_sends(&nats, &listed);
    expect("replayed", &listed);
    alice.settle();

    // The same order with the right secret shows that the others were not dropped for their form.
    let valid = seal.seal(&message(now(), "disconnect"));
    let answer = nats.client().request("philote.1.s", std::str::from_utf8(&valid).unwrap());
    let answer = seal.open(&answer, now()).unwrap();
    assert_eq!(
        (answer.kind, answer.body),
        ("answer", br#"{"Ok":{"cut":false,"document":{"matched":1,"banned_until":null}}}"#.as_slice())
    );
    assert_eq!(alice.closed().0, 4403);
}

fn client_sends(nats: &NatsServer, payload: &[u8]) {
    nats.client().request("philote.1.s", std::str::from_utf8(payload).unwrap());
}

#[test]
fn an_answer_that_exceeds_a_message_of_nats_is_cut_and_says_so() {
    let nats = NatsServer::start_on(std::net::Ipv4Addr::LOCALHOST, "max_payload: 16384\n");
    let (_secret, sections) = secret();
    let [a, b] = Node::start_all(["a", "b"], &nats.url(), &sections);
    let channels: Vec<String> = (0..400).map(|n| format!("{n:0100}")).collect();
    let claims = json!({"read": channels});
    let _reader = Connection::enter(b.address(), &claims, &Value::Null);
    let (status, out, err) = ctl(&a, &["channels"]);
    assert_eq!(status, DONE);
    assert!((20..400).contains(&out.lines().count()), "{}", out.lines().count());
    assert!(
        err.contains(
            "of 400 channels; rows are missing because they exceed a message of NATS (max_payload): b"
        ),
        "{err}"
    );
    // Pages of the API are shorter, and all of them together are complete.
    let mut seen = 0;
    let mut after = String::new();
    loop {
        let page = a.http("GET", &format!("/api/channels?limit=1000{after}"), &api_token(), "").1;
        seen += page["channels"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(seen, 400);
    // An order that exceeds it is not sent, and says so.
    let ids: Vec<String> = (0..500).map(|_| uuid()).collect();
    let line: Vec<&str> = std::iter::once("disconnect").chain(ids.iter().map(String::as_str)).collect();
    let (status, _, err) = ctl(&a, &line);
    assert_eq!(status, 1);
    assert!(
        err.contains("node b: the request to the other nodes exceeds a message of NATS, 16384 bytes"),
        "{err}"
    );
}

fn uuid() -> String {
    let mut id = Nonce::random().to_string();
    for at in [8, 13, 18, 23] {
        id.insert(at, '-');
    }
    id
}

#[test]
fn a_burst_of_lists_is_answered_within_a_bound() {
    let nats = NatsServer::start_without_jetstream();
    let (_secret, sections) = secret();
    let [a, _b] = Node::start_all(["a", "b"], &nats.url(), &sections);
    let _client = named(&a, "x", "chat");
    let request = format!(
        "GET /api/channels HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        api_token()
    );
    let began = Instant::now();
    let mut streams: Vec<_> = (0..40).map(|_| a.connect()).collect();
    for stream in &mut streams {
        stream.write_all(request.as_bytes()).unwrap();
    }
    for mut stream in streams {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let page: Value = serde_json::from_str(body).unwrap();
        assert_eq!(page["nodes"], json!({"answered": ["a", "b"]}));
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_flood_of_orders_is_answered_as_busy_beyond_a_bound() {
    let nats = NatsServer::start_without_jetstream();
    let (_secret, sections) = secret();
    let [a, b] = Node::start_all(["a", "b"], &nats.url(), &sections);
    // Each takes a node some time.
    let channels: Vec<String> = (0..4_000).map(|n| format!("{n:x}")).collect();
    let body = json!({"room": 100_000, "query": channels}).to_string();
    let seal = Seal::new(CLUSTER_SECRET.as_bytes(), "philote");
    let mut client = nats.client();
    client.subscribe("_INBOX.test.flood");
    for _ in 0..150 {
        let sent_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
        let nonce = Nonce::random();
        let message = Message {
            node: "x@0000000000000001",
            sent_ms,
            nonce,
            answered: None,
            kind: "counts",
            body: body.as_bytes(),
        };
        client.publish_with_reply("philote.1.s", "_INBOX.test.flood", &seal.seal(&message));
    }
    let mut busy = 0;
    for _ in 0..300 {
        let answer = client.next().payload;
        let header = std::str::from_utf8(&answer).unwrap().lines().next().unwrap().to_owned();
        busy += u32::from(header.ends_with(" busy"));
    }
    assert!((1..300).contains(&busy), "{busy} of 300 answers");
    assert_eq!(ctl_json(&a, &["connections"])["nodes"], json!({"answered": ["a", "b"]}));
    b.client(&["c"]).settle();
}

/// A message of NATS takes one such ban here, and an exchange so many messages. Nothing said that the rest was missing.
#[test]
fn bans_beyond_the_pages_of_an_exchange_are_named() {
    const BANS: usize = 260;
    let nats = NatsServer::start_on(std::net::Ipv4Addr::LOCALHOST, "max_payload: 4096\n");
    let (_secret, sections) = secret();
    let a = Node::start("a", &nats.url(), &sections);
    for number in 0..BANS {
        let request = json!({"subject": format!("{number:0250}"), "refuse_for": 3600}).to_string();
        let answer = a.admin("POST", "/v1/disconnect", &request);
        assert!(answer["refused_until"].is_string(), "{answer}");
    }
    let b = Node::start("b", &nats.url(), &sections);
    for node in [&a, &b] {
        node.wait_for("it names the node", 2 * PATIENCE, |node| node.log().contains("not all bans of a"));
    }
    let listed = b.admin("GET", "/v1/refused", "");
    assert!(listed["nodes"]["cut"].as_array().unwrap().contains(&json!("a")), "{}", listed["nodes"]);
    let known = listed["refused"].as_array().unwrap().len();
    assert!((200..BANS).contains(&known), "{known} of {BANS}");
}
