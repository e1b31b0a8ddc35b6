//! Commands of an administrator against a real daemon with real clients.

mod actions;
mod lists;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Client, Daemon, ask_admin, config_file, frame, keep, status, upgrade};

/// Exit statuses of philotectl.
const DONE: i32 = 0;
const NOTHING_MATCHED: i32 = 6;

fn philotectl(daemon: &Daemon, line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_philotectl"));
    command
        .env_clear()
        .env("PHILOTE_ADMIN_SOCKET", daemon.directory.path().join("admin.sock"))
        .args(line)
        .stdin(Stdio::null());
    command
}

/// The exit status and the output of philotectl.
pub fn ctl(daemon: &Daemon, line: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = philotectl(daemon, line).output().unwrap();
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    if !crate::output::may_print_secrets(line.iter().copied()) {
        keep(&text);
    }
    (status.code().unwrap(), text)
}

pub fn ctl_json(daemon: &Daemon, line: &[&str]) -> Value {
    let (_, text) = ctl(daemon, &[line, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
}

fn named(daemon: &Daemon, subject: &str, channel: &str) -> Client {
    daemon.client_with(&json!({"read": [channel], "write": [channel], "sub": subject}))
}

/// A `philotectl events` process.
struct Follower {
    child: std::process::Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Follower {
    fn start(daemon: &Daemon, line: &[&str]) -> Follower {
        let mut child = philotectl(daemon, &[&["events"], line].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut told).unwrap();
        assert_eq!(told, "following events; end with Ctrl-C\n");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Follower { child, lines }
    }

    fn see(&mut self, text: &str) -> String {
        self.lines.by_ref().map(Result::unwrap).find(|line| line.contains(text)).unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_are_printed_as_they_happen() {
    let mut daemon = Daemon::start_with("", |command| {
        command.env_remove("SECRET");
    });
    let token =
        |line: &[&str]| ctl_json(&daemon, &[&["token"], line].concat())["token"].as_str().unwrap().to_owned();
    let mut everything = Follower::start(&daemon, &["--messages"]);
    let mut chat = Follower::start(&daemon, &["--messages", "--channel", "chat"]);
    let mut life = Follower::start(&daemon, &[]);
    let mine = token(&["--subject", "alice", "--write", "chat", "--write", "news", "--read", "chat"]);
    let mut alice = daemon.try_client(&mine).unwrap();
    alice.publish("news", "one");
    alice.publish("chat", "two \u{1b}[2J");
    let line = everything.see("message on news");
    assert!(line.contains(" of alice to 0 readers: one"), "{line}");
    assert!(everything.see("message on chat").ends_with(" of alice to 0 readers: two \\u{1b}[2J"));
    assert!(chat.see("message").contains("message on chat"), "messages of the other channel are not shown");
    assert_eq!(ctl(&daemon, &["publish", "chat", "three"]).1, "1 message queued for 1 reader\n");
    assert_eq!(alice.data(), "three");
    assert!(chat.see("message").ends_with(" to 1 reader: three"));

    assert_eq!(status(&daemon.exchange(upgrade("x", "Connection: close\r\n"))), 401);
    assert_eq!(ctl(&daemon, &["secret", "rotate"]).0, DONE);
    config_file(daemon.directory.path(), "[limits]\nqueue_messages = 77\n");
    assert_eq!(ctl(&daemon, &["reload"]).0, DONE);
    config_file(daemon.directory.path(), "nonsense = 1\n");
    assert_eq!(ctl(&daemon, &["reload"]).0, 1);
    assert_eq!(ctl(&daemon, &["disconnect", "--subject", "alice"]).0, DONE);
    assert_eq!(alice.closed().0, 4403);
    let all: Vec<String> =
        ["connected", "refused", "secret changed", "reloaded", "reloaded", "changed nothing", "closed"]
            .iter()
            .map(|text| life.see(text))
            .collect();
    for (line, part) in all.iter().zip([
        " of alice from 127.0.0.1:",
        "token_malformed (401)",
        "2 secrets",
        "auth.secret",
        "limits.queue_messages",
        "nonsense",
        "disconnected (4403)",
    ]) {
        assert!(line.contains(part), "{part} in {all:?}");
    }
    daemon.log_with("admin: events with the messages of \"chat\" by uid ");

    // A follower is told when the daemon ends, and does not delay the end.
    daemon.signal(rustix::process::Signal::TERM);
    let began = Instant::now();
    assert!(daemon.wait().success());
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(life.child.wait().unwrap().code(), Some(3));
}

/// The secrets in the generated file of a daemon.
fn secrets_in(state: &TempDir) -> Vec<String> {
    let text = std::fs::read_to_string(state.path().join("secret")).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn changes_of_the_secret_at_the_same_time_are_all_kept() {
    let state = TempDir::new().unwrap();
    let daemon = Daemon::start_with("", |command| {
        command.env_remove("SECRET").env("STATE_DIRECTORY", state.path());
    });
    let directory = daemon.directory.path();
    let rotate = || assert!(ask_admin(directory, "POST", "/v1/secret/rotate", "")["error"].is_null());
    std::thread::scope(|scope| (0..8).for_each(|_| _ = scope.spawn(rotate)));
    assert_eq!(secrets_in(&state).len(), 9);

    // A secret that was removed does not come back, whether the rotation is first or last.
    let leaked = "known to others, and removed from the file";
    for turn in 0..20 {
        let set = |secret: &str| {
            let answer = ask_admin(directory, "PUT", "/v1/secret", &json!({"secret": secret}).to_string());
            assert!(answer["error"].is_null(), "{answer}");
        };
        set(leaked);
        std::thread::scope(|scope| {
            (0..3).for_each(|_| _ = scope.spawn(rotate));
            scope.spawn(|| set("another secret with more than 32 characters"));
        });
        assert!(!secrets_in(&state).contains(&leaked.to_owned()), "turn {turn}");
    }
}

#[test]
fn a_secret_that_cannot_be_reloaded_is_not_kept_for_later() {
    let state = TempDir::new().unwrap();
    let daemon = Daemon::start_with("", |command| {
        command.env_remove("SECRET").env("STATE_DIRECTORY", state.path());
    });
    let before = secrets_in(&state);
    config_file(daemon.directory.path(), "nonsense = 1\n");
    for (method, path, body) in [
        ("POST", "/v1/secret/rotate", ""),
        ("PUT", "/v1/secret", r#"{"secret": "another secret with more than 32 characters"}"#),
    ] {
        let answer = daemon.admin(method, path, body);
        assert!(answer["message"].as_str().unwrap().contains("nonsense"), "{answer}");
        assert!(answer["hint"].as_str().unwrap().contains("nothing changed"), "{answer}");
        assert_eq!(secrets_in(&state), before);
    }
    config_file(daemon.directory.path(), "[limits]\nqueue_messages = 77\n");
    let answer = daemon.admin("POST", "/v1/secret/rotate", "");
    assert!(answer["error"].is_null(), "{answer}");
    assert_eq!(secrets_in(&state).len(), 2);
}

#[test]
fn another_reload_takes_no_secret_that_is_undone() {
    let state = TempDir::new().unwrap();
    let daemon = Daemon::start_with("", |command| {
        command.env_remove("SECRET").env("STATE_DIRECTORY", state.path());
    });
    let directory = daemon.directory.path();
    let done = AtomicBool::new(false);
    let (mut undone, mut taken) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                for settings in ["[limits]\nqueue_messages = 77\n", "nonsense = 1\n"] {
                    config_file(directory, settings);
                    ask_admin(directory, "POST", "/v1/reload", "");
                }
            }
        });
        for turn in 0..300 {
            let secret = format!("{turn}: a secret with more than 32 characters");
            let answer = ask_admin(directory, "PUT", "/v1/secret", &json!({"secret": secret}).to_string());
            if !answer["error"].is_null() {
                undone += 1;
                let secrets = ask_admin(directory, "GET", "/v1/secret", "")["secrets"].take();
                taken += usize::from(secrets.as_array().unwrap().contains(&json!(secret)));
            }
        }
        done.store(true, Relaxed);
    });
    println!("{undone} of 300 changes were undone");
    assert!(undone > 0 && taken == 0, "{taken} of {undone} were in force all the same");
}

#[test]
fn a_slow_follower_misses_events_and_delivery_is_not_delayed() {
    const MESSAGES: usize = 60_000;
    let daemon = Daemon::start("");
    let mut follower = Follower::start(&daemon, &["--messages"]);
    let mut reader = daemon.client_with(&json!({"read": ["chat"]}));
    let reading = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            assert_eq!(reader.data(), number.to_string());
        }
    });
    let mut writer = daemon.client_with(&json!({"write": ["chat"]}));
    for at in (0..MESSAGES).step_by(100) {
        let bytes: Vec<u8> = (at..at + 100)
            .flat_map(|number| {
                frame(0x81, json!({"channel": "chat", "data": number.to_string()}).to_string().as_bytes())
            })
            .collect();
        writer.stream().write_all(&bytes).unwrap();
    }
    writer.settle();
    reading.join().unwrap();
    // It has not read a line so far, so only a pipe and some sockets' worth waits for it.
    assert!(follower.see("missed").contains(" events missed: this program reads too slowly"));
    drop(follower);
    // Its slot is free again.
    let followers: Vec<Follower> = (0..16).map(|_| Follower::start(&daemon, &[])).collect();
    let (code, text) = ctl(&daemon, &["events"]);
    assert_eq!((code, text.as_str()), (1, "16 clients follow events already\n"));
    drop(followers);
}

