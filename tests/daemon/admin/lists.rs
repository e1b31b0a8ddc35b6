//! The lists of connections, of closed connections and of channels.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{DONE, ctl, ctl_json, named};
use crate::support::*;

/// Waits until the newest closed connection of this subject has this reason, and returns it.
fn ended(daemon: &Daemon, subject: &str, reason: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = ctl_json(daemon, &["connections", "--state", "closed", "--subject", subject]);
        if found["connections"][0]["reason"] == reason {
            return found["connections"][0].clone();
        }
        assert!(Instant::now() < deadline, "timed out: {reason}: {found}");
    }
}

/// A user reports that the chat closed their connection: from the subject to the cause.
#[test]
fn each_reason_for_a_close_is_listed() {
    let daemon = Daemon::start(
        "[auth]\nleeway = \"0s\"\n[websocket]\ncheck_origin = true\nping_interval = \"1s\"\npong_timeout = \"5s\"\n\
         max_message_size = \"1KiB\"\n[limits]\nqueue_bytes = \"64KiB\"\n",
    );
    let shown = |subject: &str| {
        let (_, text) = ctl(&daemon, &["connections", "--state", "closed", "--subject", subject]);
        println!("$ philotectl connections --state closed --subject {subject}\n{text}");
    };

    // This client reads nothing while much is published. It answers no ping either, but its queue is full before that.
    let text = json!({"channel": "load", "data": "x".repeat(900)}).to_string();
    let bytes = frame(0x81, text.as_bytes()).repeat(20_000);
    let slow = named(&daemon, "slow", "load");
    let mut writer = daemon.client_with(&json!({"write": ["load"]}));
    writer.stream().write_all(&bytes).unwrap();
    let row = ended(&daemon, "slow", "slow_consumer");
    assert_eq!((&row["code"], &row["ending"]), (&json!(4413), &json!("closed")));
    assert!(row["greatest_queue"].as_u64().unwrap() > 60 && row["messages_in"] == 0, "{row}");
    drop(slow);

    let mut expired = daemon.client_with(&json!({"read": ["chat"], "sub": "expired", "exp": unix_now() + 1}));
    assert_eq!(expired.closed().0, 4401);
    drop(expired);
    assert_eq!(ended(&daemon, "expired", "token_expired")["message"], "the token has expired; get a new one");
    // The client connects again with the same token.
    let old = sign(&json!({"read": ["chat"], "sub": "expired", "exp": unix_now() - 60}));
    assert_eq!(status(&daemon.exchange(upgrade(&old, "Connection: close\r\n"))), 401);
    let row = ended(&daemon, "expired", "token_expired");
    assert_eq!(
        (&row["code"], &row["ending"], &row["subject_verified"]),
        (&json!(401), &json!("refused"), &json!(false))
    );

    let mut kicked = named(&daemon, "kicked", "chat");
    assert_eq!(ctl(&daemon, &["disconnect", "--subject", "kicked"]).0, DONE);
    assert_eq!(kicked.closed().0, 4403);
    drop(kicked);
    assert_eq!(ended(&daemon, "kicked", "disconnected")["message"], "disconnected by an administrator");

    let mut silent = named(&daemon, "silent", "chat");
    let _ = silent.stream().read_to_end(&mut Vec::new());
    drop(silent);
    assert_eq!(ended(&daemon, "silent", "no_pong")["code"], 4408);

    let mut large = named(&daemon, "large", "chat");
    large.publish("chat", &"x".repeat(2_000));
    assert_eq!(large.closed().0, 1009);
    drop(large);
    let row = ended(&daemon, "large", "message_too_big");
    assert!(row["bytes_in"].as_u64().unwrap() > 0, "{row}");

    let token = sign(&json!({"read": ["chat"], "sub": "framed"}));
    let answer = daemon.exchange(upgrade(&token, "Origin: https://evil.example\r\nConnection: close\r\n"));
    assert_eq!(status(&answer), 403);
    let row = ended(&daemon, "framed", "origin");
    assert_eq!(row["message"], "pages of the origin https://evil.example may not connect here");
    assert_eq!((&row["subject_verified"], &row["id"]), (&json!(true), &Value::Null));

    let forged = sign_with(&json!({"read": ["chat"], "sub": "forged"}), "another secret, not the server's");
    assert_eq!(status(&daemon.exchange(upgrade(&forged, "Connection: close\r\n"))), 401);
    let row = ended(&daemon, "forged", "bad_signature");
    assert_eq!((&row["code"], &row["subject_verified"]), (&json!(401), &json!(false)));

    for subject in ["slow", "expired", "kicked", "silent", "large", "framed", "forged"] {
        shown(subject);
    }
    let by_reason = ctl_json(&daemon, &["connections", "--reason", "slow_consumer"]);
    assert_eq!(by_reason["matched"], 1);
    daemon.log_with("\"slow\"");
    let log = daemon.log_with("of \"framed\" from 127.0.0.1:");
    for secret in [&old, &forged, &token] {
        assert!(!log.contains(secret.as_str()) && !log.contains(&secret[..20]));
    }
}

