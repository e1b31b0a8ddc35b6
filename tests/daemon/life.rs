//! Signals, reloads and the end.

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Client, Daemon, config_file};

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
