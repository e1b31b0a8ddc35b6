//! The lists and the commands that act on them: the requests to the daemon, and how each answer is printed.

use std::process::Command;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::fake;
use crate::process::{Ended, philotectl, run};
use crate::terminal::OnTerminal;

fn ended(code: i32, out: &str, err: &str) -> Ended {
    Ended { code, out: out.into(), err: err.into() }
}

/// The output on a terminal with this number of columns.
fn on_terminal(daemon: &Daemon, line: &str, columns: u16, last: &str) -> String {
    let mut command = philotectl(&daemon.path, line);
    let mut terminal = OnTerminal::start_with(command.env("NO_COLOR", "1"), columns);
    let shown = terminal.see(last).replace('\r', "");
    assert_eq!(terminal.end(), 0);
    shown
}

#[test]
fn connections_in_a_pipe_are_plain_and_not_truncated() {
    let daemon = Daemon::start();
    let row = |id: &str, subject: &str, channels: &str| {
        format!(
            "{id}-6c3c-4c0e-9a53-0d8e3c1f3b7a\t{subject}\t192.0.2.7:51234\t303\t7\t2048\t4\t1234\t56789\t{channels}\twebsocket\n"
        )
    };
    let rows = row("5f0c6b0e", "alice\\u{1b}", "reads chat, news, 18 more; writes chat\tyes")
        + &row("00000001", "", "(closing: slow_consumer)\tno");
    assert_eq!(daemon.ctl("connections"), ended(0, &rows, "showing 2 of 12345 connections\n"));
    assert_eq!(
        daemon.fake.last_seen(),
        "ConnectionQuery { id: None, channel: None, subject: None, address: None, sort: Newest, limit: Some(10000), local: false }"
    );
    daemon.ctl(
        "connections --id 5F0c --channel chat --subject alice --address 192.0.2.7 --sort queued --limit 20",
    );
    assert_eq!(
        daemon.fake.last_seen(),
        "ConnectionQuery { id: Some(IdPrefix(\"5f0c\")), channel: Some(\"chat\"), subject: Some(\"alice\"), \
         address: Some(Address { ip: 192.0.2.7, port: None }), sort: Queued, limit: Some(20), local: false }"
    );
}

#[test]
fn lists_fit_the_terminal_and_report_omitted_rows() {
    let daemon = Daemon::start();
    let wide = on_terminal(&daemon, "connections", 160, "12,345 connections");
    let expected = "\
ID        SUBJECT          ADDRESS            AGE  IDLE   QUEUED  MOST QUEUED     IN     OUT  CHANNELS                                COMPRESSED  TRANSPORT
5f0c6b0e  alice\\u{1b}  192.0.2.7:51234  5m03s    7s  2.0 KiB            4  1,234  56,789  reads chat, news, 18 more; writes chat  yes  websocket
00000001               192.0.2.7:51234  5m03s    7s  2.0 KiB            4  1,234  56,789  (closing: slow_consumer)                no  websocket
showing 2 of 12,345 connections";
    let squeezed = |text: &str| {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(squeezed(&wide), squeezed(expected));
    assert_eq!(
        daemon.fake.last_seen().split("limit").nth(1),
        Some(": Some(100), local: false }"),
        "a terminal gets readable units"
    );
    for columns in [80, 100, 120] {
        for line in ["connections", "connections --state closed", "channels", "refused"] {
            let shown = on_terminal(&daemon, line, columns, "showing");
            let widest = shown.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= usize::from(columns), "{widest} columns of {columns}: {shown}");
        }
    }
    let narrow = on_terminal(&daemon, "connections --sort queued", 80, "12,345 connections");
    assert!(narrow.contains("QUEUED"), "the sort column must stay: {narrow}");
    let closed = on_terminal(&daemon, "connections --state closed", 80, "counted");
    for part in ["slow_consumer", "4413", "too slow", "(alice)", "showing 2 of 2", "40,000 bad_signature"] {
        assert!(closed.contains(part), "{part} in {closed}");
    }
}

