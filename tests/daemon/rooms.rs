//! Channels that the claim `may` allows.

use std::io::Write;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Client, Daemon, frame, sign};

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
    let names: Vec<&Value> = body["channels"].as_array().unwrap().iter().map(|row| &row["channel"]).collect();
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
    let (token, said) =
        ctl(&["token", "--may-read", "room:*", "--may-read", "dm:17", "--may-write", "room:*"]);
    assert!(!said.contains("warning"), "{said}");
    let (inspected, _) = ctl(&["--json", "inspect", token.trim()]);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["claims"]["may"], json!({"read": ["room:*", "dm:17"], "write": ["room:*"]}));
    assert_eq!(inspected["accepted"], true);
    let (_, said) = ctl(&["token", "--read", "room:*"]);
    assert!(said.contains("or use --may-read \"room:*\""), "{said}");
}

/// A connection of philote.v1 with these claims, and its access.
fn enter(daemon: &Daemon, claims: &Value) -> (Client, Value) {
    let mut request = daemon.request("/");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
    let mut client = daemon.open(request).unwrap();
    client.send(json!({"auth": sign(claims)}).to_string());
    let access = client.receive()["access"].take();
    (client, access)
}

fn ask(client: &mut Client, frame: &Value) -> Value {
    client.send(frame.to_string());
    client.receive()
}

fn rooms() -> Value {
    json!({"read": ["news"], "may": {"read": ["room:*", "dm:17"], "write": ["room:*"]}})
}

#[test]
fn a_client_of_either_protocol_joins_and_leaves_channels() {
    let daemon = Daemon::start("");
    let mut publisher = daemon.client(&["room:1", "dm:17", "news"]);
    let (v1, access) = enter(&daemon, &rooms());
    assert_eq!(access["may"], json!({"read": ["dm:17", "room:*"], "write": ["room:*"]}));
    assert_eq!(access["read"], json!(["news"]));
    let (_, access) = enter(&daemon, &json!({"read": ["news"]}));
    assert_eq!(access.get("may"), None, "a token without the claim");
    drop(v1);
    for is_v1 in [true, false] {
        let mut client = if is_v1 { enter(&daemon, &rooms()).0 } else { daemon.client_with(&rooms()) };
        publisher.publish("room:1", "before");
        publisher.settle();
        let joined = ask(&mut client, &json!({"join": ["room:1", "dm:17", "room:1"]}));
        assert_eq!(joined, json!({"joined": {"dm:17": {}, "room:1": {}}}));
        for channel in ["room:1", "dm:17", "news"] {
            publisher.publish(channel, "hello");
            assert_eq!(client.receive()["channel"], channel);
        }
        assert_eq!(ask(&mut client, &json!({"join": ["room:1"]})), json!({"joined": {"room:1": {}}}));
        assert_eq!(
            ask(&mut client, &json!({"leave": ["room:1", "room:9"]})),
            json!({"left": ["room:1", "room:9"]})
        );
        publisher.publish("room:1", "nobody is there");
        publisher.publish("dm:17", "but here");
        assert_eq!(client.data(), "but here");
        assert_eq!(ask(&mut client, &json!({"join": []})), json!({"joined": {}}));
    }
}

#[test]
fn a_join_or_leave_that_is_not_allowed_changes_nothing() {
    let daemon = Daemon::start("[limits]\nchannels_per_token = 3\n");
    let mut publisher = daemon.client(&["room:1", "news"]);
    let mut client = daemon.client_with(&rooms());
    for (request, channel, message) in [
        (json!({"join": ["room:1", "secret"]}), "secret", "this token may not join channel \"secret\""),
        (json!({"join": ["dm:1"]}), "dm:1", "this token may not join channel \"dm:1\""),
        (
            json!({"leave": ["room:1", "news"]}),
            "news",
            "this token names channel \"news\" in read, so it cannot be left",
        ),
        (
            json!({"join": ["room:1", "room:2", "room:3"]}),
            "room:3",
            "cannot join channel \"room:3\": a connection may read at most 3 channels",
        ),
    ] {
        let expected = json!({"error": "forbidden", "channel": channel, "message": message});
        assert_eq!(ask(&mut client, &request), expected);
    }
    publisher.publish("room:1", "not joined");
    publisher.publish("news", "not left");
    assert_eq!(client.data(), "not left");
    for (request, message) in [
        (json!({"join": "room:1"}), "join must be an array of channel names"),
        (json!({"join": [1]}), "join must be an array of channel names"),
        (json!({"join": null}), "join must be an array of channel names"),
        (json!({"leave": {}}), "leave must be an array of channel names"),
        (json!({"join": [""]}), "a channel's name must not be empty"),
        (
            json!({"join": ["a"], "leave": ["b"]}),
            "a message may have only one of auth, join, leave and presence",
        ),
        (json!({"join": ["a"], "Join": ["b"]}), "the key join appears twice"),
    ] {
        let expected = json!({"error": "bad_message", "message": message});
        assert_eq!(ask(&mut client, &request), expected, "{request}");
    }
    // With a channel or data it is a message, as it was for the clients of the classic protocol.
    let mut writer = daemon.client(&["news"]);
    writer.send(json!({"channel": "news", "data": "a message", "join": ["room:1"]}).to_string());
    assert_eq!(client.data(), "a message");
}

