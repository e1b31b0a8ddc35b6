//! Names that look alike or contain control characters for terminals, in all output for people.

use std::process::Command;

use philote::escape::is_invisible;
use serde_json::json;

use crate::admin::ctl;
use crate::support::{Daemon, keep};
use crate::terminal::OnTerminal;

/// One or two of each kind: zero-width, direction, tags, fillers, selectors, blanks. Channels cannot contain controls.
const ODD: &str = "\u{200b}\u{200d}\u{61c}\u{202e}\u{2066}\u{feff}\u{ad}\u{34f}\u{3164}\u{ffa0}\u{180e}\u{2028}\
                   \u{fe0f}\u{e0041}\u{e0101}\u{a0}\u{3000}\u{2800}\u{fff9}";

/// Every character of [`ODD`], and those that only a subject and a message may contain.
fn subject() -> String {
    format!("admin{ODD}\u{9b}31m\u{1b}[2J\u{7f}\u{0}")
}

#[track_caller]
fn assert_visible(output: &str) {
    let hidden: Vec<char> =
        output.chars().filter(|one| is_invisible(*one) && !['\n', '\r', '\t'].contains(one)).collect();
    assert!(hidden.is_empty(), "{hidden:?} in {output:?}");
}

/// Everything on a terminal until `last` is there.
fn on_terminal(daemon: &Daemon, line: &[&str], last: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_philotectl"));
    command.env_clear().env("PHILOTE_ADMIN_SOCKET", daemon.directory.path().join("admin.sock"));
    let mut terminal = OnTerminal::start_with(command.env("NO_COLOR", "1").args(line), 500);
    let shown = terminal.see(last).to_owned();
    keep(&shown);
    shown
}

#[test]
fn names_that_look_alike_differ_in_all_output_for_people() {
    let daemon = Daemon::start("");
    let channel = format!("room{ODD}");
    let mut plain = daemon.client_with(&json!({"read": ["room"], "sub": "admin"}));
    let mut blank = daemon.client_with(&json!({"read": ["room"], "sub": "admin "}));
    let mut odd = daemon.client_with(&json!({"read": [channel], "write": [channel], "sub": subject()}));
    for client in [&mut plain, &mut blank, &mut odd] {
        client.settle();
    }
    for list in ["connections", "channels"] {
        let (_, piped) = ctl(&daemon, &[list]);
        assert_visible(&piped);
        assert!(piped.contains("\\u{200b}\\u{200d}\\u{61c}\\u{202e}"), "{piped}");
        assert_visible(&on_terminal(&daemon, &[list], "showing"));
    }
    let shown = on_terminal(&daemon, &["connections"], "showing");
    assert!(shown.contains("  admin  ") && shown.contains("  admin\\u{20}  "), "{shown}");
    // The JSON document is the same on a terminal and in a pipe.
    let document = on_terminal(&daemon, &["connections", "--json"], "\n}");
    assert_visible(&document);
    let subjects = |document: &str| {
        let answer: serde_json::Value = serde_json::from_str(document).unwrap();
        let rows = answer["connections"].as_array().unwrap().clone();
        rows.iter().map(|row| row["subject"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(subjects(&document), [subject(), "admin ".into(), "admin".into()]);
    assert_eq!(subjects(&ctl(&daemon, &["connections", "--json"]).1), subjects(&document));

    drop(odd);
    daemon.ended(1);
    assert_visible(&ctl(&daemon, &["connections", "--state", "closed"]).1);
    daemon.wait_for_line("closed ");
    assert_visible(&daemon.log());
    assert!(daemon.log().contains("of \"admin\\u{200b}\\u{200d}"), "{}", daemon.log());
}

#[test]
fn jane_and_events_escape_invisible_characters() {
    let daemon = Daemon::start("");
    let mut command = Command::new(env!("CARGO_BIN_EXE_philotectl"));
    command.env_clear().env("PHILOTE_ADMIN_SOCKET", daemon.directory.path().join("admin.sock"));
    let mut events =
        OnTerminal::start_with(command.env("NO_COLOR", "1").args(["events", "--messages"]), 2000);
    events.see("following events");
    let mut command = Command::new(env!("CARGO_BIN_EXE_jane"));
    command.env_clear().env("PHILOTE_ADMIN_SOCKET", daemon.directory.path().join("admin.sock"));
    command.env("NO_COLOR", "1").args(["-p", &daemon.address().to_string(), "-c", "room"]);
    let mut jane = OnTerminal::start_with(&mut command, 2000);
    jane.see("connected to");
    let mut odd = daemon.client_with(&json!({"write": ["room"], "sub": subject()}));
    odd.publish("room", &format!("hello{}", subject()));
    odd.publish("room", "end of it");
    let shown = jane.see("end of it").to_owned();
    assert_visible(&shown);
    assert!(shown.contains("room: helloadmin\\u{200b}"), "{shown}");
    let shown = events.see("end of it").to_owned();
    assert_visible(&shown);
    assert!(shown.contains("\\u{9b}31m"), "{shown}");
}

#[test]
fn a_channel_that_looks_like_a_list_causes_a_warning_and_jane_takes_a_url_with_a_path() {
    let daemon = Daemon::start("");
    for (channel, words) in [("chat,news", "not a list; for several: "), ("*", "not a pattern")] {
        for option in ["--read", "--write"] {
            let (code, text) = ctl(&daemon, &["token", option, channel]);
            assert_eq!(code, 0);
            assert!(
                text.contains(&format!("warning: {option} \"{channel}\"")) && text.contains(words),
                "{text}"
            );
        }
    }
    let (_, text) = ctl(&daemon, &["token", "--read", "chat"]);
    assert!(!text.contains("warning") && text.contains("(in 7 days)"), "{text}");

    let mut command = Command::new(env!("CARGO_BIN_EXE_jane"));
    command.env_clear().env("PHILOTE_ADMIN_SOCKET", daemon.directory.path().join("admin.sock"));
    let url = format!("ws://{}/behind/a/prefix?x=1", daemon.address());
    let mut jane = OnTerminal::start(command.env("NO_COLOR", "1").args(["-p", &url, "-c", "room"]));
    jane.see(&format!("connected to ws://{}/behind/a/prefix: room", daemon.address()));
    daemon.client(&["room"]).publish("room", "hello");
    jane.see("room: hello");
}
