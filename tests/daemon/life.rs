//! Signals, reloads and the end of the daemon.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Client, Daemon, SECRET, config_file, philote, sign, unix_now};

#[test]
fn fault_59_sigterm_closes_every_connection_with_1001() {
    let mut daemon = Daemon::start("max_connections = 2000\n[shutdown]\ndrain = \"2s\"\n");
    let mut clients: Vec<Client> = (0..1_000).map(|_| daemon.client(&["c"])).collect();
    daemon.signal(Signal::TERM);
    let draining = daemon.wait_until("it drains", |status| status["state"] == "draining");
    assert!(
        draining["drain_ends_at"].as_str().unwrap() >= draining["started_at"].as_str().unwrap(),
        "{draining}"
    );
    let began = Instant::now();
    for client in &mut clients {
        let (code, reason, _) = client.closed();
        assert_eq!((code, reason.as_str()), (1001, "the server is stopping; reconnect"));
    }
    let took = began.elapsed();
    println!("1,000 clients were told within {took:?}, of a drain of 2 s");
    assert!(took >= Duration::from_secs(1), "all at once, and not spread over the drain: {took:?}");
    drop(clients);
    assert_eq!(daemon.wait().code(), Some(0));
}

/// Clients that are frozen or unreachable answer no Close; the drain still ends at the configured time.
#[test]
fn fault_59_frozen_clients_do_not_extend_the_drain() {
    const CLIENTS: usize = 500;
    const FROZEN: usize = 30;
    let mut daemon = Daemon::start("max_connections = 1000\n[shutdown]\ndrain = \"6s\"\n");
    let frozen: Vec<Client> = (0..FROZEN).map(|_| daemon.client(&["c"])).collect();
    let clients: Vec<Client> = (FROZEN..CLIENTS).map(|_| daemon.client(&["c"])).collect();
    let start = Instant::now();
    daemon.signal(Signal::TERM);
    // Each client ends after it has read its Close.
    for mut client in clients {
        assert_eq!(client.closed().0, 1001);
    }
    assert!(daemon.wait().success());
    let took = start.elapsed();
    // A connection has 5 s for the answer to its Close, which once started only after the 6 s.
    assert!(took < Duration::from_secs(9), "{took:?}");
    println!("{CLIENTS} clients, {FROZEN} of them frozen, drain = 6s: {took:?}");
    let line = daemon.wait_for_line("were cut");
    assert!(line.contains("of 500 connections 30 did not close in time"), "{line}");
    assert!(line.ends_with(" and 20 more"), "{line}");
    drop(frozen);
}

/// A file left by `kill -9` during a write contains a secret. The next start removes it, whatever secret it uses.
#[test]
fn fault_66_unfinished_files_of_a_killed_daemon_are_removed_at_the_next_start() {
    let directory = TempDir::new().unwrap();
    let state = directory.path().join(".local/state/philote");
    std::fs::create_dir_all(&state).unwrap();
    let left = ["secret.0123456789abcdef.new", "refused.00000000000000ff.new"];
    let kept = ["secret.old.new", "other.0123456789abcdef.new"];
    for name in left.iter().chain(&kept) {
        std::fs::write(state.join(name), "half a secr").unwrap();
    }
    // A socket of the daemon that was bound but not yet renamed.
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("public.sock.new")).unwrap());
    let mut command = philote(directory.path());
    let listen = format!("127.0.0.1:0,unix:{}", directory.path().join("public.sock").display());
    command.env("SECRET", SECRET).env("PHILOTE_LISTEN", listen);
    let daemon = Daemon::spawn(command, directory);
    for name in left {
        assert!(!state.join(name).exists(), "{name}");
        assert!(daemon.log().contains(name), "{}", daemon.log());
    }
    for name in kept {
        assert!(state.join(name).exists(), "{name}");
    }
    assert!(!daemon.directory.path().join("public.sock.new").exists());
}

/// Even with a drain of 0, a Close is sent before the end.
#[test]
fn a_drain_of_0_still_sends_every_close() {
    let mut daemon = Daemon::start("[shutdown]\ndrain = \"0s\"\n");
    let frozen = daemon.client(&["c"]);
    let mut client = daemon.client(&["c"]);
    daemon.signal(Signal::TERM);
    assert_eq!(client.closed().0, 1001);
    assert!(daemon.wait().success());
    daemon.wait_for_line("of 2 connections");
    drop(frozen);
}

#[test]
fn fault_59_a_second_sigterm_ends_the_daemon_at_once() {
    let mut daemon = Daemon::start("[shutdown]\ndrain = \"2m\"\n");
    let clients: Vec<Client> = (0..5).map(|_| daemon.client(&["c"])).collect();
    daemon.signal(Signal::TERM);
    daemon.wait_for_line("SIGTERM");
    daemon.signal(Signal::TERM);
    let began = Instant::now();
    assert_eq!(daemon.wait().code(), Some(143));
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "it must not wait for the drain of two minutes: {:?}",
        began.elapsed()
    );
    drop(clients);
}