#[test]
fn log_level_changes_the_level_and_a_dry_run_changes_nothing() {
    let daemon = Daemon::start("");
    assert_eq!(ctl(&daemon, &["log-level"]).1, "info\n");
    assert_eq!(ctl(&daemon, &["log-level", "warning"]).1, "warning; the setting is info\n");
    named(&daemon, "unheard", "chat").settle();
    daemon.wait_until("it has gone", |status| status["connections"] == 0);
    assert_eq!(ctl(&daemon, &["log-level", "info"]).0, DONE);
    named(&daemon, "heard", "chat").settle();
    daemon.wait_for_line("of \"heard\"");
    assert!(!daemon.log().contains("unheard"));
    assert_eq!(ctl(&daemon, &["log-level", "debug"]).0, DONE);
    config_file(daemon.directory.path(), "[limits]\nqueue_messages = 99\n");
    let (code, text) = ctl(&daemon, &["reload", "--dry-run"]);
    assert_eq!((code, text.as_str()), (DONE, "would be applied\tlimits.queue_messages\n"));
    assert_eq!(ctl_json(&daemon, &["reload", "--dry-run"])["applied"], json!(["limits.queue_messages"]));
    assert_eq!(
        ctl(&daemon, &["reload"]).1,
        "applied\tlimits.queue_messages\n",
        "the dry run changed nothing"
    );
    assert_eq!(
        ctl(&daemon, &["log-level"]).1,
        "debug; the setting is info\n",
        "a reload that changes no setting"
    );
    config_file(daemon.directory.path(), "[log]\nlevel = \"error\"\n");
    assert_eq!(ctl(&daemon, &["reload"]).0, DONE);
    assert_eq!(ctl(&daemon, &["log-level"]).1, "error\n");
    config_file(daemon.directory.path(), "nonsense = 1\n");
    let (code, text) = ctl(&daemon, &["reload", "--dry-run"]);
    assert!(code == 1 && text.contains("nonsense"), "{text}");
}

