//! The administrator's commands against a real daemon with real clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    Client, Daemon, PATIENCE, ask_admin, body_of, config_file, frame, keep, philote, sign, sign_with, status,
    unix_now, upgrade,
};

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

/// What philotectl ended with and printed.
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

/// Waits until the last that ended of this subject ended for this reason.
fn ended(daemon: &Daemon, subject: &str, reason: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = ctl_json(daemon, &["connections", "--state", "closed", "--subject", subject]);
        if found["connections"][0]["reason"] == reason {
            return found["connections"][0].clone();
        }
        assert!(Instant::now() < deadline, "never {reason}: {found}");
    }
}

#[test]
fn disconnect_by_everything_there_is() {
    let daemon = Daemon::start("");
    let ids = |subject: &str| -> Vec<String> {
        let found = ctl_json(&daemon, &["connections", "--subject", subject]);
        let rows = found["connections"].as_array().unwrap();
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    let told = "disconnected by an administrator";
    let mut alice = named(&daemon, "alice", "chat");
    let mut other = named(&daemon, "alice", "news");
    let mut bob = named(&daemon, "bob", "chat");
    let mut carol = named(&daemon, "carol", "quiet");

    let (code, text) = ctl(&daemon, &["disconnect", "--subject", "alice", "--dry-run"]);
    assert_eq!((code, text.as_str()), (DONE, "2 connections would be disconnected\n"));
    let (code, text) = ctl(&daemon, &["disconnect", "--subject", "alice", "--channel", "news"]);
    assert_eq!((code, text.as_str()), (DONE, "1 connection is being disconnected\n"));
    let (code, reason, _) = other.closed();
    assert_eq!((code, reason.as_str()), (4403, told));
    alice.settle();
    daemon.wait_until("one has gone", |status| status["connections"] == 3);

    let id = ids("alice").remove(0);
    assert_eq!(ctl(&daemon, &["disconnect", &id[..13]]).0, DONE);
    assert_eq!(alice.closed().0, 4403);
    daemon.wait_until("two have gone", |status| status["connections"] == 2);
    // Fault 70: the second says that nothing matched.
    let gone = (NOTHING_MATCHED, "no connection matches\n".to_owned());
    assert_eq!(ctl(&daemon, &["disconnect", &id]), gone);
    assert_eq!(ctl(&daemon, &["disconnect", "--subject", "alice"]), gone);
    assert_eq!(ctl(&daemon, &["disconnect", "--address", "192.0.2.7"]), gone);

    assert_eq!(ctl(&daemon, &["disconnect", "--channel", "chat", "--reconnect"]).0, DONE);
    let (code, reason, _) = bob.closed();
    assert_eq!((code, reason.as_str()), (1012, "the server asks for a new connection; reconnect"));

    let port = carol.stream().local_addr().unwrap().port();
    assert_eq!(ctl(&daemon, &["disconnect", "--address", &format!("127.0.0.1:{}", port - 1)]), gone);
    assert_eq!(ctl(&daemon, &["disconnect", "--address", &format!("127.0.0.1:{port}")]).0, DONE);
    assert_eq!(carol.closed().0, 4403);

    let mut all: Vec<Client> = (0..20).map(|_| daemon.client(&["chat"])).collect();
    let (code, text) = ctl(&daemon, &["disconnect", "--all"]);
    assert_eq!((code, text.as_str()), (DONE, "20 connections are being disconnected\n"));
    assert!(all.iter_mut().all(|client| client.closed().0 == 4403));
    let log = daemon.log();
    let me = std::process::id();
    assert!(
        log.contains("admin: disconnect of 20: all by uid ") && log.contains("philote") && me > 0,
        "{log}"
    );
    assert!(log.contains("disconnect of 1: channel \"news\", subject \"alice\" by uid "));
}

#[test]
fn an_id_that_is_cut_too_short_is_not_guessed() {
    let daemon = Daemon::start("");
    // With more connections than digits, one digit means two of them.
    let mut clients: Vec<Client> = (0..17).map(|_| daemon.client(&["chat"])).collect();
    let digits: Vec<String> = "0123456789abcdef".chars().map(String::from).collect();
    let answers: Vec<(i32, String)> =
        digits.iter().map(|digit| ctl(&daemon, &["disconnect", "--dry-run", digit])).collect();
    let (_, ambiguous) = answers.iter().find(|(code, _)| *code == 1).unwrap();
    assert!(ambiguous.ends_with("\ngive more of the id\n") && ambiguous.contains(" connections begin with "));
    clients.iter_mut().for_each(Client::settle);
}

#[test]
fn a_refused_subject_stays_out_until_it_is_let_in() {
    let settings = "[auth]\nleeway = \"0s\"\n";
    let mut daemon = Daemon::start(settings);
    let token = sign(&json!({"read": ["chat"], "sub": "eve \"x\""}));
    let mut eve = daemon.try_client(&token).unwrap();
    let mut bob = named(&daemon, "bob", "chat");
    let (code, text) =
        ctl(&daemon, &["disconnect", "--subject", "eve \"x\"", "--refuse-for", "24h", "--dry-run"]);
    assert_eq!(code, DONE);
    assert!(text.starts_with("1 connection would be disconnected; eve \"x\" would be refused until "));
    eve.settle();
    assert_eq!(ctl(&daemon, &["disconnect", "--subject", "eve \"x\"", "--refuse-for", "24h"]).0, DONE);
    let (code, reason, _) = eve.closed();
    assert_eq!((code, reason.as_str()), (4403, "an administrator refuses this token's subject"));

    let is_out = |daemon: &Daemon| {
        let answer = daemon.exchange(upgrade(&token, "Connection: close\r\n"));
        let body = body_of(&answer);
        assert_eq!((status(&answer), &body["error"]), (403, &json!("forbidden")), "{answer}");
        let sentence = body["message"].as_str().unwrap();
        assert!(sentence.starts_with("an administrator refuses this token's subject until 20"), "{sentence}");
        assert!(daemon.try_client(&sign(&json!({"sub": "eve"}))).is_ok(), "others get in");
        let api = sign(&json!({"api": true, "sub": "eve \"x\""}));
        assert_eq!(daemon.http("GET", "/api/info", &api, "").0, 403, "nor by another door");
        sentence.to_owned()
    };
    let sentence = is_out(&daemon);
    bob.settle();
    let found = ctl_json(&daemon, &["connections", "--reason", "subject_refused", "--sort", "newest"]);
    let refused = found["connections"].as_array().unwrap();
    assert!(refused.iter().any(|row| row["ending"] == "refused" && row["message"] == sentence.as_str()));

    // Across a restart, by kill -9 even.
    daemon.signal(rustix::process::Signal::KILL);
    daemon.wait();
    drop(bob);
    let directory = daemon.take_directory();
    let mut command = philote(directory.path());
    command.env("SECRET", crate::support::SECRET).env("PORT", "0");
    let daemon = Daemon::spawn(command, directory);
    assert_eq!(is_out(&daemon), sentence, "until the same time");
    let list = ctl_json(&daemon, &["refused"]);
    assert_eq!(list["refused"][0]["subject"], "eve \"x\"");

    assert_eq!(ctl(&daemon, &["refused", "--remove", "eve \"x\""]).0, DONE);
    assert_eq!(ctl(&daemon, &["refused", "--remove", "eve \"x\""]).0, NOTHING_MATCHED);
    daemon.try_client(&token).unwrap().settle();
    assert_eq!(ctl_json(&daemon, &["refused"])["refused"], json!([]));
    let log = daemon.log();
    assert!(log.contains("admin: refused remove \"eve \\\"x\\\"\" by uid "), "{log}");
}

#[test]
fn a_refusal_that_can_not_be_remembered_is_not_made() {
    let daemon = Daemon::start_with("", |command| {
        command.env("STATE_DIRECTORY", "/proc/none");
    });
    let mut alice = named(&daemon, "alice", "chat");
    let (code, text) = ctl(&daemon, &["disconnect", "--subject", "alice", "--refuse-for", "1h"]);
    assert_eq!(code, 1);
    assert!(text.starts_with("can't remember who is refused in /proc/none/refused.json: "), "{text}");
    assert!(text.ends_with("nothing was changed\n"), "{text}");
    alice.settle();
    assert_eq!(ctl_json(&daemon, &["refused"])["refused"], json!([]));
}

#[test]
fn who_is_refused_is_not_forgotten_by_a_damaged_file() {
    let directory = tempfile::TempDir::new().unwrap();
    let state = directory.path().join(".local/state/philote");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("refused.json"), "{").unwrap();
    config_file(directory.path(), "");
    let output = philote(directory.path()).env("SECRET", "x").env("PORT", "0").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("refused.json does not say who is refused"), "{text}");
    assert!(text.contains("mend it, or remove it to refuse nobody"), "{text}");
}

