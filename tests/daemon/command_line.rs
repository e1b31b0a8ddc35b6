//! Starting the daemon, with valid and with wrong arguments and settings.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{Daemon, SECRET, config_file, philote};

fn run(config: &str, change: impl FnOnce(&mut Command)) -> Output {
    let directory = TempDir::new().unwrap();
    config_file(directory.path(), config);
    let mut command = philote(directory.path());
    change(&mut command);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_mistyped_key_is_reported_with_its_line_and_the_nearest_key() {
    let output = run("max_connections = 10\n\n[limits]\nqueue_bites = \"1MiB\"\n", |command| {
        command.arg("--check");
    });
    let text = text(&output);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(
        text.contains("philote.toml:4") && text.contains("queue_bites") && text.contains("queue_bytes"),
        "{text}"
    );
}

#[test]
fn fault_30_an_error_beside_the_secret_does_not_print_it() {
    for config in [
        "[auth]\nsecret = \"do not show me\" oops\n",
        "[auth]\nsecret = \"do not show me\nleeway = 5\n",
        "[auth]\nsecrett = \"do not show me\"\n",
        "[auth]\nsecret = [\"do not show me\", 7]\n",
    ] {
        let output = run(config, |command| {
            command.arg("--check");
        });
        assert_eq!(output.status.code(), Some(78));
        assert!(!text(&output).contains("do not show"), "{}", text(&output));
    }
    let printed = run("[auth]\nsecret = \"do not show me, I am long enough now\"\n", |command| {
        command.arg("--print-config");
    });
    assert_eq!(printed.status.code(), Some(0));
    assert!(!text(&printed).contains("do not show") && text(&printed).contains("max_connections = 255"));
}

#[test]
fn fault_27_an_empty_secret_needs_the_opt_in_and_a_short_one_causes_a_warning() {
    let output = run("", |command| {
        command.env("SECRET", "").arg("--check");
    });
    assert_eq!(output.status.code(), Some(78), "{}", text(&output));
    assert!(text(&output).contains("SECRET"), "{}", text(&output));
    let output = run("[auth]\nsecret = \"\"\n", |command| {
        command.arg("--check");
    });
    let said = text(&output);
    assert!(output.status.code() == Some(78) && said.contains("philote.toml:2: auth.secret"), "{said}");
    // A short secret causes a warning that does not show it.
    let daemon = Daemon::start_with("", |command| {
        command.env("SECRET", "sh0rt");
    });
    let log = daemon.log();
    assert!(log.contains("WARN") && log.contains("shorter than 32 bytes") && !log.contains("sh0rt"), "{log}");
    let daemon = Daemon::start_with("", |command| {
        command.env("SECRET", "").env("ALLOW_EMPTY_SECRET", "true");
    });
    let token = crate::support::sign_with(&serde_json::json!({"read": ["c"]}), "");
    daemon.try_client(&token).unwrap().settle();
}

#[test]
fn with_defaults_only_the_daemon_creates_a_secret_and_prints_the_next_command() {
    let directory = TempDir::new().unwrap();
    let mut command = philote(directory.path());
    command.env("PORT", "0");
    let daemon = Daemon::spawn(command, directory);
    let log = daemon.log();
    assert!(log.contains("generated a secret in") && log.contains("token --read chat --write chat"), "{log}");
    let file = daemon.directory.path().join(".local/state/philote/secret");
    let secret = std::fs::read_to_string(&file).unwrap();
    assert_eq!(secret.trim_end().len(), 43);
    assert!(!log.contains(secret.trim_end()));
    let token = crate::support::sign_with(&serde_json::json!({"read": ["c"]}), secret.trim_end());
    daemon.try_client(&token).unwrap().settle();
}

#[test]
fn fault_62_68_a_port_or_a_socket_in_use_is_reported() {
    let daemon = Daemon::start("");
    let port = daemon.port.to_string();
    let output = run("", |command| {
        command.env("SECRET", SECRET).env("PORT", &port);
    });
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("in use"), "{}", text(&output));
    let socket = daemon.directory.path().join("admin.sock");
    let output = run("", |command| {
        command.env("SECRET", SECRET).env("PORT", "0").env("PHILOTE_ADMIN_SOCKET", &socket);
    });
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("admin.sock"), "{}", text(&output));
    daemon.client(&["c"]).settle();
}

/// Runs in its own network namespace, where the kernel's limit for unprivileged ports is not lowered, and without the
/// capability even as root.
#[test]
#[ignore = "needs root or user namespaces: tests/run includes it"]
fn fault_62_port_80_without_the_capability_gets_an_error_with_a_hint() {
    let directory = TempDir::new().unwrap();
    let plain = philote(directory.path());
    let mut command = Command::new("unshare");
    command.args(["-rn", "setpriv", "--inh-caps=-net_bind_service", "--bounding-set=-net_bind_service"]);
    command.arg(plain.get_program()).env_clear().env("SECRET", SECRET).env("PORT", "80");
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let output = command.output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("listen: no permission to bind [::]:80") && said.contains("CAP_NET_BIND_SERVICE"),
        "{said}"
    );
}