#[test]
fn closed_connections_in_a_pipe_show_the_reason() {
    let daemon = Daemon::start();
    let rows = "2026-11-22T10:45:00Z\t5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a\talice\t192.0.2.7:51234\t\
                slow_consumer\t4413\t12.5\t4096\t0\t4097\t5\t1048576\ttoo slow: more was waiting for this \
                connection than queue limits allow\n\
                2026-11-22T10:45:00Z\t\talice\t192.0.2.7:51234\tbad_signature\t401\t\t\t\t\t\t\tthe token has a \
                bad signature\n";
    assert_eq!(daemon.ctl("connections --state closed"), ended(0, rows, ""));
    daemon.ctl("connections --reason slow_consumer --sort duration");
    assert_eq!(
        daemon.fake.last_seen(),
        "ClosedQuery { id: None, subject: None, address: None, reason: Some(\"slow_consumer\"), sort: Duration, limit: Some(10000), local: false }"
    );
    for (line, message) in [
        ("--state open --reason origin", "open connections have no --reason: use --state closed"),
        ("--state closed --channel c", "closed connections have no --channel"),
        ("--state closed --sort idle", "closed connections are not sorted by idle"),
        ("--sort duration", "open connections are not sorted by duration"),
    ] {
        let expected = ended(2, "", &format!("{message}\nsee: philotectl connections --help\n"));
        assert_eq!(daemon.ctl(&format!("connections {line}")), expected);
    }
}

/// The JSON documents that programs rely on. Any change here breaks them.
#[test]
fn json_documents_keep_their_shapes() {
    let daemon = Daemon::start();
    let connection = json!({
        "id": "5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a",
        "subject": "alice\u{1b}",
        "address": "192.0.2.7:51234",
        "transport": "websocket",
        "connected_at": "2026-11-22T10:45:00Z",
        "age_seconds": 303,
        "idle_seconds": 7,
        "queued_messages": 1,
        "queued_bytes": 2048,
        "greatest_queue": 4,
        "messages_in": 1234,
        "messages_out": 56789,
        "bytes_in": 100_000,
        "bytes_out": 5_000_000,
        "read": ["chat", "news"],
        "read_count": 20,
        "joined": ["news"],
        "joined_count": 1,
        "write": ["chat"],
        "write_count": 1,
        "may": {"read": ["ne*"]},
        "expires_at": "2026-11-22T11:45:00Z",
        "closing": null,
        "compression": true,
    });
    let connections = daemon.ctl("connections --json").json();
    assert_eq!((&connections["matched"], &connections["connections"][0]), (&json!(12345), &connection));
    assert_eq!(connections["connections"][1]["closing"], "slow_consumer");
    let closed = json!({
        "at": "2026-11-22T10:45:00Z",
        "ending": "closed",
        "id": "5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a",
        "subject": "alice",
        "subject_verified": true,
        "address": "192.0.2.7:51234",
        "reason": "slow_consumer",
        "code": 4413,
        "message": "too slow: more was waiting for this connection than queue limits allow",
        "duration_seconds": 12.5,
        "messages_in": 0,
        "messages_out": 4097,
        "bytes_in": 5,
        "bytes_out": 1_048_576,
        "greatest_queue": 4096,
    });
    let answer = daemon.ctl("connections --state closed --json").json();
    assert_eq!(answer["connections"][0], closed);
    assert_eq!(answer["connections"][1]["id"], Value::Null);
    assert_eq!(answer["reasons"][0], json!({"reason": "bad_signature", "total": 40001, "remembered": 1}));
    let channel = json!({
        "channel": "chat", "readers": 1234, "writers": 5, "messages": 678, "messages_per_second": 12.5
    });
    assert_eq!(daemon.ctl("channels --json").json(), json!({"matched": 1, "channels": [channel]}));
    let refused = json!({"refused": [{"subject": "eve", "until": "2026-11-22T10:45:00Z"}]});
    assert_eq!(daemon.ctl("refused --json").json(), refused);
    assert_eq!(daemon.ctl("refused --remove eve --json").json(), json!({"matched": 1}));
    let disconnected = json!({"matched": 2, "dry_run": false, "refused_until": "2026-11-22T11:45:00Z"});
    assert_eq!(daemon.ctl("disconnect --subject eve --refuse-for 1h --json").json(), disconnected);
    assert_eq!(daemon.ctl("publish chat hello --json").json(), json!({"messages": 1, "readers": 3}));
    assert_eq!(daemon.ctl("log-level --json").json(), json!({"level": "info", "configured": "info"}));
    assert_eq!(daemon.ctl("reload --dry-run --json").json()["dry_run"], true);

    let mut ended = closed;
    ended["event"] = "ended".into();
    let at = "2026-11-22T10:45:00Z";
    let id = &connection["id"];
    let events = daemon.ctl("events --messages --json");
    let events: Vec<Value> = events.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let subject = &connection["subject"];
    let connected =
        json!({"event": "connected", "at": at, "id": id, "subject": subject, "address": "192.0.2.7:51234"});
    assert_eq!((&events[0], &events[1]), (&connected, &ended));
    assert_eq!(events[2]["ending"], "refused");
    let reloaded = json!({"event": "reloaded", "at": at, "applied": ["log.level"], "needs_restart": ["listen"], "error": null});
    let message = json!({
        "event": "message", "at": at, "issuer": id, "subject": "alice", "channel": "chat", "data": "hello\nworld",
        "readers": 3
    });
    assert_eq!(events[3], reloaded);
    assert_eq!(events[4], json!({"event": "secret_changed", "at": at, "secrets": 2}));
    assert_eq!((&events[5], &events[6]), (&message, &json!({"event": "missed", "missed": 7})));
}

