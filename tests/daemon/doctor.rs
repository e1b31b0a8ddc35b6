//! `philotectl doctor` on a healthy system and on broken ones: each fault is found by its line, with a remedy.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Daemon, PATIENCE, SECRET, config_file, frame, sign, through_shell};
use crate::tls::Authority;

/// A configuration without anything to remark.
const LISTEN: &str = "listen = [\"127.0.0.1:6380\"]\n";

/// Writes a timedatectl that tells whether the clock is synchronized.
fn timedatectl(directory: &Path, line: &str) {
    let program = directory.join("timedatectl");
    std::fs::write(&program, format!("#!/bin/sh\n{line}\n")).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
}

/// The exit status and the report.
fn doctor(daemon: &Daemon) -> (i32, Value) {
    if !daemon.directory.path().join("timedatectl").exists() {
        timedatectl(daemon.directory.path(), "echo yes");
    }
    examine(daemon.directory.path())
}

/// The same for the daemon whose socket should be in this directory.
fn examine(directory: &Path) -> (i32, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_philotectl"));
    command.env_clear().env("PHILOTE_ADMIN_SOCKET", directory.join("admin.sock")).env("PATH", directory);
    let output = command.args(["doctor", "--json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    crate::support::assert_no_secrets(&text);
    crate::support::keep(&text);
    (output.status.code().unwrap(), serde_json::from_str(&text).unwrap())
}

/// Checks that the report has this finding, with a remedy and the exit status of its worst line, and returns the finding.
#[track_caller]
fn expect((code, report): &(i32, Value), check: &str, verdict: &str, words: &str) -> Value {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| {
        finding["check"] == check
            && finding["verdict"] == verdict
            && finding["found"].as_str().unwrap().contains(words)
    });
    let found = found.unwrap_or_else(|| panic!("no {verdict} of {check} with {words:?}: {report:#}"));
    assert!(found["remedy"].as_str().is_some_and(|remedy| remedy.len() > 10), "{found}");
    let worst = |verdict: &str| findings.iter().any(|finding| finding["verdict"] == verdict);
    let expected = if worst("problem") { ("problem", 1) } else { ("warning", 7) };
    assert_eq!((report["verdict"].as_str().unwrap(), *code), expected, "{report:#}");
    found.clone()
}

/// The subjects that are not ok.
fn bad(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap().iter();
    let bad = findings.filter(|finding| finding["verdict"] != "ok");
    bad.map(|finding| finding["check"].as_str().unwrap()).collect()
}

#[test]
fn a_healthy_system_has_only_ok_lines() {
    let daemon = Daemon::start(LISTEN);
    let client = daemon.client(&["chat"]);
    let (code, report) = doctor(&daemon);
    assert_eq!((code, &report["verdict"], bad(&report)), (0, &json!("ok"), Vec::new()), "{report:#}");
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["remedy"].is_null()), "{report:#}");
    let subjects: Vec<_> = findings.iter().map(|finding| finding["check"].as_str().unwrap()).collect();
    let expected = [
        "socket",
        "state",
        "settings",
        "secret",
        "listening",
        "certificate",
        "proxies",
        "cluster",
        "clock",
        "connections",
        "descriptors",
        "memory",
        "slow readers",
        "log",
        "permissions",
        "version",
        "backlog",
        "tcp memory",
        "conntrack",
        "open files",
        "time service",
    ];
    assert_eq!(subjects, expected);
    drop(client);
}

#[test]
fn a_weak_or_readable_secret_is_found() {
    let daemon = Daemon::start_with(LISTEN, |command| {
        command.env("SECRET", "short");
    });
    let found = expect(&doctor(&daemon), "secret", "warning", "shorter than 32 bytes");
    assert!(found["remedy"].as_str().unwrap().contains("openssl rand"), "{found}");

    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let config = format!("{LISTEN}[auth]\nsecret_file = \"{}\"\n", file.display());
    let daemon = Daemon::start_with(&config, |command| {
        command.env_remove("SECRET");
    });
    assert_eq!(bad(&doctor(&daemon).1), Vec::<&str>::new());
    // It is the mode of now that counts, and not that of the start.
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let report = doctor(&daemon);
    let found = expect(&report, "secret", "problem", "other users can read");
    assert_eq!(found["remedy"], format!("run: chmod o-rwx {}", file.display()));
    assert_eq!(bad(&report.1), ["secret"], "once");

    let daemon = Daemon::start_with(&format!("{LISTEN}[auth]\nallow_empty_secret = true\n"), |command| {
        command.env("SECRET", "");
    });
    expect(&doctor(&daemon), "secret", "problem", "the secret is empty");
}