#[test]
fn a_flood_of_rejections_keeps_the_rare_reasons_and_its_first_and_last() {
    let daemon = Daemon::start("[admin]\nclosed_ring = 20\n");
    named(&daemon, "alice", "chat").settle();
    ended(&daemon, "alice", "client_gone");
    let refuse = |number: usize| {
        let forged = sign_with(&json!({"sub": format!("flood {number}")}), "another secret");
        assert_eq!(status(&daemon.exchange(upgrade(&forged, "Connection: close\r\n"))), 401);
    };
    (0..100).for_each(refuse);
    let found = ctl_json(&daemon, &["connections", "--state", "closed", "--sort", "oldest"]);
    assert_eq!(found["matched"], 20);
    let subjects: Vec<&str> =
        found["connections"].as_array().unwrap().iter().filter_map(|row| row["subject"].as_str()).collect();
    assert_eq!(subjects[..3], ["alice", "flood 0", "flood 82"]);
    assert_eq!(subjects[19], "flood 99");
    let of_flood = found["reasons"].as_array().unwrap().iter().find(|one| one["reason"] == "bad_signature");
    assert_eq!(of_flood, Some(&json!({"reason": "bad_signature", "total": 100, "remembered": 19})));
}

#[test]
fn lists_sort_by_the_requested_column_and_obey_the_limit() {
    let daemon = Daemon::start("");
    let clients: Vec<Client> = (0..30)
        .map(|number| {
            let mut client = named(&daemon, &format!("user {number}"), &format!("room {}", number % 3));
            (0..number).for_each(|_| client.publish(&format!("room {}", number % 3), "x"));
            client.send("{}");
            assert_eq!(client.receive()["error"], "bad_message");
            client
        })
        .collect();
    let subjects = |line: &[&str]| -> Vec<String> {
        let found = ctl_json(&daemon, &[&["connections"], line].concat());
        let rows = found["connections"].as_array().unwrap();
        rows.iter().map(|row| row["subject"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(subjects(&["--sort", "messages_in", "--limit", "3"]), ["user 29", "user 28", "user 27"]);
    assert_eq!(subjects(&["--sort", "oldest", "--limit", "2"]), ["user 0", "user 1"]);
    assert_eq!(subjects(&["--limit", "1"]), ["user 29"]);
    assert_eq!(subjects(&["--channel", "room 1", "--sort", "messages_in", "--limit", "1"]), ["user 28"]);
    let found = ctl_json(&daemon, &["connections", "--channel", "room 1", "--limit", "4"]);
    assert_eq!((&found["matched"], found["connections"].as_array().unwrap().len()), (&json!(10), 4));
    let row = &ctl_json(&daemon, &["connections", "--subject", "user 7"])["connections"][0];
    assert_eq!(
        (&row["messages_in"], &row["read"], &row["write_count"]),
        (&json!(8), &json!(["room 1"]), &json!(1))
    );
    // 'user 7' counts the messages in its room from before and after it connected.
    assert!(row["messages_out"].as_u64().unwrap() > 8, "{row}");
    let (code, text) = ctl(&daemon, &["connections", "--limit", "2"]);
    assert!(code == DONE && text.ends_with("showing 2 of 30 connections\n"), "{text}");

    let channels = ctl_json(&daemon, &["channels", "--sort", "messages", "--prefix", "room"]);
    assert_eq!(channels["matched"], 3);
    let first = &channels["channels"][0];
    assert_eq!(
        (&first["channel"], &first["readers"], &first["writers"]),
        (&json!("room 2"), &json!(10), &json!(10))
    );
    assert_eq!(first["messages"], (2..30).step_by(3).sum::<u64>());
    let rated = |found: &Value| {
        found["channels"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["messages_per_second"].as_f64().unwrap() > 0.0)
    };
    let deadline = Instant::now() + PATIENCE;
    let mut clients = clients;
    while !rated(&ctl_json(&daemon, &["channels", "--sort", "rate"])) {
        clients[0].publish("room 0", "x");
        assert!(Instant::now() < deadline, "no rate was measured");
    }
    drop(clients);
    daemon.wait_until("they are gone", |status| status["connections"] == 0);
    assert_eq!(ctl_json(&daemon, &["channels"]), json!({"matched": 0, "channels": []}));
}

/// Measures how much `connections` delays deliveries.
#[test]
fn listing_ten_thousand_connections_does_not_delay_deliveries() {
    const IDLE: usize = 10_000;
    let daemon = Daemon::start("max_connections = 20000\n");
    let token = sign(&json!({"read": ["idle"]}));
    let idle: Vec<_> = (0..IDLE)
        .map(|_| {
            let mut stream = daemon.connect();
            stream.write_all(upgrade(&token, "").as_bytes()).unwrap();
            stream
        })
        .collect();
    daemon.wait_until("all are connected", |status| status["connections"] == IDLE);
    let mut readers: Vec<Client> = (0..20).map(|_| daemon.client_with(&json!({"read": ["load"]}))).collect();
    let mut measured = daemon.client_with(&json!({"read": ["load"]}));
    let mut writer = daemon.client_with(&json!({"write": ["load"]}));
    let text = json!({"channel": "load", "data": "x".repeat(100)}).to_string();
    let bytes: Vec<u8> = (0..50).flat_map(|_| frame(0x81, text.as_bytes())).collect();
    for reader in &mut readers {
        reader.stream().set_nonblocking(true).unwrap();
    }
    // The time from a write until its last message arrives, while other readers receive it too.
    let mut round = || {
        let began = Instant::now();
        writer.stream().write_all(&bytes).unwrap();
        (0..50).for_each(|_| drop(measured.data()));
        let took = began.elapsed();
        for reader in &mut readers {
            while reader.socket.read().is_ok() {}
        }
        took
    };
    let mut percentile = |rounds: usize| {
        let mut times: Vec<Duration> = (0..rounds).map(|_| round()).collect();
        times.sort_unstable();
        times[rounds * 99 / 100]
    };
    let without = percentile(300);
    let (stop, directory) = (&std::sync::atomic::AtomicBool::new(false), daemon.directory.path());
    let listing = std::thread::scope(|scope| {
        let asking = scope.spawn(move || {
            let mut slowest = Duration::ZERO;
            let mut lists = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let began = Instant::now();
                let answer = ask_admin(directory, "GET", "/v1/connections?sort=queued&limit=20", "");
                assert_eq!(answer["connections"].as_array().unwrap().len(), 20);
                assert!(answer["matched"].as_u64().unwrap() >= IDLE as u64);
                slowest = slowest.max(began.elapsed());
                lists += 1;
            }
            (slowest, lists)
        });
        let with = percentile(300);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (with, asking.join().unwrap())
    });
    let (with, (slowest, lists)) = listing;
    println!(
        "{IDLE} idle connections; 50 messages to 21 readers, 99th percentile: {without:?} without lists, {with:?} with \
         one list after the other ({lists} of them, the slowest took {slowest:?})"
    );
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(with < without * 10 + Duration::from_millis(100), "{with:?} against {without:?}");
    drop(idle);
}

#[test]
fn a_server_that_is_in_no_cluster_has_no_nodes() {
    let daemon = Daemon::start("");
    let (status, text) = ctl(&daemon, &["nodes"]);
    assert_eq!(
        (status, text.as_str()),
        (1, "this server is in no cluster\nset [cluster] servers; see philote-cluster(7)\n")
    );
    let listed = ctl_json(&daemon, &["connections"]);
    assert!(listed.get("nodes").is_none(), "{listed}");
}
