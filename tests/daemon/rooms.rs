//! Channels that the claim `may` allows.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Daemon, sign};

#[test]
fn the_claim_may_allows_publishing_by_the_beginning_of_a_name() {
    let daemon = Daemon::start("");
    let mut reader = daemon.client_with(&json!({"read": ["room:1", "room:*", "lobby"]}));
    let mut writer = daemon.client_with(&json!({"write": ["lobby"], "may": {"write": ["room:*"]}}));
    for channel in ["lobby", "room:1", "room:*"] {
        writer.publish(channel, "hello");
        assert_eq!(reader.receive()["channel"], channel);
    }
    for channel in ["rooms", "Room:1", "lobby2"] {
        writer.publish(channel, "hello");
        let answer = writer.receive();
        assert_eq!((&answer["error"], &answer["channel"]), (&json!("forbidden"), &json!(channel)));
    }
    // A token from before this claim: nothing in it is special.
    let mut literal = daemon.client_with(&json!({"write": ["room:*"]}));
    literal.publish("room:1", "hello");
    assert_eq!(literal.receive()["error"], "forbidden");
}

#[test]
fn the_claim_may_restricts_a_token_of_the_api() {
    let daemon = Daemon::start("");
    let _readers = daemon.client(&["room:1", "room:2", "news", "secret"]);
    let claims = json!({"api": true, "read": ["news"], "may": {"read": ["room:*"], "write": ["room:*"]}});
    let token = sign(&claims);
    let publish = |channel: &str| {
        let body = json!({"channel": channel, "data": "x"}).to_string();
        daemon.http("POST", "/api/publish", &token, &body).0
    };
    assert_eq!(["room:1", "news", "secret"].map(publish), [200, 403, 403]);
    let (_, body) = daemon.http("GET", "/api/channels", &token, "");
    let names: Vec<&Value> =
        body["channels"].as_array().unwrap().iter().map(|row| &row["channel"]).collect();
    assert_eq!(names, ["news", "room:1", "room:2"]);
    let see = |channel: &str| daemon.http("GET", &format!("/api/channels/{channel}"), &token, "").0;
    assert_eq!(["room:1", "news", "secret"].map(see), [200, 200, 403]);
}

#[test]
fn who_may_write_a_channel_by_a_beginning_counts_as_its_writer() {
    let daemon = Daemon::start("");
    let _readers = daemon.client_with(&json!({"read": ["room:1", "room:2", "news"]}));
    let _writers = [
        daemon.client_with(&json!({"write": ["room:1", "news"], "may": {"write": ["room:*", "room:1"]}})),
        daemon.client_with(&json!({"write": ["news"]})),
        daemon.client_with(&json!({"may": {"write": ["*"]}})),
    ];
    let (_, body) = daemon.http("GET", "/api/channels", &sign(&json!({"api": true})), "");
    let row = |name: &str, writers: u64| json!({"channel": name, "readers": 1, "writers": writers});
    assert_eq!(body["channels"], json!([row("news", 3), row("room:1", 2), row("room:2", 2)]));
}

#[test]
fn philotectl_issues_tokens_with_patterns() {
    let daemon = Daemon::start("");
    let ctl = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_philotectl"));
        command.env_clear().env("PHILOTE_ADMIN_SOCKET", daemon.directory.path().join("admin.sock"));
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (token, said) = ctl(&["token", "--may-read", "room:*", "--may-read", "dm:17", "--may-write", "room:*"]);
    assert!(!said.contains("warning"), "{said}");
    let (inspected, _) = ctl(&["--json", "inspect", token.trim()]);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["claims"]["may"], json!({"read": ["room:*", "dm:17"], "write": ["room:*"]}));
    assert_eq!(inspected["accepted"], true);
    let (_, said) = ctl(&["token", "--read", "room:*"]);
    assert!(said.contains("or use --may-read \"room:*\""), "{said}");
}
