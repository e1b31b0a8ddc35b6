//! philotectl as a process: its output for people and programs, and its exit status.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use philote::admin::api::*;
use philote::installation::{its_log, restart_it, start_it};
use serde_json::json;

use crate::daemon::Daemon;
use crate::fake::{SECRET, TOKEN, gate};
use crate::process::{Ended, philotectl, run};
use crate::terminal::OnTerminal;

/// All but `doctor`, which reports a daemon that it cannot reach as one of its findings.
pub(crate) const EVERY_COMMAND: [&str; 22] = [
    "instances",
    "status",
    "status --max-used 80%",
    "channels --sort rate --limit 5",
    "publish chat hello",
    "token --read chat",
    "inspect a.b.c",
    "secret show",
    "secret set",
    "secret rotate",
    "reload",
    "reload --dry-run",
    "connections",
    "connections --state closed",
    "explain --subject alice --channel chat",
    "channels",
    "disconnect --all",
    "refused",
    "refused --remove eve",
    "publish chat",
    "log-level debug",
    "wait-ready --timeout 1ms",
];

fn ended(code: i32, out: &str, err: &str) -> Ended {
    Ended { code, out: out.into(), err: err.into() }
}

#[test]
fn status_in_a_pipe_is_plain_and_exact() {
    let daemon = Daemon::start();
    let expected = "version\t1.0.0\nstate\tserving\nprocess\t4711\nup\t3 days 4 h, since 2026-11-22T10:45:00Z\n\
                    listening\t[::]:6380\nconnections\t12 of 255\n\
                    since start\t1234 accepted, 5 refused, 1222 closed\nchannels\t3\n\
                    messages in\t12.3/s, 99000 since start\ndeliveries\t120.0/s, 1000000 since start\n\
                    queued\t0 of 1073741824\nmemory\t12897484\nsettings\t/etc/philote/philote.toml\n\
                    secret\t/var/lib/philote/secret; 1 older one still verifies\n";
    assert_eq!(daemon.ctl("status"), ended(0, expected, ""));
}

#[test]
fn status_reports_a_full_server_a_drain_and_a_refused_reload() {
    let daemon = Daemon::start();
    {
        let mut status = daemon.fake.status.lock().unwrap();
        status.connections = 255;
        status.max_connections_source = Some("environment variable MAX_CONNECTIONS".into());
        status.state = State::Draining;
        status.drain_ends_at = Some(Timestamp::from_unix(1_795_344_310));
        status.log_records_dropped = 7;
        status.last_reload = Some(ReloadReport {
            at: Timestamp::from_unix(1_795_344_300),
            ok: false,
            applied: vec![],
            needs_restart: vec![],
            error: Some("/etc/philote/philote.toml line 3: unknown key \"lisen\"".into()),
        });
    }
    let out = daemon.ctl("status").out;
    for line in [
        "connections\t255 of 255, FULL: raise max_connections, which is set by environment variable MAX_CONNECTIONS",
        "state\tdraining, until 2026-11-22T10:45:10Z at most",
        "last reload\t2026-11-22T10:45:00Z, refused: /etc/philote/philote.toml line 3: unknown key \"lisen\"",
        "log\t7 records dropped",
    ] {
        assert!(out.lines().any(|found| found == line), "{line} in {out}");
    }
}

#[test]
fn output_on_a_terminal_is_aligned_and_coloured_unless_no_color_is_set() {
    let daemon = Daemon::start();
    daemon.fake.status.lock().unwrap().connections = 255;
    let on_terminal = |no_color: &str| {
        let mut command = philotectl(&daemon.path, "status");
        let mut terminal = OnTerminal::start(command.env("NO_COLOR", no_color));
        // The last line of the output.
        let shown = terminal.see("older one still verifies\r\n").replace('\r', "");
        assert_eq!(terminal.end(), 0);
        shown
    };
    let coloured = on_terminal("");
    assert!(coloured.contains("\nconnections  255 of 255, \x1b[31;1mFULL: raise"), "{coloured}");
    assert!(
        coloured.contains("\nmemory       12.3 MiB\n") && coloured.contains("1,234 accepted"),
        "{coloured}"
    );
    assert_eq!(on_terminal("1"), coloured.replace("\x1b[31;1m", "").replace("\x1b[0m", ""));
}

