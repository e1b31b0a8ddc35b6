//! Several daemons on one machine: philotectl in a mount namespace of its own, whose /run has their sockets.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::process::{Ended, run};

/// Runs philotectl with the arguments in `line` where /run is this directory.
fn philotectl(run_directory: &Path, line: &str) -> Ended {
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", "mount --bind \"$0\" /run && exec \"$@\""]).arg(run_directory);
    command.arg(env!("CARGO_BIN_EXE_philotectl")).args(line.split_whitespace());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    run(command, b"")
}

/// A directory with the runtime directory of each daemon.
fn run_directory(daemons: &[(&str, &Daemon)]) -> TempDir {
    let scratch = tempfile::tempdir().unwrap();
    for (name, daemon) in daemons {
        symlink(daemon.directory(), scratch.path().join(name)).unwrap();
    }
    scratch
}

#[test]
#[ignore = "needs root or user namespaces: tests/run includes it"]
fn philotectl_alone_lists_the_daemons_if_there_are_several() {
    let (plain, chat, mut shop) = (Daemon::start(), Daemon::start(), Daemon::start());
    chat.fake.status.lock().unwrap().connections = 7;
    let here = run_directory(&[("philote", &plain), ("philote@shop", &shop), ("philote@chat", &chat)]);
    let alone = philotectl(here.path(), "");
    let rows: Vec<Vec<&str>> = alone.out.lines().map(|line| line.split('\t').collect()).collect();
    let units: Vec<_> = rows.iter().map(|row| (row[0], row[1], row[3], *row.last().unwrap())).collect();
    let serving = [
        ("philote", "serving", "12", "/run/philote/admin.sock"),
        ("philote@chat", "serving", "7", "/run/philote@chat/admin.sock"),
        ("philote@shop", "serving", "12", "/run/philote@shop/admin.sock"),
    ];
    assert_eq!((alone.code, units.as_slice(), alone.err.as_str()), (0, serving.as_slice(), ""));
    assert_eq!(philotectl(here.path(), "instances"), alone);

    // One that has left its socket behind.
    shop.stop();
    drop(std::os::unix::net::UnixListener::bind(&shop.path).unwrap());
    let listed = philotectl(here.path(), "instances --json").json();
    let dead = "philote is not running: nothing listens on /run/philote@shop/admin.sock";
    assert_eq!(listed["daemons"][2]["error"], dead);
    assert_eq!(listed["daemons"][1]["status"]["connections"], 7);
    assert_eq!(listed["daemons"].as_array().unwrap().len(), 3);

    let one = run_directory(&[("philote", &plain)]);
    let help = philotectl(one.path(), "");
    assert_eq!((help.code, help.out.as_str()), (2, ""));
    assert!(help.err.contains("Usage: philotectl"), "{}", help.err);
    assert_eq!(philotectl(one.path(), "instances").out.lines().count(), 1);
    let none = philotectl(run_directory(&[]).path(), "instances");
    assert_eq!(
        (none.code, none.err.lines().next()),
        (3, Some("philote is not running: no socket at /run/philote/admin.sock"))
    );
}

#[test]
#[ignore = "needs root or user namespaces: tests/run includes it"]
fn a_command_reaches_only_the_instance_that_is_named() {
    let (plain, chat) = (Daemon::start(), Daemon::start());
    let both = run_directory(&[("philote", &plain), ("philote@chat", &chat)]);
    let ended = philotectl(both.path(), "--instance chat disconnect --subject eve");
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert!(chat.fake.last_seen().contains("eve"));
    assert!(plain.fake.seen.lock().unwrap().is_empty(), "the other daemon was reached");
    assert_eq!(philotectl(both.path(), "status").err, "", "philote is chosen by default, without a word");

    // No instance is chosen by default, even if it is the only daemon.
    let alone = run_directory(&[("philote@chat", &chat)]);
    let ended = philotectl(alone.path(), "disconnect --all");
    let expected = "philote is not running: no socket at /run/philote/admin.sock\n\
                    choose an instance with --instance; these run: chat\n";
    assert_eq!((ended.code, ended.err.as_str()), (3, expected));

    let ended = philotectl(alone.path(), "--instance shop status");
    let expected = "philote is not running: no socket at /run/philote@shop/admin.sock\n\
                    start it: sudo systemctl start philote@shop\n";
    assert_eq!((ended.code, ended.err.as_str()), (3, expected));
    for (line, part) in [
        ("--instance ../chat status", "give the NAME of philote@NAME.service"),
        ("status --instance chat --socket /a", "cannot be used with"),
    ] {
        let ended = philotectl(alone.path(), line);
        assert!(ended.code == 2 && ended.err.contains(part), "{line}: {ended:?}");
    }
}
