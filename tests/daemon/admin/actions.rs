//! Disconnecting clients, and refusing subjects.

use serde_json::json;

use super::{DONE, NOTHING_MATCHED, ctl, ctl_json, named};
use crate::support::*;

#[test]
fn fault_70_disconnect_by_each_filter_and_a_second_time_finds_nothing() {
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
    let log = daemon.log_with("admin: disconnect of 20: all by uid ");
    assert!(log.contains("disconnect of 1: channel \"news\", subject \"alice\" by uid "));
}

#[test]
fn an_ambiguous_prefix_of_an_id_is_refused() {
    let daemon = Daemon::start("");
    // There are more connections than hexadecimal digits, so some digit begins two ids.
    let mut clients: Vec<Client> = (0..17).map(|_| daemon.client(&["chat"])).collect();
    let digits: Vec<String> = "0123456789abcdef".chars().map(String::from).collect();
    let answers: Vec<(i32, String)> =
        digits.iter().map(|digit| ctl(&daemon, &["disconnect", "--dry-run", digit])).collect();
    let (_, ambiguous) = answers.iter().find(|(code, _)| *code == 1).unwrap();
    assert!(
        ambiguous.ends_with("\ngive a longer prefix\n")
            && ambiguous.contains(" connections have ids that begin with ")
    );
    clients.iter_mut().for_each(Client::settle);
}

#[test]
fn a_subject_of_more_than_255_bytes_is_not_banned() {
    let daemon = Daemon::start("");
    let (code, text) = ctl(&daemon, &["disconnect", "--subject", &"x".repeat(256), "--refuse-for", "1h"]);
    assert_eq!((code, text.lines().next().unwrap()), (2, "a subject has at most 255 bytes"));
    assert_eq!(ctl(&daemon, &["disconnect", "--subject", &"x".repeat(255), "--refuse-for", "1h"]).0, DONE);
}

#[test]
fn a_banned_subject_is_refused_until_the_ban_is_lifted() {
    let settings = "[auth]\nleeway = \"0s\"\n";
    let mut daemon = Daemon::start(settings);
    let token = sign(&json!({"read": ["chat"], "sub": "eve \"x\""}));
    let mut eve = daemon.try_client(&token).unwrap();
    let mut bob = named(&daemon, "bob", "chat");
    let (code, text) =
        ctl(&daemon, &["disconnect", "--subject", "eve \"x\"", "--refuse-for", "24h", "--dry-run"]);
    assert_eq!(code, DONE);
    assert!(text.starts_with("1 connection would be disconnected; eve \"x\" would be banned until "));
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
        assert!(daemon.try_client(&sign(&json!({"sub": "eve"}))).is_ok(), "other subjects may connect");
        let api = sign(&json!({"api": true, "sub": "eve \"x\""}));
        assert_eq!(daemon.http("GET", "/api/info", &api, "").0, 403, "the HTTP API refuses the subject too");
        sentence.to_owned()
    };
    let sentence = is_out(&daemon);
    bob.settle();
    let found = ctl_json(&daemon, &["connections", "--reason", "subject_refused", "--sort", "newest"]);
    let refused = found["connections"].as_array().unwrap();
    assert!(refused.iter().any(|row| row["ending"] == "refused" && row["message"] == sentence.as_str()));

    // Also after a restart, even after kill -9.
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
    daemon.log_with("admin: refused remove \"eve \\\"x\\\"\" by uid ");
}

#[test]
fn a_ban_that_cannot_be_stored_is_not_made() {
    let daemon = Daemon::start_with("", |command| {
        command.env("STATE_DIRECTORY", "/proc/none");
    });
    let mut alice = named(&daemon, "alice", "chat");
    let (code, text) = ctl(&daemon, &["disconnect", "--subject", "alice", "--refuse-for", "1h"]);
    assert_eq!(code, 1);
    assert!(text.starts_with("cannot save the refused subjects in /proc/none/refused.json: "), "{text}");
    assert!(text.ends_with("nothing was changed\n"), "{text}");
    alice.settle();
    assert_eq!(ctl_json(&daemon, &["refused"])["refused"], json!([]));
}

#[test]
fn a_damaged_file_of_bans_stops_the_start() {
    let directory = tempfile::TempDir::new().unwrap();
    let state = directory.path().join(".local/state/philote");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("refused.json"), "{").unwrap();
    config_file(directory.path(), "");
    let output = philote(directory.path()).env("SECRET", "x").env("PORT", "0").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("refused.json is not a list of refused subjects"), "{text}");
    assert!(text.contains("correct it, or remove it to lift all bans"), "{text}");
}

#[test]
fn a_pipe_or_directory_in_place_of_a_file_does_not_block_the_start() {
    use rustix::fs::{CWD, Mode, mkfifoat};
    let state = |directory: &std::path::Path| directory.join(".local/state/philote");
    for (name, status) in [
        (".local/state/philote/refused.json", 1),
        (".local/state/philote/secret", 78),
        ("admin.sock.lock", 1),
        ("philote.toml", 78),
        ("there", 78),
    ] {
        let directory = tempfile::TempDir::new().unwrap();
        std::fs::create_dir_all(state(directory.path())).unwrap();
        let mut command = philote(directory.path());
        command.env("PORT", "0");
        if name == "there" {
            command.arg("--secret-file").arg(directory.path().join(name));
        }
        let _ = std::fs::remove_file(directory.path().join(name));
        mkfifoat(CWD, directory.path().join(name), Mode::RUSR | Mode::WUSR).unwrap();
        let mut child = command.spawn().unwrap();
        assert_eq!(crate::support::wait(&mut child).code(), Some(status), "{name}");
        let text = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        assert!(text.contains(name), "{name}: {text}");
        assert!(name.ends_with(".lock") || text.contains("is a pipe, not a regular file"), "{name}: {text}");
    }
}