#[test]
fn nodes_are_listed_with_their_links() {
    let daemon = Daemon::start();
    let row =
        |name: &str, link: &str| format!("{name}\t1.0.0\trelay\t1234\t12.3\t{link}\t2026-11-22T10:45:00Z\n");
    assert_eq!(daemon.ctl("nodes"), ended(0, &(row("a", "up") + &row("b\\u{1b}", "down")), ""));
    let document: serde_json::Value = serde_json::from_str(&daemon.ctl("nodes --json").out).unwrap();
    assert_eq!(document["nodes"][1]["link"], "down");
}

#[test]
fn local_is_asked_of_the_daemon_and_excludes_what_all_nodes_learn() {
    let daemon = Daemon::start();
    for (line, seen) in [
        ("channels --local", "limit: Some(10000), local: true }"),
        ("connections --local --limit 1", "limit: Some(1), local: true }"),
        ("connections --state closed --local --limit 1", "limit: Some(1), local: true }"),
        ("refused --local", "RefusedQuery { local: true }"),
        ("refused", "RefusedQuery { local: false }"),
        ("disconnect --all --local", "refuse_for: None, local: true }"),
    ] {
        daemon.ctl(line);
        assert!(daemon.fake.last_seen().ends_with(seen), "{line}: {}", daemon.fake.last_seen());
    }
    for line in ["disconnect --subject a --refuse-for 1h --local", "refused --remove a --local"] {
        assert_eq!(daemon.ctl(line).code, 2, "{line}");
    }
}