#[test]
fn token_prints_only_the_token_on_standard_output() {
    let daemon = Daemon::start();
    let token = format!("{TOKEN}\n");
    let mut issued = daemon.ctl("token --read chat --read news --write chat --subject alice --expires-in 1h");
    assert!(issued.err.starts_with("expires 2026-11-22T11:45:00Z ("), "{}", issued.err);
    issued.err.clear();
    assert_eq!(issued, ended(0, &token, ""));
    let seen = daemon.fake.last_seen();
    let expected = r#"TokenRequest { read: ["chat", "news"], write: Some(["chat"]), may: NewMay { read: [], write: [] }, presence: false, info: None, api: ApiRights(), subject: Some("alice"), expires_in: Some(3600) }"#;
    assert_eq!(seen, expected);
    assert_eq!(daemon.ctl("token --api --expires-in never"), ended(0, &token, "never expires\n"));
    assert_eq!(
        daemon.fake.last_seen(),
        "TokenRequest { read: [], write: None, may: NewMay { read: [], write: [] }, presence: false, info: None, api: ApiRights(all), subject: None, expires_in: None }"
    );
    daemon.ctl("token --api publish,info --read chat");
    let expected = r#"TokenRequest { read: ["chat"], write: None, may: NewMay { read: [], write: [] }, presence: false, info: None, api: ApiRights(publish, info), subject: None, expires_in: Some(604800) }"#;
    assert_eq!(daemon.fake.last_seen(), expected);
    let wrong = daemon.ctl("token --api publishing");
    assert!(wrong.code == 2 && wrong.err.contains("publish, channels, subjects"), "{wrong:?}");
    daemon.ctl("token --write chat");
    assert!(daemon.fake.last_seen().ends_with("expires_in: Some(604800) }"));
    let expected = json!({"token": TOKEN, "expires_at": "2026-11-22T10:46:00Z"});
    assert_eq!(daemon.ctl("token --read chat --expires-in 1m --json").json(), expected);
}

#[test]
fn inspect_reads_an_argument_or_standard_input() {
    let daemon = Daemon::start();
    let accepted = "accepted\tyes\nexpires\tnever\nsigned by\tsecret, line 1\n\
                    claims\t{\"read\":[\"chat\"],\"sub\":\"alice\\u202e\\u001b\"}\nheader\t{\"alg\":\"HS256\"}\n";
    assert_eq!(daemon.ctl("inspect a.b.c"), ended(0, accepted, ""));
    assert_eq!(daemon.fake.last_seen(), "a.b.c");
    for line in ["inspect", "inspect -"] {
        assert_eq!(run(philotectl(&daemon.path, line), b"Bearer d.e.f\n"), ended(0, accepted, ""));
        assert_eq!(daemon.fake.last_seen(), "d.e.f");
    }
    let empty = "there is no token on standard input\n\
                 for example: philotectl token --read chat | philotectl inspect\n";
    assert_eq!(run(philotectl(&daemon.path, "inspect"), b"\n"), ended(2, "", empty));

    *daemon.fake.inspection.lock().unwrap() = Inspection {
        accepted: false,
        reason: Some("the token expired at 2026-11-22T10:45:00Z".into()),
        header: None,
        claims: None,
        signed_by: None,
        expires_at: Some(Timestamp::from_unix(1_795_344_300)),
    };
    let refused = daemon.ctl("inspect a.b.c");
    assert!(refused.out.starts_with("accepted\tno: the token expired at 2026-11-22T10:45:00Z\nexpires\t"));
    assert_eq!(refused.code, 1);
    let refused = daemon.ctl("inspect a.b.c --json");
    assert_eq!((refused.code, &refused.json()["accepted"]), (1, &json!(false)));
}

#[test]
fn secrets_are_shown_set_and_rotated() {
    let daemon = Daemon::start();
    let shown = ended(0, &format!("{SECRET}\n"), "1 older secret still verifies tokens: --all\n");
    assert_eq!(daemon.ctl("secret show"), shown);
    assert_eq!(daemon.ctl("secret show --all"), ended(0, &format!("{SECRET}\nolder\n"), ""));
    assert_eq!(daemon.ctl("secret show --json").json()["secrets"], json!([SECRET, "older"]));
    let set = "the secret is set, in /var/lib/philote/secret; 1 older one still verifies; \
               3 connections whose key was removed are being closed\n";
    assert_eq!(run(philotectl(&daemon.path, "secret set"), b"new\nold\n"), ended(0, set, ""));
    assert_eq!(daemon.fake.last_seen(), "new\nold\n");
    let empty = "there is no secret on standard input\nfor example: philotectl secret set < FILE\n";
    assert_eq!(daemon.ctl("secret set"), ended(2, "", empty));
    let large = run(philotectl(&daemon.path, "secret set"), &[b'x'; 65537]);
    let message =
        "the secret on standard input has more than 65536 bytes\nfor example: philotectl secret set < FILE\n";
    assert_eq!(large, ended(2, "", message));
    let refused =
        "the secret comes from the environment variable SECRET\nchange it where it is set, then restart\n";
    assert_eq!(daemon.ctl("secret rotate"), ended(1, "", refused));
}