#[test]
fn fault_60_a_bad_reload_changes_nothing_and_reports_the_error() {
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
    // A file that cannot be read, even by root.
    std::fs::create_dir(daemon.directory.path().join("philote.toml")).unwrap();
    let (code, text) = crate::admin::ctl(&daemon, &["reload"]);
    assert!(code == 1 && text.contains("philote.toml"), "{text}");
    exchange();
    std::fs::remove_dir(daemon.directory.path().join("philote.toml")).unwrap();

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
fn fault_61_a_hundred_hangups_reload_one_at_a_time() {
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

/// Reloads affect no connection: neither a good one, nor a bad one, nor a hundred of both.
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
    daemon.log_with("philote.toml:2");
}

/// Ten thousand connections that end at once take a few lines in the log: the first in full, a count, the last.
#[test]
fn many_equal_log_lines_are_summed_up() {
    const CONNECTIONS: usize = 10_000;
    let daemon = Daemon::start("max_connections = 10000\n");
    let token = sign(&json!({"read": ["c"]}));
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| daemon.try_client(&token).unwrap()).collect();
    drop(clients);
    daemon.wait_until("all are gone", |status| status["connections"] == 0);
    // The summaries count all closed connections; a slow machine needs several summaries.
    let mut counted = 0;
    while counted < CONNECTIONS {
        let line = daemon.wait_for_line(" client_gone");
        if let Some((count, reason)) =
            line.split_once(" in ").and_then(|(head, tail)| Some((head.rsplit_once("closed ")?.1, tail)))
        {
            let count: usize = count.replace(',', "").parse().unwrap();
            assert!(
                reason.ends_with(&format!(
                    " s: {} client_gone",
                    line.rsplit_once("closed ").unwrap().1.split(' ').next().unwrap()
                )),
                "{line}"
            );
            counted += count;
        }
    }
    assert_eq!(counted, CONNECTIONS);
    // The first ones are logged in full, and the last beside its summary.
    let log = daemon.log();
    let closed: Vec<&str> = log.lines().filter(|line| line.contains(" closed ")).collect();
    let full = |line: &str| line.contains(" from 127.0.0.1:") && line.contains("(1006, open ");
    let summary = closed.iter().position(|line| line.contains(" client_gone")).unwrap();
    println!("{}\n...\n{}\n{}", closed[0], closed[summary - 1], closed[summary]);
    assert!(full(closed[0]) && full(closed[summary - 1]) && summary == 21, "{closed:?}");
    let lines = log.lines().count();
    assert!(lines < 150, "{lines} lines for {CONNECTIONS} connections");
}

/// As soon as the signal handler is installed; before that a signal ends the process.
#[test]
fn fault_61_hangups_during_the_start_and_the_drain_are_handled() {
    let directory = TempDir::new().unwrap();
    let mut command = philote(directory.path());
    command.env("SECRET", SECRET).env("PORT", "0");
    let mut daemon = Daemon::spawn_while(command, directory, |pid| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        let hangup_is_caught = u64::from_str_radix(caught, 16).unwrap() & 1 == 1;
        if hangup_is_caught {
            kill_process(pid, Signal::HUP).unwrap();
        }
        hangup_is_caught
    });
    daemon.wait_for_line("reloaded: 0 applied");
    let mut client = daemon.client(&["c"]);
    daemon.signal(Signal::TERM);
    (0..100).for_each(|_| daemon.signal(Signal::HUP));
    assert_eq!(client.closed().0, 1001);
    drop(client);
    assert!(daemon.wait().success());
}

/// The state directory is read-only: the start fails with an error, and a running daemon continues.
#[test]
fn fault_66_a_read_only_state_directory_is_reported() {
    let directory = TempDir::new().unwrap();
    let output =
        philote(directory.path()).env("PORT", "0").env("STATE_DIRECTORY", "/proc/none").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && text.contains("/proc/none"), "systemd tries again: {text}");

    let state = TempDir::new().unwrap();
    let daemon = Daemon::start_with("", |command| {
        command.env_remove("SECRET").env("STATE_DIRECTORY", state.path());
    });
    let token = daemon.admin("POST", "/v1/token", r#"{"read": ["c"]}"#)["token"].as_str().unwrap().to_owned();
    let mut client = daemon.try_client(&token).unwrap();
    let elsewhere = state.path().with_extension("elsewhere");
    std::fs::rename(state.path(), &elsewhere).unwrap();
    let rotated = daemon.admin("POST", "/v1/secret/rotate", "");
    assert!(
        rotated["error"].is_string() && rotated["message"].as_str().unwrap().contains("secret"),
        "{rotated}"
    );
    assert_eq!(daemon.admin("POST", "/v1/reload", "")["error"], "refused", "no new secret is created");
    client.settle();
    daemon.try_client(&token).unwrap().settle();
    std::fs::rename(&elsewhere, state.path()).unwrap();
    assert!(daemon.admin("POST", "/v1/secret/rotate", "")["error"].is_null());
}