#[test]
fn disconnect_prints_the_number_and_exits_6_for_none() {
    let daemon = Daemon::start();
    let line = |arguments: &str| daemon.ctl(&format!("disconnect {arguments}"));
    assert_eq!(line("--all"), ended(0, "2 connections are being disconnected\n", ""));
    assert_eq!(line("--channel chat --dry-run"), ended(0, "2 connections would be disconnected\n", ""));
    assert_eq!(line("--subject nobody"), ended(6, "no connection matches\n", ""));
    assert_eq!(line("--subject nobody --json").code, 6);
    let refused = "no connection matches; nobody is banned until 2026-11-22T11:45:00Z\n";
    assert_eq!(line("--subject nobody --refuse-for 1h"), ended(0, refused, ""));
    line("5f0c 00000001-6c3c-4c0e-9a53-0d8e3c1f3b7a --address [2001:db8::7]:80 --reconnect");
    assert_eq!(
        daemon.fake.last_seen(),
        "DisconnectRequest { ids: [IdPrefix(\"5f0c\"), IdPrefix(\"00000001-6c3c-4c0e-9a53-0d8e3c1f3b7a\")], \
         channel: None, subject: None, address: Some(Address { ip: 2001:db8::7, port: Some(80) }), all: false, \
         dry_run: false, reconnect: true, refuse_for: None, local: false }"
    );
    for (arguments, message) in [
        (
            "",
            "the following required arguments were not provided: <ID|--channel <CHANNEL>|--subject <SUBJECT>|--address <ADDRESS>|--all>",
        ),
        ("--all --subject a", "the argument '--all' cannot be used with '--subject <SUBJECT>'"),
        (
            "--channel c --refuse-for 1h",
            "the argument '--channel <CHANNEL>' cannot be used with '--refuse-for <DURATION>'",
        ),
        (
            "--subject a --refuse-for 1h --reconnect",
            "the argument '--refuse-for <DURATION>' cannot be used with '--reconnect'",
        ),
        ("alice", "invalid value 'alice' for '[ID]...': give a connection's id, or the start of one"),
        (
            "--address localhost",
            "invalid value 'localhost' for '--address <ADDRESS>': give an address such as 192.0.2.7, 192.0.2.7:51234 or 2001:db8::7",
        ),
    ] {
        let found = line(arguments);
        assert_eq!((found.code, found.err.lines().next()), (2, Some(message)), "{arguments}");
    }
    assert_eq!(daemon.ctl("refused"), ended(0, "eve\t2026-11-22T10:45:00Z\n", ""));
    assert_eq!(daemon.ctl("refused --remove eve"), ended(0, "eve is no longer banned\n", ""));
    assert_eq!(daemon.ctl("refused --remove bob"), ended(6, "bob was not banned\n", ""));
}

#[test]
fn publish_takes_an_argument_or_lines_of_standard_input() {
    let daemon = Daemon::start();
    assert_eq!(daemon.ctl("publish chat hello"), ended(0, "1 message queued for 3 readers\n", ""));
    let seen = daemon.fake.seen.lock().unwrap().len();
    let lines: String = (0..1000).map(|number| format!("{number}\n")).collect();
    let many = run(philotectl(&daemon.path, "publish chat"), lines.as_bytes());
    assert_eq!(many, ended(0, "1000 messages queued for 3000 readers in all\n", ""));
    let seen = daemon.fake.seen.lock().unwrap()[seen..].to_vec();
    let expected: Vec<String> = (0..1000)
        .map(|number| format!("Message {{ channel: \"chat\", data: Some(\"{number}\") }}"))
        .collect();
    assert_eq!(seen, expected, "in order, none left out");
    let none = run(philotectl(&daemon.path, "publish chat"), b"");
    assert_eq!(none, ended(0, "0 messages queued for 0 readers in all\n", ""));
    let escapes = format!("{}\n", "\u{1}".repeat(60_000)).repeat(4);
    assert_eq!(run(philotectl(&daemon.path, "publish chat"), escapes.as_bytes()).code, 0);
}

#[test]
fn events_prints_one_line_each_until_the_daemon_ends() {
    let daemon = Daemon::start();
    let found = daemon.ctl("events --messages --channel chat");
    assert_eq!(daemon.fake.last_seen(), "EventQuery { messages: true, channel: Some(\"chat\") }");
    let id = fake::connection().id;
    let at = "2026-11-22T10:45:00Z";
    let out = format!(
        "{at} connected {id} of alice\\u{{1b}} from 192.0.2.7:51234\n\
         {at} closed {id} of alice from 192.0.2.7:51234: slow_consumer (4413), too slow: more was waiting for this \
         connection than queue limits allow\n\
         {at} refused (claims to be alice) from 192.0.2.7:51234: bad_signature (401), the token has a bad signature\n\
         {at} reloaded; applied log.level; needs a restart: listen\n\
         {at} secret changed; 2 secrets in use\n\
         {at} message on chat from {id} of alice to 3 readers: hello\\nworld\n\
         7 events missed: this program reads too slowly\n"
    );
    let err = format!(
        "following events; end with Ctrl-C\nphilote has stopped\n{}\n",
        philote::installation::start_it("philote")
    );
    assert_eq!(found, ended(3, &out, &err));
    assert_eq!(daemon.ctl("events --channel chat").code, 2, "--channel needs --messages");
    let mut daemon = daemon;
    daemon.stop();
    assert!(daemon.ctl("events").err.starts_with("philote is not running: no socket at "));
    assert_eq!(daemon.ctl("events --json").code, 3);
}