#[test]
fn settings_on_disk_that_are_wrong_or_not_in_use_are_found() {
    let daemon = Daemon::start(LISTEN);
    let write = |text: &str| config_file(daemon.directory.path(), &format!("{LISTEN}{text}"));
    write("[limits]\nqueue_bites = 5\n");
    expect(&doctor(&daemon), "settings", "problem", "philote.toml:3: ");
    write("[log]\nlevel = \"debug\"\n");
    let found = expect(&doctor(&daemon), "settings", "warning", "not in use: log.level");
    assert_eq!(found["remedy"], "run: philotectl reload");
    write("[admin]\nmode = \"0600\"\n");
    let found = expect(&doctor(&daemon), "settings", "warning", "only a restart applies it: admin.mode");
    assert!(found["remedy"].as_str().unwrap().contains("restart"), "{found}");
    // A warning that the start logs.
    write("[websocket]\nallowed_origins = [\"https://example.org\"]\n");
    expect(&doctor(&daemon), "settings", "warning", "allowed_origins is set");
}

#[test]
fn fault_71_an_expiring_certificate_and_a_readable_key_are_found() {
    let authority = Authority::new();
    let daemon = crate::tls::start(&authority, "");
    let key = daemon.directory.path().join("key.pem");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(bad(&doctor(&daemon).1), Vec::<&str>::new(), "TLS on all addresses");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o604)).unwrap();
    expect(&doctor(&daemon), "certificate", "problem", "holds the private key");
    for (days, verdict, words) in
        [(20, "warning", "within 21 days"), (5, "problem", "within 7 days"), (-1, "problem", "expired at")]
    {
        authority.issue_for(daemon.directory.path(), Some(days));
        let renewed = doctor(&daemon);
        expect(&renewed, "settings", "warning", "tls.certificate");
        daemon.admin("POST", "/v1/reload", "");
        expect(&doctor(&daemon), "certificate", verdict, words);
    }
}

#[test]
fn an_address_without_tls_and_a_proxy_that_is_not_trusted_are_found() {
    let daemon = Daemon::start("");
    expect(&doctor(&daemon), "listening", "warning", "without TLS");
    let ask = |daemon: &Daemon| {
        let name = "X-Forwarded-For: 192.0.2.7";
        daemon.exchange(format!("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{name}\r\n\r\n"))
    };
    assert!(ask(&daemon).contains("200 OK"));
    let found = expect(&doctor(&daemon), "proxies", "warning", "not believed: 1, the last from 127.0.0.1");
    assert!(found["remedy"].as_str().unwrap().contains("trusted_proxies"), "{found}");
    assert_eq!(daemon.metric("philote_requests_forwarded_untrusted_total"), 1);

    let daemon = Daemon::start("[limits]\ntrusted_proxies = [\"127.0.0.1\"]\n");
    ask(&daemon);
    assert_eq!(bad(&doctor(&daemon).1), Vec::<&str>::new(), "a proxy is before it, and it is believed");
}

#[test]
fn limits_that_are_too_small_and_too_large_are_found() {
    let daemon = Daemon::start_with(&format!("{LISTEN}max_connections = 1000\n"), |command| {
        *command = through_shell(command, "ulimit -n 200; exec \"$0\"");
    });
    let found = expect(&doctor(&daemon), "descriptors", "problem", "200 open files allows 136 connections");
    assert!(found["remedy"].as_str().unwrap().contains("1064"), "{found}");

    let config = "max_connections = 10000000\n[limits]\ntotal_queue_bytes = \"64TiB\"\n";
    let daemon = Daemon::start(&format!("{LISTEN}{config}"));
    let report = doctor(&daemon);
    expect(&report, "memory", "problem", "more is allowed than there is");
    expect(&report, "tcp memory", "warning", "net.ipv4.tcp_mem allows");
    let somaxconn = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    if somaxconn.trim().parse::<u64>().unwrap() < 65_535 {
        expect(&report, "backlog", "warning", "net.core.somaxconn is");
    }
}

