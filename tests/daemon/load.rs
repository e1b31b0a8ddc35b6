//! Many connections that open and close, some of them at once.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Client, Daemon, sign};

#[test]
fn fault_57_joining_and_leaving_keeps_memory_flat() {
    let daemon = Daemon::start("max_connections = 1000\n");
    let turn = |number: usize| {
        let channels: Vec<String> = (0..20).map(|n| format!("channel {number} {n}")).collect();
        let mut client =
            daemon.client_with(&json!({"read": channels, "exp": crate::support::unix_now() + 1000}));
        client.settle();
    };
    (0..500).for_each(turn);
    daemon.wait_until("they are gone", |status| status["connections"] == 0);
    let before = daemon.memory().0;
    (500..4_000).for_each(turn);
    let status = daemon.wait_until("they are gone", |status| status["connections"] == 0);
    assert_eq!(status["channels"], 0);
    let after = daemon.memory().0;
    println!("resident KiB after 500 turns {}, after 4,000 {}", before >> 10, after >> 10);
    assert!(after < before + (4 << 20), "{before} to {after}");
}

/// Tokens with a thousand channels each replace one another on open connections.
#[test]
fn fault_57_a_million_channel_names_in_turn_keep_memory_flat() {
    const CONNECTIONS: usize = 10;
    const NAMES: usize = 1_000;
    let daemon = Daemon::start("");
    // Ten connections, because each may send a hundred tokens a second.
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| daemon.client(&[])).collect();
    let mut turn = |number: usize| {
        let names: Vec<String> = (0..NAMES).map(|n| format!("{number} {n}")).collect();
        let client = &mut clients[number % CONNECTIONS];
        client.send(json!({"auth": sign(&json!({"read": names}))}).to_string());
        let answer = client.receive();
        assert_eq!(answer["access"]["read"].as_array().map(Vec::len), Some(NAMES), "{answer}");
    };
    (0..100).for_each(&mut turn);
    assert_eq!(daemon.admin("GET", "/v1/status", "")["channels"], CONNECTIONS * NAMES);
    let before = daemon.memory().0;
    (100..1_000).for_each(&mut turn);
    let after = daemon.memory().0;
    println!("resident KiB after 100,000 names {}, after 1,000,000 {}", before >> 10, after >> 10);
    assert_eq!(daemon.admin("GET", "/v1/status", "")["channels"], CONNECTIONS * NAMES);
    assert!(after < before + (4 << 20), "{before} to {after}");
}

/// With a history, each joined channel begins one, which stays when the channel is left.
#[test]
fn fault_57_channels_that_are_joined_and_left_in_turn_keep_memory_flat() {
    const NAMES: usize = 1_000;
    for history in ["", "[history]\nmessages = 10\nbytes = \"1MiB\"\n"] {
        let daemon = Daemon::start(history);
        let mut client = daemon.client_with(&json!({"may": {"read": ["*"]}}));
        let mut turn = |number: usize| {
            let names: Vec<String> = (0..NAMES).map(|n| format!("{number} {n}")).collect();
            client.send(json!({"join": names}).to_string());
            client.send(json!({"leave": names}).to_string());
            let (joined, left) = (client.receive(), client.receive());
            assert_eq!(joined["joined"].as_object().map(serde_json::Map::len), Some(NAMES), "{joined}");
            assert_eq!(left["left"].as_array().map(Vec::len), Some(NAMES), "{left}");
        };
        (0..60).for_each(&mut turn);
        let before = daemon.memory().0;
        (60..160).for_each(&mut turn);
        let after = daemon.memory().0;
        println!("resident KiB after 60,000 names {}, after 160,000 {}", before >> 10, after >> 10);
        assert_eq!(daemon.admin("GET", "/v1/status", "")["channels"], 0);
        assert!(after < before + (4 << 20), "{before} to {after}");
    }
}

#[test]
fn fault_58_a_new_client_connects_quickly_when_half_of_all_drop() {
    let daemon = Daemon::start("max_connections = 5000\n");
    let token = sign(&json!({"read": ["c"]}));
    let mut clients: Vec<Client> = (0..2_000).map(|_| daemon.try_client(&token).unwrap()).collect();
    let dropped = clients.split_off(1_000);
    drop(dropped);
    let began = Instant::now();
    let mut new = daemon.client(&["c"]);
    new.settle();
    let waited = began.elapsed();
    println!("a new connection in the middle of 1,000 that drop: {waited:?}");
    // benches/results.md has the figure of an optimized build on an idle machine; this limit only detects a hang.
    assert!(waited < Duration::from_secs(2), "{waited:?}");
    daemon.wait_until("half are left", |status| status["connections"] == 1_001);
    new.publish("c", "still here");
    for client in &mut clients {
        assert_eq!(client.data(), "still here");
    }
}
