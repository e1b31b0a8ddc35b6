//! Signals, reloads and the end.

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Client, Daemon, config_file, sign};

#[test]
fn fault_59_sigterm_says_goodbye_to_all() {
    let mut daemon = Daemon::start("max_connections = 2000\n[shutdown]\ndrain = \"2s\"\n");
    let mut clients: Vec<Client> = (0..1_000).map(|_| daemon.client(&["c"])).collect();
    daemon.signal(Signal::TERM);
    for client in &mut clients {
        let (code, reason, _) = client.closed();
        assert_eq!((code, reason.as_str()), (1001, "the server is stopping; reconnect"));
    }
    drop(clients);
    assert!(daemon.wait().success());
}

#[test]
fn fault_59_a_second_sigterm_ends_it_at_once() {
    let mut daemon = Daemon::start("[shutdown]\ndrain = \"2m\"\n");
    let clients: Vec<Client> = (0..5).map(|_| daemon.client(&["c"])).collect();
    daemon.signal(Signal::TERM);
    daemon.wait_for_line("SIGTERM");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(143));
    drop(clients);
}

#[test]
fn fault_60_a_bad_reload_changes_nothing_and_says_why() {
    let daemon = Daemon::start("[websocket]\nmax_message_size = \"64KiB\"\n");
    let (mut reader, mut writer) = (daemon.client(&["c"]), daemon.client(&["c"]));
    let mut numbers = 0..;
    let mut exchange = || {
        for number in numbers.by_ref().take(100) {
            writer.publish("c", &number.to_string());
            assert_eq!(reader.data(), number.to_string());
        }
    };
    exchange();
    for bad in [
        "not toml",
        "[limits]\nqueue_bites = 1\n",
        "[limits]\nqueue_bytes = \"many\"\n",
        "max_connections = -1\n",
    ] {
        config_file(daemon.directory.path(), bad);
        let answer = daemon.admin("POST", "/v1/reload", "");
        assert_eq!(answer["error"], "refused", "{answer}");
        assert!(answer["message"].as_str().unwrap().contains("philote.toml:"), "{answer}");
        exchange();
    }
    std::fs::remove_file(daemon.directory.path().join("philote.toml")).unwrap();
    assert_eq!(daemon.admin("POST", "/v1/reload", "")["error"], "refused");
    daemon.signal(Signal::HUP);
    daemon.wait_for_line("the reload changed nothing");
    exchange();

    config_file(
        daemon.directory.path(),
        "[websocket]\nmax_message_size = \"1KiB\"\n[admin]\nmode = \"0600\"\n",
    );
    let answer = daemon.admin("POST", "/v1/reload", "");
    assert_eq!(answer["applied"], json!(["websocket.max_message_size"]), "{answer}");
    assert_eq!(answer["needs_restart"], json!(["admin.mode"]));
    exchange();
    writer.publish("c", &"x".repeat(2_000));
    assert_eq!(writer.closed().0, 1009);
}

#[test]
fn fault_61_a_hundred_hangups() {
    let mut daemon = Daemon::start("");
    for _ in 0..100 {
        daemon.signal(Signal::HUP);
    }
    daemon.wait_for_line("reloaded");
    let mut client = daemon.client(&["c"]);
    client.settle();
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::HUP);
    assert_eq!(client.closed().0, 1001);
    drop(client);
    assert!(daemon.wait().success());
}

/// A reload disturbs nobody: not a good one, not a bad one, not a hundred of both.
#[test]
fn fault_60_reloads_under_traffic_lose_nothing() {
    const MESSAGES: usize = 20_000;
    let daemon = Daemon::start("");
    let mut reader = daemon.client_with(&json!({"read": ["c"]}));
    let mut writer = daemon.client_with(&json!({"write": ["c"]}));
    let publishing = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            writer.publish("c", &number.to_string());
        }
        writer.settle();
    });
    let reading = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            assert_eq!(reader.data(), number.to_string());
        }
    });
    let mut reloads = 0;
    while !publishing.is_finished() {
        let (text, good) = match reloads % 3 {
            0 => ("[limits]\nqueue_messages = 5000\n", true),
            1 => ("[limits]\nqueue_messages = \"many\"\n", false),
            _ => ("[limits]\nqueue_messages = 6000\n[log]\nlevel = \"debug\"\n", true),
        };
        config_file(daemon.directory.path(), text);
        let answer = daemon.admin("POST", "/v1/reload", "");
        assert_eq!(answer["error"].is_null(), good, "{answer}");
        daemon.signal(Signal::HUP);
        reloads += 1;
    }
    publishing.join().unwrap();
    reading.join().unwrap();
    println!("{reloads} reloads during {MESSAGES} messages");
    assert!(reloads > 2);
    assert!(daemon.log().contains("philote.toml:2"), "the bad one is in the log with its line");
}

/// Ten thousand connections that drop at once are a few lines in the log: the first in full, a count, the last.
#[test]
fn masses_are_summed_up_in_the_log() {
    const CONNECTIONS: usize = 9_000;
    let daemon = Daemon::start("max_connections = 10000\n");
    let token = sign(&json!({"read": ["c"]}));
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| daemon.try_client(&token).unwrap()).collect();
    drop(clients);
    daemon.wait_until("all are gone", |status| status["connections"] == 0);
    daemon.wait_for_line("closed 9,000 in 10 s: 9,000 client_gone");
    let lines = daemon.log().lines().count();
    assert!(lines < 150, "{lines} lines for {CONNECTIONS} connections");
}
