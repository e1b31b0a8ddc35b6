//! jane and the daemon: the first conversation of a new user.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::{Daemon, SECRET, sign};
use crate::terminal::OnTerminal;

fn jane(daemon: &Daemon, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jane"));
    command.args(["-p", &format!("localhost:{}", daemon.port)]).args(line.split_whitespace());
    command.env_clear().env("PHILOTE_ADMIN_SOCKET", daemon.directory.path().join("admin.sock"));
    command.stdin(Stdio::null());
    command
}

#[test]
fn two_users_talk_in_their_terminals() {
    let daemon = Daemon::start("");
    // One gets its token from the daemon on this machine, the other signs its own.
    let mut ada = OnTerminal::start(jane(&daemon, "-c chat").env("USER", "ada"));
    let secret = daemon.directory.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let mut grace = OnTerminal::start(jane(&daemon, "-c chat -S").arg(&secret).env("USER", "grace"));
    daemon.wait_until("both are there", |status| status["connections"] == 2);
    ada.press("hello, Grace\r");
    grace.see("hello, Grace");
    grace.press("hello, Ada ü\r");
    let screen = ada.see("hello, Ada ü");
    assert!(screen.contains("grace"), "the sender's name is shown: {screen}");
    ada.press("\u{4}");
    assert_eq!(ada.end(), 0);
    daemon.wait_until("one has left", |status| status["connections"] == 1);
    grace.press("\u{4}");
    assert_eq!(grace.end(), 0);
}

#[test]
fn jane_joins_a_channel_that_her_token_allows() {
    let daemon = Daemon::start("");
    let claims = json!({"read": ["news"], "may": {"read": ["room:*"], "write": ["room:*"]}, "sub": "jane"});
    let mut jane = OnTerminal::start(jane(&daemon, "-c room:42 -c news -c secret -t").arg(sign(&claims)));
    jane.see("connected to");
    let mut other = daemon.client(&["room:42", "news", "secret"]);
    daemon.wait_until("she is there", |_| {
        daemon.admin("GET", "/v1/channels?prefix=room", "")["channels"][0]["readers"] == 2
    });
    for channel in ["secret", "room:42", "news"] {
        other.publish(channel, &format!("hello {channel}"));
    }
    jane.see("hello room:42");
    let screen = jane.see("hello news");
    assert!(!screen.contains("hello secret"), "{screen}");
    jane.press("hello\r");
    assert_eq!(other.receive()["subject"], "jane");
}

#[test]
fn jane_prints_the_server_s_information_and_its_rejections() {
    let daemon = Daemon::start("");
    let output = jane(&daemon, "-info").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("max_connections") && text.contains("255"), "{text}");

    let output = jane(&daemon, "-c chat -s wrong").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("bad signature") && text.contains("philotectl secret show"), "{text}");
}

#[test]
fn a_line_from_a_pipe_is_published() {
    use std::io::Write;
    let daemon = Daemon::start("");
    let mut reader = daemon.client(&["chat"]);
    let mut child = jane(&daemon, "-c chat").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe\n").unwrap();
    assert_eq!(reader.data(), "from a pipe");
    assert!(crate::support::wait(&mut child).success());
}

#[test]
fn philotectl_works_with_the_real_daemon() {
    let daemon = Daemon::start("");
    let philotectl = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_philotectl"));
        command.args(line.split_whitespace()).env_clear();
        command.env("PHILOTE_ADMIN_SOCKET", daemon.directory.path().join("admin.sock"));
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(philotectl("wait-ready --timeout 5s").0, 0);
    let (code, token, expiry) = philotectl("token --read chat --write chat --subject ada --expires-in 1h");
    assert_eq!(code, 0, "{expiry}");
    daemon.try_client(token.trim()).unwrap().settle();
    let (code, said, _) = philotectl(&format!("inspect {}", token.trim()));
    assert!(code == 0 && said.contains("ada"), "{said}");
    let (code, status, _) = philotectl("status --json");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!((code, &status["accepted"], &status["state"]), (0, &1.into(), &"serving".into()));
    assert_eq!(philotectl("reload").0, 0);
    let (code, _, error) = philotectl("secret rotate");
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("SECRET"), "the secret comes from the environment: {error}");
    let (code, secret, _) = philotectl("secret show");
    assert_eq!((code, secret.trim()), (0, SECRET));
}

#[test]
fn the_secret_that_the_daemon_created_is_rotated() {
    let daemon = Daemon::start_with("[shutdown]\ndrain = \"1s\"\n", |command| {
        command.env_remove("SECRET");
    });
    let token =
        |claims: &str| daemon.admin("POST", "/v1/token", claims)["token"].as_str().unwrap().to_owned();
    let old = token(r#"{"read": ["c"], "write": ["c"]}"#);
    let mut by_old = daemon.try_client(&old).unwrap();
    let rotated = daemon.admin("POST", "/v1/secret/rotate", "");
    assert_eq!((&rotated["secrets"], &rotated["closing"]), (&2.into(), &0.into()), "{rotated}");
    let new = token(r#"{"read": ["c"], "write": ["c"]}"#);
    let mut by_new = daemon.try_client(&new).unwrap();
    let shown = daemon.admin("GET", "/v1/secret", "");
    let signing = shown["secrets"][0].as_str().unwrap();
    let set = daemon.admin("PUT", "/v1/secret", &serde_json::json!({"secret": signing}).to_string());
    assert_eq!((&set["secrets"], &set["closing"]), (&1.into(), &1.into()), "{set}");
    assert_eq!(by_old.closed().0, 4401);
    assert!(daemon.try_client(&old).is_err());
    by_new.settle();
}