/// "A user says the chat dropped them": from the subject to the cause.
#[test]
fn a_dropped_client_is_explained() {
    let daemon = Daemon::start(
        "[auth]\nleeway = \"0s\"\n[websocket]\ncheck_origin = true\nping_interval = \"1s\"\npong_timeout = \"5s\"\n\
         max_message_size = \"1KiB\"\n[limits]\nqueue_bytes = \"64KiB\"\n",
    );
    let shown = |subject: &str| {
        let (_, text) = ctl(&daemon, &["connections", "--state", "closed", "--subject", subject]);
        println!("$ philotectl connections --state closed --subject {subject}\n{text}");
    };

    // Slow: reads nothing while much is published. It answers no ping either, but its queue is the first to fail.
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
    // And trying again with the same token.
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
    let log = daemon.log();
    assert!(log.contains("\"slow\"") && log.contains("of \"framed\" from 127.0.0.1:"), "{log}");
    for secret in [&old, &forged, &token] {
        assert!(!log.contains(secret.as_str()) && !log.contains(&secret[..20]));
    }
}

#[test]
fn a_flood_of_refusals_leaves_the_rare_ones_and_its_first_and_last() {
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
fn lists_show_the_first_by_what_is_asked() {
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
    // 'user 7' heard what was published in its room before and after it came.
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
        assert!(Instant::now() < deadline, "no rate was ever taken");
    }
    drop(clients);
    daemon.wait_until("they are gone", |status| status["connections"] == 0);
    assert_eq!(ctl_json(&daemon, &["channels"]), json!({"matched": 0, "channels": []}));
}