#[test]
fn joined_channels_survive_another_token_that_allows_them() {
    let daemon = Daemon::start("[limits]\nchannels_per_token = 3\n");
    let mut publisher = daemon.client(&["a1", "a2", "b1"]);
    let (mut client, _) = enter(&daemon, &json!({"may": {"read": ["a*", "b*"]}}));
    ask(&mut client, &json!({"join": ["a1", "a2", "b1"]}));
    let auth = |claims: &Value| json!({"auth": sign(claims)});
    let left = ask(&mut client, &auth(&json!({"read": ["n"], "may": {"read": ["a*"]}})));
    assert_eq!(left, json!({"left": ["b1"]}));
    assert_eq!(client.receive()["access"]["read"], json!(["n"]));
    for channel in ["b1", "a1", "a2"] {
        publisher.publish(channel, channel);
    }
    assert_eq!([client.data(), client.data()], ["a1", "a2"]);
    // Room for one of the two; the first by name stays.
    let left = ask(&mut client, &auth(&json!({"read": ["n", "m"], "may": {"read": ["a*"]}})));
    assert_eq!(left, json!({"left": ["a2"]}));
    client.receive();
    // A token may name a channel that was joined, and the next one may not.
    assert_eq!(ask(&mut client, &auth(&json!({"read": ["a1"]})))["access"]["read"], json!(["a1"]));
    assert!(ask(&mut client, &auth(&json!({"may": {"read": ["*"]}})))["access"].is_object());
    publisher.publish("a1", "still here");
    assert_eq!(client.data(), "still here");
    let token = sign(&json!({"may": {"read": ["*"]}, "exp": 1}));
    assert_eq!(ask(&mut client, &json!({"auth": token}))["error"], "unauthorized");
    publisher.publish("a1", "even now");
    assert_eq!(client.data(), "even now");
}

#[test]
fn a_join_takes_up_what_was_missed() {
    let daemon = Daemon::start("[history]\nmessages = 10\n");
    let mut publisher = daemon.client(&["room:1", "room:2"]);
    let (mut client, _) = enter(&daemon, &rooms());
    let joined = ask(&mut client, &json!({"join": ["room:1", "room:2"]}));
    let id = joined["joined"]["room:1"]["id"].clone();
    assert!(id.as_str().unwrap().ends_with("-0") && joined["joined"]["room:2"].get("recovered").is_none());
    drop(client);
    for number in 0..3 {
        publisher.publish("room:1", &number.to_string());
    }
    publisher.settle();
    let (mut client, _) = enter(&daemon, &rooms());
    let join = json!({"join": ["room:1", "room:2"], "since": {"room:1": id, "room:2": "7-7", "other": id}});
    let joined = ask(&mut client, &join);
    assert_eq!(joined["joined"]["room:1"], json!({"id": id, "recovered": true}));
    assert_eq!(joined["joined"]["room:2"]["recovered"], false);
    assert_eq!([client.data(), client.data(), client.data()], ["0", "1", "2"]);
    // The classic protocol has no since.
    let mut classic = daemon.client_with(&rooms());
    let joined = ask(&mut classic, &json!({"join": ["room:1"], "since": {"room:1": null}}));
    assert!(joined["joined"]["room:1"]["id"].as_str().unwrap().ends_with("-3"));
    classic.settle();
}

#[test]
fn a_flood_of_joins_does_not_keep_others_from_being_served() {
    let daemon = Daemon::start("");
    let (mut flood, _) = enter(&daemon, &json!({"may": {"read": ["*"]}}));
    let names: Vec<String> = (0..1000).map(|number| format!("{number:03}")).collect();
    let frames = [
        frame(0x81, json!({"join": names}).to_string().as_bytes()),
        frame(0x81, json!({"leave": names}).to_string().as_bytes()),
    ];
    flood.stream().write_all(&frames.concat().repeat(20)).unwrap();
    for _ in 0..20 {
        assert_eq!(flood.receive()["joined"].as_object().unwrap().len(), 1000);
        assert_eq!(flood.receive()["left"].as_array().unwrap().len(), 1000);
    }
    let status = daemon.wait_until("all channels are left", |status| status["channels"] == 0);
    assert_eq!(status["connections"], 1);
}

#[test]
fn lists_show_joined_channels() {
    let daemon = Daemon::start("");
    let claims = json!({"read": ["news"], "sub": "alice", "may": {"read": ["room:*"], "write": ["room:*"]}});
    let (mut client, access) = enter(&daemon, &claims);
    ask(&mut client, &json!({"join": ["room:1", "news"]}));
    let api = sign(&json!({"api": true}));
    let (_, body) = daemon.http("GET", "/api/connections?subject=alice", &api, "");
    let row = &body["connections"][0];
    assert_eq!((&row["read"], &row["read_count"]), (&json!(["news", "room:1"]), &json!(2)));
    assert_eq!((&row["joined"], &row["joined_count"]), (&json!(["news", "room:1"]), &json!(2)));
    let (_, body) = daemon.http("GET", "/api/channels/room:1", &api, "");
    assert_eq!(
        body,
        json!({"channel": "room:1", "readers": 1, "writers": 1, "subjects": ["alice"], "next": null})
    );
    let narrow = sign(&json!({"api": true, "may": {"read": ["room:*"]}}));
    let (_, body) = daemon.http("GET", "/api/connections?subject=alice", &narrow, "");
    assert_eq!(body["connections"][0]["read"], json!(["room:1"]));

    let found = daemon.admin("GET", "/v1/connections?channel=room:1", "");
    let row = &found["connections"][0];
    assert_eq!((&row["id"], &row["read"]), (&access["connection"], &json!(["news", "room:1"])));
    assert_eq!(row["may"], json!({"read": ["room:*"], "write": ["room:*"]}));
    let channels = daemon.admin("GET", "/v1/channels?prefix=room", "");
    let expected =
        json!({"channel": "room:1", "readers": 1, "writers": 1, "messages": 0, "messages_per_second": 0.0});
    assert_eq!(channels["channels"], json!([expected]));
    ask(&mut client, &json!({"leave": ["room:1"]}));
    assert_eq!(daemon.admin("GET", "/v1/channels?prefix=room", "")["matched"], 0);
}