#[test]
fn publish_enforces_the_limits_of_messages() {
    let daemon = Daemon::start("[websocket]\nmax_message_size = \"1KiB\"\n");
    let mut reader = daemon.client_with(&json!({"read": ["chat"]}));
    let answer = daemon.admin(
        "POST",
        "/v1/publish",
        &json!({"messages": [{"channel": "chat", "data": "a"}, {"channel": "x", "data": "\u{e9}\"\n"}, {"channel": "chat", "data": "b"}]}).to_string(),
    );
    let expected = json!({"published": [
        {"channel": "chat", "readers": 1}, {"channel": "x", "readers": 0}, {"channel": "chat", "readers": 1}
    ]});
    assert_eq!(answer, expected);
    assert_eq!((reader.data(), reader.data()), ("a".into(), "b".into()));
    let (code, text) = ctl(&daemon, &["publish", "chat", &"x".repeat(2_000)]);
    assert_eq!((code, text.as_str()), (1, "message 0: data is longer than max_message_size, 1024 bytes\n"));
    let (code, text) = ctl(&daemon, &["publish", "", "x"]);
    assert_eq!((code, text.as_str()), (1, "message 0: a channel's name must not be empty\n"));
    reader.settle();
}

#[test]
fn fault_67_misuse_of_the_admin_socket_affects_no_client() {
    let mut daemon = Daemon::start("");
    let mut reader = daemon.client_with(&json!({"read": ["chat"]}));
    let mut writer = daemon.client_with(&json!({"write": ["chat"]}));
    let done = Arc::new(AtomicBool::new(false));
    let misused = done.clone();
    // From before the first of them connects until after the last has ended.
    let talking = std::thread::spawn(move || {
        let (mut number, mut longest) = (0, Duration::ZERO);
        while !misused.load(Relaxed) || number < 1_000 {
            let began = Instant::now();
            writer.publish("chat", &number.to_string());
            assert_eq!(reader.data(), number.to_string());
            longest = longest.max(began.elapsed());
            number += 1;
        }
        (number, longest)
    });
    let socket = daemon.directory.path().join("admin.sock");
    let before = daemon.memory().0;
    let parts: [&[u8]; 4] = [
        b"",
        b"GET /v1/status HTTP/1.1\r\nHost: phi",
        b"POST /v1/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n{",
        &[0xff; 4096],
    ];
    let idle: Vec<_> = (0..1_000)
        .map(|number| {
            let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            // The server may have closed some connections already.
            let _ = stream.write_all(parts[number % parts.len()]);
            stream
        })
        .collect();
    assert_eq!(daemon.admin("GET", "/v1/status", "")["state"], "serving");
    assert_eq!(ctl(&daemon, &["connections", "--limit", "1"]).0, DONE);
    done.store(true, Relaxed);
    let (exchanges, longest) = talking.join().unwrap();
    println!("meanwhile {exchanges} exchanges between clients, the longest in {longest:?}");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    let after = daemon.memory().0;
    println!("resident KiB before 1,000 such clients {}, with them {}", before >> 10, after >> 10);
    assert!(after < before + (16 << 20), "{before} to {after}");
    assert_eq!(ctl(&daemon, &["status"]).0, DONE);
    // Nor do they delay the end.
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.wait().success());
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    drop(idle);
}