#[test]
fn a_server_that_is_full_or_was_full_is_found() {
    let daemon = Daemon::start(&format!("{LISTEN}max_connections = 10\n"));
    let mut clients: Vec<_> = (0..8).map(|_| daemon.client(&["c"])).collect();
    expect(&doctor(&daemon), "connections", "warning", "8 of 10: nearly full");
    clients.extend((0..2).map(|_| daemon.client(&["c"])));
    expect(&doctor(&daemon), "connections", "problem", "10 of 10: FULL");
    assert!(daemon.try_client(&sign(&json!({}))).is_err());
    drop(clients);
    daemon.wait_until("all have gone", |status| status["connections"] == 0);
    expect(&doctor(&daemon), "connections", "problem", "because it was full: 1");
}

#[test]
fn readers_that_were_too_slow_are_found() {
    let daemon = Daemon::start(&format!("{LISTEN}[limits]\nqueue_messages = 16\n"));
    let stopped = daemon.client_with(&json!({"read": ["c"]}));
    let mut writer = daemon.client_with(&json!({"write": ["c"]}));
    let message = json!({"channel": "c", "data": "x".repeat(30_000)}).to_string();
    let deadline = Instant::now() + PATIENCE;
    let told = |daemon: &Daemon| doctor(daemon).1.to_string().contains("too slow: 1");
    while !told(&daemon) {
        assert!(Instant::now() < deadline, "the reader is not closed");
        for _ in 0..200 {
            writer.stream().write_all(&frame(0x81, message.as_bytes())).unwrap();
        }
    }
    let found = expect(&doctor(&daemon), "slow readers", "warning", "too slow: 1");
    assert!(found["remedy"].as_str().unwrap().contains("--reason slow_consumer"), "{found}");
    drop(stopped);
}

#[test]
fn fault_74_a_cluster_without_its_link_is_found() {
    // Nothing listens on the port of discard.
    let config = format!("{LISTEN}[cluster]\nservers = [\"nats://127.0.0.1:9\"]\n");
    let daemon = Daemon::start(&config);
    expect(&doctor(&daemon), "cluster", "problem", "the link to NATS is down since");
}

#[test]
fn fault_56_clocks_that_are_wrong_are_found() {
    let daemon = Daemon::start(LISTEN);
    timedatectl(daemon.directory.path(), "echo no");
    expect(&doctor(&daemon), "time service", "warning", "not synchronized");
    // A backend whose clock is an hour ahead.
    let later = crate::support::unix_now() + 3600;
    assert!(daemon.try_client(&sign(&json!({"nbf": later}))).is_err());
    expect(&doctor(&daemon), "clock", "warning", "not valid yet: 1");
    // Where systemd does not run, or hangs.
    for line in ["echo 'no bus' >&2; exit 1", "exec sleep 60"] {
        timedatectl(daemon.directory.path(), &format!("PATH=/usr/bin:/bin\n{line}"));
        let began = Instant::now();
        let (_, report) = doctor(&daemon);
        assert!(began.elapsed() < Duration::from_secs(20));
        assert!(!bad(&report).contains(&"time service"), "{report:#}");
    }
}

#[test]
fn a_socket_for_everyone_and_the_public_secret_of_dev_are_found() {
    let daemon = Daemon::start(&format!("{LISTEN}[admin]\nmode = \"0666\"\n"));
    let report = doctor(&daemon);
    expect(&report, "permissions", "problem", "every user of this machine may administer philote");
    expect(&report, "settings", "warning", "admin.mode");
    let daemon = Daemon::start_with("", |command| {
        command.arg("--dev").env_remove("SECRET").env_remove("PHILOTE_CONFIG");
    });
    expect(&doctor(&daemon), "secret", "warning", "public one of philote --dev");
}

#[test]
fn fault_68_a_socket_that_is_missing_or_dead_is_found() {
    let directory = tempfile::TempDir::new().unwrap();
    let unreachable = |words: &str| {
        let (code, report) = examine(directory.path());
        assert_eq!((code, &report["verdict"]), (3, &json!("problem")), "{report:#}");
        let first = &report["findings"][0];
        assert!(first["check"] == "socket" && first["found"].as_str().unwrap().contains(words), "{first}");
        assert!(first["remedy"].as_str().unwrap().contains("start"), "{first}");
    };
    unreachable("no socket at");
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("admin.sock")).unwrap());
    unreachable("nothing listens on");
}