#[test]
fn watch_repeats_until_its_reader_is_gone() {
    let daemon = Daemon::start();
    for line in ["connections", "channels", "refused", "status"] {
        let mut shell = std::process::Command::new("sh");
        let program = env!("CARGO_BIN_EXE_philotectl");
        shell.args(["-c", &format!("{program} {line} --watch 0.1 --json | head -n 3")]);
        let found = run_with(&daemon, shell);
        let documents: Vec<Value> =
            found.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(documents.len(), 3, "{line}: {found:?}");
    }
    let shown = on_terminal_until(&daemon, "channels --watch 0.1");
    assert!(
        shown.matches("\x1b[H\x1b[2J").count() >= 2,
        "each repetition starts at the top of an empty screen: {shown:?}"
    );
    assert_eq!(daemon.ctl("channels --watch 0").code, 2);
}

fn run_with(daemon: &Daemon, mut command: std::process::Command) -> Ended {
    command.env("PHILOTE_ADMIN_SOCKET", &daemon.path);
    run(command, b"")
}

/// The output of a repeating command once it has shown the same text twice.
fn on_terminal_until(daemon: &Daemon, line: &str) -> String {
    let mut terminal = OnTerminal::start(&mut philotectl(&daemon.path, line));
    terminal.see("\x1b[2J\x1b[2mCHANNEL");
    let shown = loop {
        let shown = terminal.more();
        if shown.matches("showing").count() >= 2 {
            break shown.to_owned();
        }
    };
    terminal.interrupt();
    shown
}

#[test]
fn max_used_exits_1_above_its_percentage() {
    let daemon = Daemon::start();
    daemon.fake.status.lock().unwrap().connections = 204;
    assert_eq!(daemon.ctl("status --max-used 80%").code, 0, "204 of 255 is 80%");
    daemon.fake.status.lock().unwrap().connections = 205;
    let found = daemon.ctl("status --max-used 80");
    assert_eq!((found.code, found.err.as_str()), (1, "205 of 255 connections are in use: more than 80%\n"));
    assert!(found.out.contains("connections\t205 of 255\n"));
    assert_eq!(daemon.ctl("status --max-used 81%").code, 0);
    assert_eq!(daemon.ctl("status --max-used much").code, 2);
}

#[test]
fn a_dry_run_prints_what_would_be_done() {
    let daemon = Daemon::start();
    let would = "would be applied\tlimits.queue_bytes, log.level\nneeds a restart\tlisten\n\
                 would be closed\t2 connections whose key would be removed\n";
    assert_eq!(daemon.ctl("reload --dry-run"), ended(0, would, ""));
}