#[test]
fn reload_prints_its_result() {
    let daemon = Daemon::start();
    let applied = "applied\tlimits.queue_bytes, log.level\nneeds a restart\tlisten\n\
                   closing\t2 connections whose key was removed are being closed\n";
    assert_eq!(daemon.ctl("reload"), ended(0, applied, ""));
    assert_eq!(daemon.ctl("reload --json").json()["applied"], json!(["limits.queue_bytes", "log.level"]));
    let sentence = "/etc/philote/philote.toml line 3: unknown key \"lisen\"; nothing was changed";
    let failure = Failure::new(Code::Refused, sentence).hint("did you mean \"listen\"?");
    *daemon.fake.reload.lock().unwrap() = Err(failure);
    let refused = ended(1, "", &format!("{sentence}\ndid you mean \"listen\"?\n"));
    assert_eq!(daemon.ctl("reload"), refused);
    assert_eq!(daemon.ctl("--json reload"), refused);
}

#[test]
fn wait_ready_waits_until_the_daemon_serves_or_the_timeout_ends() {
    let daemon = Daemon::start();
    assert_eq!(daemon.ctl("wait-ready"), ended(0, "philote is ready\n", ""));
    *daemon.fake.ready.lock().unwrap() = Err(Failure::new(Code::NotReady, "philote is starting"));
    let late = daemon.ctl("wait-ready --timeout 300ms");
    assert_eq!(late, ended(5, "", "not ready within 300 ms: philote is starting\n"));
    std::thread::scope(|scope| {
        let asked = daemon.fake.seen.lock().unwrap().len();
        let waiting = scope.spawn(|| daemon.ctl("wait-ready --json"));
        while daemon.fake.seen.lock().unwrap().len() < asked + 2 {
            std::thread::yield_now();
        }
        *daemon.fake.ready.lock().unwrap() = Ok(Ready { state: State::Serving });
        assert_eq!(waiting.join().unwrap().json(), json!({"state": "serving"}));
    });
    let nowhere = daemon.directory().join("none.sock");
    let never = run(philotectl(&nowhere, "wait-ready --timeout 300ms"), b"");
    let message =
        format!("not ready within 300 ms: philote is not running: no socket at {}\n", nowhere.display());
    assert_eq!(never, ended(5, "", &format!("{message}{}\n", start_it("philote"))));
}

#[test]
fn every_command_reports_a_stopped_daemon() {
    let mut daemon = Daemon::start();
    daemon.stop();
    let socket = daemon.path.display();
    let none = format!("philote is not running: no socket at {socket}\n{}\n", start_it("philote"));
    let stopped = |line: &str, expected: &str| {
        let found = run(philotectl(&daemon.path, line), b"secret");
        if line.starts_with("wait-ready") {
            let expected = ended(5, "", &format!("not ready within 1 ms: {expected}"));
            assert_eq!(found, expected, "{line}");
        } else {
            assert_eq!(found, ended(3, "", expected), "{line}");
        }
    };
    for line in EVERY_COMMAND {
        stopped(line, &none);
        stopped(&format!("{line} --json"), &none);
    }
    // What kill -9 leaves behind.
    drop(UnixListener::bind(&daemon.path).unwrap());
    let dead = format!("philote is not running: nothing listens on {socket}\n{}\n", start_it("philote"));
    for line in EVERY_COMMAND {
        stopped(line, &dead);
    }
}

#[test]
fn every_command_speaks_json_and_survives_a_closed_pipe() {
    let daemon = Daemon::start();
    for line in EVERY_COMMAND.iter().filter(|line| **line != "secret rotate") {
        let line = line.replace("1ms", "10s");
        let ended = run(philotectl(&daemon.path, &format!("{line} --json")), b"secret");
        assert!(ended.json().is_object(), "{line}: {ended:?}");
        let mut shell = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_philotectl");
        shell.args(["-c", &format!("(echo secret | {program} {line}; echo $? >&2) | true")]);
        shell.env("PHILOTE_ADMIN_SOCKET", &daemon.path);
        let ended = run(shell, b"");
        assert!(ended.err.ends_with("0\n") && !ended.err.contains("panicked"), "{line}: {}", ended.err);
    }
}