/// A follower of events, as a process.
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
fn events_are_told_as_they_happen() {
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
    assert!(chat.see("message").contains("message on chat"), "the other channel is not told");
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
    assert!(daemon.log().contains("admin: events with the messages of \"chat\" by uid "));

    // Who follows is told when it ends, and holds nothing up.
    daemon.signal(rustix::process::Signal::TERM);
    let began = Instant::now();
    assert!(daemon.wait().success());
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(life.child.wait().unwrap().code(), Some(3));
}

#[test]
fn a_slow_follower_loses_and_is_told_while_delivery_goes_on() {
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
    // It has not read a line so far: a pipe and some sockets' worth is all that waits for it.
    assert!(follower.see("missed here").contains(" events missed here: this reads too slowly"));
    drop(follower);
    // Its place is free again.
    let followers: Vec<Follower> = (0..16).map(|_| Follower::start(&daemon, &[])).collect();
    let (code, text) = ctl(&daemon, &["events"]);
    assert_eq!((code, text.as_str()), (1, "16 follow events already\n"));
    drop(followers);
}

#[test]
fn log_level_and_dry_run_change_what_they_say() {
    let daemon = Daemon::start("");
    assert_eq!(ctl(&daemon, &["log-level"]).1, "info\n");
    assert_eq!(ctl(&daemon, &["log-level", "warning"]).1, "warning; the settings say info\n");
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
        "debug; the settings say info\n",
        "a reload that says nothing new"
    );
    config_file(daemon.directory.path(), "[log]\nlevel = \"error\"\n");
    assert_eq!(ctl(&daemon, &["reload"]).0, DONE);
    assert_eq!(ctl(&daemon, &["log-level"]).1, "error\n");
    config_file(daemon.directory.path(), "nonsense = 1\n");
    let (code, text) = ctl(&daemon, &["reload", "--dry-run"]);
    assert!(code == 1 && text.contains("nonsense"), "{text}");
}

#[test]
fn publish_obeys_the_limits_of_messages() {
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
    assert_eq!((code, text.as_str()), (1, "message 0: data is over max_message_size, 1024 bytes\n"));
    let (code, text) = ctl(&daemon, &["publish", "", "x"]);
    assert_eq!((code, text.as_str()), (1, "message 0: a channel's name must not be empty\n"));
    reader.settle();
}

#[test]
fn fault_67_whoever_misuses_the_admin_socket_disturbs_nobody() {
    const MESSAGES: usize = 5_000;
    let mut daemon = Daemon::start("");
    let mut reader = daemon.client_with(&json!({"read": ["chat"]}));
    let mut writer = daemon.client_with(&json!({"write": ["chat"]}));
    let talking = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            writer.publish("chat", &number.to_string());
            assert_eq!(reader.data(), number.to_string());
        }
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
            // Some have been sent away by the time they speak.
            let _ = stream.write_all(parts[number % parts.len()]);
            stream
        })
        .collect();
    assert_eq!(daemon.admin("GET", "/v1/status", "")["state"], "serving");
    assert_eq!(ctl(&daemon, &["connections", "--limit", "1"]).0, DONE);
    talking.join().unwrap();
    let after = daemon.memory().0;
    println!("resident KiB before 1,000 such clients {}, with them {}", before >> 10, after >> 10);
    assert!(after < before + (16 << 20), "{before} to {after}");
    assert_eq!(ctl(&daemon, &["status"]).0, DONE);
    // Nor do they hold up the end.
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.wait().success());
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    drop(idle);
}

#[test]
fn bench_states_what_the_server_and_itself_cost() {
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
    // Another server by its address, with a secret of its own.
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

/// What `connections` costs those who talk meanwhile.
#[test]
fn listing_ten_thousand_connections_holds_nobody_up() {
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
    daemon.wait_until("all are in", |status| status["connections"] == IDLE);
    let mut readers: Vec<Client> = (0..20).map(|_| daemon.client_with(&json!({"read": ["load"]}))).collect();
    let mut measured = daemon.client_with(&json!({"read": ["load"]}));
    let mut writer = daemon.client_with(&json!({"write": ["load"]}));
    let text = json!({"channel": "load", "data": "x".repeat(100)}).to_string();
    let bytes: Vec<u8> = (0..50).flat_map(|_| frame(0x81, text.as_bytes())).collect();
    for reader in &mut readers {
        reader.stream().set_nonblocking(true).unwrap();
    }
    // The time from a write to the last message of it at a reader, as it is with other readers beside it.
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