#[test]
fn bench_reports_the_cpu_time_of_the_server_and_of_itself() {
    let daemon = Daemon::start("");
    let load = ["bench", "fanout", "--connections", "20", "--duration", "200ms"];
    let (code, table) = ctl(&daemon, &load);
    println!("{table}");
    assert_eq!(code, DONE, "{table}");
    for part in
        ["deliveries/s", "p99.9", "server", "floor", "bench", "out of order: 0", "and of this program"]
    {
        assert!(table.contains(part), "{part} in {table}");
    }
    // Another server, by its address and with its own secret.
    let secret = daemon.directory.path().join("secret");
    std::fs::write(&secret, format!("{}\n", crate::support::SECRET)).unwrap();
    let url = format!("ws://127.0.0.1:{}", daemon.port);
    let remote = ["--url", &url, "--secret-file", secret.to_str().unwrap(), "--json"];
    let (code, text) = ctl(&daemon, &[&load[..], &remote].concat());
    let answer: Value = text.lines().position(|line| line == "{").map_or(Value::Null, |at| {
        serde_json::from_str(&text.lines().skip(at).collect::<Vec<_>>().join("\n")).unwrap_or(Value::Null)
    });
    let row = &answer["scenarios"][0];
    assert_eq!((code, &row["lost"], &row["out_of_order"]), (DONE, &json!(0), &json!(0)), "{text}");
    assert!(
        row["generator_time_per_delivery"].as_f64().unwrap() > 0.0 && row["latency"]["p99"].is_f64(),
        "{row}"
    );
    let (code, text) = ctl(&daemon, &["bench", "--url", &url]);
    assert!(code == 2 && text.contains("--secret-file"), "{text}");
    let (code, text) =
        ctl(&daemon, &["bench", "--url", "http://x", "--secret-file", secret.to_str().unwrap()]);
    assert_eq!(code, 2, "{text}");
    daemon.wait_until("its connections have gone", |status| status["connections"] == 0);
}

/// A system's daemon and one's own, for instance: a command must not reach the wrong one unnoticed.
#[test]
fn philotectl_says_which_of_two_daemons_has_answered() {
    let (runtime, home) = (tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap());
    let sockets =
        [runtime.path().join("philote/admin.sock"), home.path().join(".local/state/philote/admin.sock")];
    let daemons = sockets.each_ref().map(|socket| {
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let directory = tempfile::TempDir::new().unwrap();
        let mut command = crate::support::philote(directory.path());
        command.env("SECRET", crate::support::SECRET).env("PORT", "0").env("PHILOTE_ADMIN_SOCKET", socket);
        Daemon::spawn(command, directory)
    });
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_philotectl"));
        command.env_clear().env("XDG_RUNTIME_DIR", runtime.path()).env("HOME", home.path()).args(words);
        let Output { status, stdout, stderr } = command.output().unwrap();
        assert!(status.success());
        [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let paths = sockets.each_ref().map(|path| path.to_str().unwrap());
    for words in [
        &["status", "--json"][..],
        &["publish", "c", "x"],
        &["disconnect", "--subject", "nobody", "--refuse-for", "1h"],
    ] {
        let [out, said] = run(words);
        let expected = format!("this was the daemon at {}; another runs at {}\n", paths[0], paths[1]);
        assert!(said.starts_with(&expected) && said.contains("--socket"), "{words:?}: {said}");
        assert!(!out.contains("another"), "{words:?}: {out}");
    }
    let [status, said] = run(&["--socket", paths[1], "status", "--json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((said.as_str(), status["pid"].as_u64()), ("", Some(daemons[1].pid().into())));
    let [first, second] = daemons;
    drop(first);
    assert_eq!(run(&["status"])[1], "", "a socket without a daemon is no daemon");
    drop(second);
}