#[test]
fn wrong_arguments_print_one_line_and_one_hint() {
    for (line, message, hint) in [
        ("statsu", "unrecognized subcommand 'statsu'", "a similar subcommand exists: 'status'"),
        ("status --jsno", "unexpected argument '--jsno' found", "a similar argument exists: '--json'"),
        ("status now", "unexpected argument 'now' found", "usage: philotectl status [OPTIONS]"),
        (
            "token",
            "the following required arguments were not provided: <--read <CHANNEL>|--write <CHANNEL>|--may-read <PATTERN>|--may-write <PATTERN>|--api [<RIGHT>]>",
            "usage: philotectl token <--read <CHANNEL>|--write <CHANNEL>|--may-read <PATTERN>|--may-write <PATTERN>|--api [<RIGHT>]>",
        ),
        (
            "token --read c --expires-in soon",
            "invalid value 'soon' for '--expires-in <DURATION>': give a duration such as 30s, 1h or 7d, or \"never\"",
            "see: philotectl --help",
        ),
        (
            "reload --timeout",
            "a value is required for '--timeout <DURATION>' but none was supplied",
            "see: philotectl --help",
        ),
    ] {
        let found = run(philotectl(Path::new("/none"), line), b"");
        assert_eq!(found, ended(2, "", &format!("{message}\n{hint}\n")), "{line}");
    }
}

#[test]
fn a_daemon_that_does_not_answer_is_a_timeout() {
    let daemon = Daemon::start();
    let (_begun, go) = gate(&daemon.fake);
    let late = daemon.ctl("reload --timeout 200ms");
    let message = format!("philote did not answer within 200 ms on {}\n", daemon.path.display());
    assert_eq!(late, ended(5, "", &format!("{message}see its log: {}\n", its_log("philote"))));
    go.send(()).unwrap();
}

/// Answers one connection with these bytes.
fn answering(answer: String) -> (tempfile::TempDir, std::path::PathBuf, std::thread::JoinHandle<()>) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("admin.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
    });
    (scratch, path, thread)
}

#[test]
fn fault_69_another_version_and_another_program_get_different_errors() {
    let version = env!("CARGO_PKG_VERSION");
    let other = format!(
        "the running philote is version 0.9.0, this program is version {version}, and these versions \
         are not compatible\nrestart it after an upgrade: {}\n",
        restart_it("philote")
    );
    let not_philote = "the server on THERE is not philote\n\
                       name its socket: --socket PATH or PHILOTE_ADMIN_SOCKET\n";
    let gone = format!(
        "philote closed the connection on THERE before it answered\nsee its log: {}\n",
        its_log("philote")
    );
    let gone = gone.as_str();
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nserver: philote/0.9.0\r\ncontent-length: 2\r\n\r\n{}", other.as_str()),
        (
            "HTTP/1.1 404 Not Found\r\nserver: philote/0.9.0\r\ncontent-length: 36\r\n\r\n{\"error\":\"not_found\",\"message\":\"no\"}",
            &other,
        ),
        ("HTTP/1.1 200 OK\r\nserver: nginx\r\ncontent-length: 2\r\n\r\n{}", not_philote),
        ("220 mail.example.org ESMTP\r\n", not_philote),
        ("", gone),
        ("HTTP/1.1 200 OK\r\nserver: philote/VERSION\r\ncontent-length: 9\r\n\r\n{", gone),
    ] {
        let (_scratch, path, thread) = answering(answer.replace("VERSION", version));
        let expected = expected.replace("THERE", &path.display().to_string());
        assert_eq!(run(philotectl(&path, "status"), b""), ended(1, "", &expected), "{answer}");
        thread.join().unwrap();
    }
}

#[test]
fn the_socket_comes_from_the_option_then_the_environment_then_the_session() {
    let daemon = Daemon::start();
    let mut by_option = Command::new(env!("CARGO_BIN_EXE_philotectl"));
    by_option
        .env_clear()
        .env("PHILOTE_ADMIN_SOCKET", "/none")
        .arg("--socket")
        .arg(&daemon.path)
        .arg("status");
    assert_eq!(run(by_option, b"").code, 0);

    // In a session: no daemon (or another one) at the system's path, ours in the runtime directory.
    let session = daemon.directory().join("philote");
    std::fs::create_dir(&session).unwrap();
    std::fs::rename(&daemon.path, session.join("admin.sock")).unwrap();
    if !Path::new("/run/philote/admin.sock").exists() {
        let mut by_session = Command::new(env!("CARGO_BIN_EXE_philotectl"));
        by_session.env_clear().env("XDG_RUNTIME_DIR", daemon.directory()).arg("status");
        assert_eq!(run(by_session, b"").code, 0);
    }
}
