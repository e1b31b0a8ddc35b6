//! The socket for observers of a real daemon: its settings, its life, and what it refuses.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use crate::support::{Daemon, config_file};

fn observe(daemon: &Daemon, line: &[&str]) -> (i32, String, String) {
    let socket = daemon.directory.path().join("observe.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_philotectl"));
    let output = command.env_clear().arg("--socket").arg(socket).args(line).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn an_observer_sees_the_daemon_and_gets_no_token() {
    let config = "[admin]\nobserve_socket = \"observe.sock\"\nobserve_mode = \"0666\"\n";
    let mut daemon = Daemon::start(config);
    let socket = daemon.directory.path().join("observe.sock");
    let found = std::fs::metadata(&socket).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o666);
    assert_eq!(found.gid(), std::fs::metadata(daemon.directory.path().join("admin.sock")).unwrap().gid());
    assert!(daemon.log().contains("the observe socket, for monitoring, is "), "{}", daemon.log());
    let client = daemon.client(&["chat"]);
    let (code, out, _) = observe(&daemon, &["connections"]);
    assert!(code == 0 && out.contains("chat"), "{out}");
    let (code, out, error) = observe(&daemon, &["token", "--read", "chat"]);
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(error.starts_with("this socket is for observing only, and POST /v1/token needs"), "{error}");
    // Its path and its mode are those of the start.
    config_file(daemon.directory.path(), "[admin]\nobserve_socket = \"other.sock\"\n");
    let reloaded = daemon.admin("POST", "/v1/reload", "");
    assert_eq!(reloaded["needs_restart"], serde_json::json!(["admin.observe_socket", "admin.observe_mode"]));
    assert_eq!(observe(&daemon, &["status"]).0, 0);
    drop(client);
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.wait().success());
    assert!(!socket.exists());
}

#[test]
fn fault_68_a_socket_for_observers_of_a_live_daemon_is_not_taken() {
    let first = Daemon::start("[admin]\nobserve_socket = \"observe.sock\"\n");
    let directory = tempfile::TempDir::new().unwrap();
    let config =
        format!("[admin]\nobserve_socket = \"{}\"\n", first.directory.path().join("observe.sock").display());
    config_file(directory.path(), &config);
    let mut second = crate::support::philote(directory.path());
    let output = second.env("PORT", "0").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("another philote listens on the observe socket"), "{error}");
    assert!(error.contains("choose another: observe_socket under [admin]"), "{error}");
    assert_eq!(observe(&first, &["status"]).0, 0);
}