/// The read-only root of a container, or an unprivileged user.
#[test]
fn the_error_for_an_admin_socket_that_cannot_be_created_says_how_to_proceed() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut command = philote(directory.path());
    command.env("SECRET", SECRET).env("PORT", "0").env("PHILOTE_ADMIN_SOCKET", file.join("admin.sock"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(
        said.contains("PHILOTE_ADMIN_SOCKET=/path/to.sock") && said.contains("PHILOTE_ADMIN_SOCKET=none"),
        "{said}"
    );
}

#[test]
fn without_an_admin_socket_the_daemon_serves_and_philotectl_says_so() {
    let mut daemon =
        Daemon::start_with("[admin]\nsocket = \"none\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n", |command| {
            command.env_remove("PHILOTE_ADMIN_SOCKET");
        });
    assert!(daemon.log().contains("there is no admin socket"), "{}", daemon.log());
    assert!(daemon.log().contains("the metrics are at http://127.0.0.1:"), "{}", daemon.log());
    let mut client = daemon.client(&["c"]);
    client.settle();
    let files: Vec<_> =
        std::fs::read_dir(daemon.directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["philote.toml"]);
    daemon.signal(Signal::HUP);
    daemon.wait_for_line("reloaded");
    let mut command = Command::new(env!("CARGO_BIN_EXE_philotectl"));
    let output = command.env_clear().env("PHILOTE_ADMIN_SOCKET", "none").arg("status").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output).contains("philote runs without an admin socket"), "{}", text(&output));
    daemon.signal(Signal::TERM);
    assert_eq!(client.closed().0, 1001);
    drop(client);
    assert!(daemon.wait().success());
}

/// A daemon that may open this many files.
fn with_descriptors(limit: u32, config: &str) -> Daemon {
    Daemon::start_with(config, |command| {
        *command = crate::support::through_shell(command, &format!("ulimit -n {limit}; exec \"$0\""));
    })
}

#[test]
fn the_descriptor_limit_is_logged_at_start() {
    let daemon = with_descriptors(200, "max_connections = 1000\n");
    let log = daemon.log();
    assert!(log.contains("leaves 136 connections") && log.contains("LimitNOFILE"), "{log}");
    let clients: Vec<_> = (0..136).map(|_| daemon.client(&["c"])).collect();
    let token = crate::support::sign(&serde_json::json!({}));
    let error = daemon.try_client(&token).map(drop).unwrap_err().to_string();
    assert!(error.contains("503"), "{error}");
    // The descriptor limit is named wherever the daemon reports that it is full.
    let answer = daemon.exchange(crate::support::upgrade(&token, "Connection: close\r\n"));
    assert!(answer.contains("its limit of 200 open files leaves 136 connections"), "{answer}");
    daemon.wait_for_line("the most that the limit of 200 open files allows");
    let (_, status) = crate::admin::ctl(&daemon, &["status"]);
    let full = "136 of 136, FULL: raise the limit of 200 open files (LimitNOFILE= in the unit, ulimit -n in a shell)";
    assert!(status.contains(full) && !status.contains("raise max_connections"), "{status}");
    let (_, status) = crate::admin::ctl(&daemon, &["status", "--max-used", "80%"]);
    assert!(status.contains("limited by 200 open files"), "{status}");
    assert_eq!(daemon.ended(1)[0]["reason"], "descriptor_limit");
    drop(clients);
}

#[test]
fn fault_54_without_descriptors_accept_neither_spins_nor_fills_the_log() {
    let daemon = with_descriptors(200, "[websocket]\nhandshake_timeout = \"60s\"\n");
    let mut client = daemon.client(&["c"]);
    // There are more silent connections than descriptors; the rest waits in the kernel.
    let silent: Vec<_> = (0..300).map(|_| daemon.connect()).collect();
    daemon.wait_for_line("cannot accept connections: Too many open files (os error 24); trying again");
    let (began, work) = (Instant::now(), daemon.processor_time());
    (0..3).for_each(|_| drop(daemon.wait_for_line("cannot accept connections")));
    let (took, work) = (began.elapsed(), daemon.processor_time() - work);
    println!("three more lines in {took:?}, for which it used {work:?} of processor time");
    assert!(took >= Duration::from_secs(2), "more than a line a second: three in {took:?}");
    assert!(work < took / 4, "it spins: {work:?} of {took:?}");
    assert_eq!(daemon.admin("GET", "/v1/status", "")["connections"], 1, "the admin socket answers");
    client.settle();
    // The silent connections give up their slots after a while.
    daemon.client(&["c"]).settle();
    assert!(daemon.metric("philote_requests_refused_total{reason=\"max_pending\"}") > 0);
    drop(silent);
}