#[test]
fn explain_tells_what_each_connection_has_got() {
    let daemon = Daemon::start();
    let lines = "\
connected 2026-11-22T10:45:00Z to 2026-11-22T10:45:09Z, had 1 up to 41 of 43; closed 4413, too slow\\u{1b}
back 2026-11-22T10:45:10Z to 2026-11-22T10:45:19Z, recovered, had 42 up to 43 of 43; closed 1001, stopping
back 2026-11-22T10:45:20Z to 2026-11-22T10:45:29Z, missed 44 to 45, had nothing after 45 of 46; closed 1006, gone
back 2026-11-22T10:45:30Z to 2026-11-22T10:45:39Z, no place in this channel is known; closed 1006, gone
back 2026-11-22T10:45:40Z, missed 46 to 46, joined after 46, and how far it got of 50 is not known
";
    let footer = "the channel is at a1-50 and keeps what came after a1-10; showing 5 of 7 connections; some connections that have \
                  ended are no longer remembered; nothing is known from before 2026-11-22T10:45:00Z\n";
    let line = "explain --subject alice --channel room:42";
    assert_eq!(daemon.ctl(line), ended(0, &format!("{lines}{footer}"), ""));
    assert_eq!(
        daemon.fake.last_seen(),
        "ExplainQuery { subject: \"alice\", channel: \"room:42\", id: None, local: false }"
    );
    let asked = daemon.ctl(&format!("{line} --id a1-41 --local"));
    assert_eq!((asked.code, asked.out), (0, format!("{lines}a1-41: written: because\n{footer}")));
    assert!(daemon.fake.last_seen().ends_with("id: Some(\"a1-41\"), local: true }"));
    let asked = daemon.ctl(&format!("{line} --id a1-42"));
    assert_eq!((asked.code, asked.out), (6, format!("{lines}a1-42: not written: because\n{footer}")));
    let answer = daemon.ctl(&format!("{line} --id a1-42 --json"));
    assert_eq!((answer.code, &answer.json()["verdict"]["verdict"]), (6, &json!("not_written")));
    assert_eq!(answer.json()["connections"][0]["place"]["up_to"], "a1-41");
    assert_eq!(daemon.ctl("explain --subject alice").code, 2, "a channel is needed");
}

#[test]
fn completions_include_channels_and_connections() {
    let daemon = Daemon::start();
    let complete = |words: &str, at: usize| {
        let mut command = philotectl(&daemon.path, &format!("-- {words}"));
        command.env("PHILOTE_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", at.to_string());
        command.env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_COMP_TYPE", "9");
        run(command, b"").out
    };
    assert_eq!(complete("philotectl publish ch", 2), "chat");
    assert_eq!(complete("philotectl publish x", 2), "");
    assert_eq!(complete("philotectl disconnect 5f", 2), "5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a");
    assert_eq!(complete("philotectl connections --channel ch", 3), "chat");
    assert_eq!(complete("philotectl refused --remove e", 3), "eve");
    assert!(complete("philotectl con", 1).contains("connections"));
    for shell in ["bash", "zsh", "fish"] {
        let script = daemon.ctl(&format!("completions {shell}"));
        assert!(script.code == 0 && script.out.contains("PHILOTE_COMPLETE"), "{script:?}");
    }
    let nobody = complete_without_daemon();
    assert_eq!(nobody, ended(0, "", ""), "completion must not print errors into the shell");
}

#[test]
fn every_program_completes_its_options_and_prints_completion_scripts() {
    for (program, path, typed, option) in [
        ("philote", env!("CARGO_BIN_EXE_philote"), "--print", "--print-config"),
        ("philotectl", env!("CARGO_BIN_EXE_philotectl"), "wait", "wait-ready"),
        ("jane", env!("CARGO_BIN_EXE_jane"), "--chan", "--channel"),
    ] {
        let ask = |shell: &str, words: &[&str]| {
            let mut command = Command::new(path);
            command.args(words).env("PHILOTE_COMPLETE", shell).env("_CLAP_COMPLETE_INDEX", "1");
            run(command, b"")
        };
        assert_eq!(ask("bash", &["--", program, typed]), ended(0, option, ""));
        for shell in ["bash", "zsh", "fish"] {
            let script = ask(shell, &[]);
            let asks = script.out.contains("PHILOTE_COMPLETE=") && script.out.contains(program);
            assert!(script.code == 0 && asks, "{script:?}");
        }
    }
}

fn complete_without_daemon() -> Ended {
    let mut command = philotectl(std::path::Path::new("/none"), "-- philotectl publish ch");
    command.env("PHILOTE_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "2").env("_CLAP_IFS", "\n");
    command.env("_CLAP_COMPLETE_COMP_TYPE", "9");
    run(command, b"")
}