/// The disk is full: the start reports it.
#[test]
#[ignore = "needs root or user namespaces: tests/run includes it"]
fn fault_66_a_full_state_directory_is_reported() {
    let directory = TempDir::new().unwrap();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let plain = philote(directory.path());
    let mut command = std::process::Command::new("unshare");
    command.args(["-rm", "sh", "-c", "mount -t tmpfs -o nr_inodes=1 none \"$1\" && exec \"$0\""]);
    command.arg(plain.get_program()).arg(&state).env_clear();
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let output = command.env("PORT", "0").env("STATE_DIRECTORY", &state).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && text.contains("No space left on device"), "{text}");
    assert!(text.contains(&*state.to_string_lossy()), "{text}");
}

/// A daemon that reads its clocks from this file, which has an offset such as `+1d`.
fn with_clock(file: &std::path::Path, wall_clock_only: bool) -> Daemon {
    let library = glob_one("/usr/lib", "faketime/libfaketimeMT.so.1");
    std::fs::write(file, "+0").unwrap();
    Daemon::start_with("[websocket]\nping_interval = \"60s\"\npong_timeout = \"10s\"\n", |command| {
        command
            .env("LD_PRELOAD", &library)
            .env("FAKETIME_TIMESTAMP_FILE", file)
            .env("FAKETIME_NO_CACHE", "1");
        if wall_clock_only {
            command.env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
    })
}

/// Both clocks jump, as after a machine slept: every timer is due at once, and no client has done anything wrong.
#[test]
#[ignore = "needs libfaketime: tests/run includes it"]
fn fault_56_both_clocks_jump_and_no_client_that_answers_is_closed() {
    let clock = TempDir::new().unwrap();
    let file = clock.path().join("clock");
    let daemon = with_clock(&file, false);
    let mut clients: Vec<_> = (0..20).map(|_| daemon.client(&["c"])).collect();
    let (memory, descriptors) = (daemon.memory().0, daemon.descriptors());
    // The system's monotonic clock never goes back; the wall clock does, in the next test.
    for offset in ["+1h", "+1d", "+30d"] {
        // In one step: an empty file would be another jump, in the middle of what follows.
        let new = file.with_extension("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(&new, &file).unwrap();
        for _ in 0..20 {
            let (one, others) = clients.split_first_mut().unwrap();
            one.publish("c", offset);
            for other in others {
                assert_eq!(other.data(), offset);
            }
            one.settle();
        }
        daemon.client(&["other"]).settle();
        let status = daemon.admin("GET", "/v1/status", "");
        assert_eq!(status["state"], "serving");
        // The uptime follows the clock of the timers, which has really jumped.
        assert!(status["uptime_seconds"].as_u64().unwrap() >= 3_600, "{offset}: {status}");
    }
    daemon.wait_until("all are still there", |status| status["connections"] == 20);
    println!("memory {memory} / {} / {}, descriptors {descriptors}", daemon.peak(), daemon.memory().0);
    daemon.wait_for_descriptors(descriptors);
}

/// The wall clock jumps a day ahead: tokens follow it, heartbeats and deadlines do not.
#[test]
#[ignore = "needs libfaketime: tests/run includes it"]
fn fault_56_tokens_follow_a_jump_of_the_wall_clock_and_timers_do_not() {
    let clock = TempDir::new().unwrap();
    let file = clock.path().join("clock");
    let daemon = with_clock(&file, true);
    let mut stays = daemon.client(&["c"]);
    let mut goes = daemon.client_with(&json!({"read": ["c"], "exp": unix_now() + 3_600}));
    goes.settle();
    std::fs::write(&file, "+1d").unwrap();
    assert_eq!(goes.closed().0, 4401);
    assert!(daemon.try_client(&sign(&json!({"read": ["c"], "exp": unix_now() + 3_600}))).is_err());
    daemon.client_with(&json!({"read": ["c"], "exp": unix_now() + 90_000})).settle();
    // If timers followed, its pong and a new handshake would be overdue.
    stays.settle();
    std::fs::write(&file, "-1d").unwrap();
    daemon.client_with(&json!({"read": ["c"], "exp": unix_now() - 3_600})).settle();
    stays.settle();
    let status = daemon.admin("GET", "/v1/status", "");
    assert!(status["uptime_seconds"].as_u64().unwrap() < 3_600, "{status}");
}

/// The only file with this ending, two directories below this one.
fn glob_one(directory: &str, end: &str) -> std::path::PathBuf {
    let mut found = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path().join(end));
    found.find(|path| path.exists()).unwrap_or_else(|| panic!("this test needs {end} in {directory}"))
}
