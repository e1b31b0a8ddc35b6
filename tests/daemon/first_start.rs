//! The first start of somebody who tries Philote: what is printed works as it is printed.

use std::process::Command;

use crate::support::{assert_no_secrets, philote};
use crate::terminal::OnTerminal;

/// The command after these words in a line of the log.
fn command(shown: &str, words: &str) -> String {
    let line = shown.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {shown}"));
    line.split(words).nth(1).unwrap().trim().to_owned()
}

#[test]
fn a_first_start_on_a_terminal_prints_commands_that_work() {
    let home = tempfile::TempDir::new().unwrap();
    let mut command_line = philote(home.path());
    command_line.env_remove("PHILOTE_CONFIG").env("PORT", "0");
    let mut screen = OnTerminal::start(&mut command_line);
    let shown = screen.see("for a first test, get a token with: ").replace('\r', "");
    let shown = format!("{shown}{}", screen.see("--write chat").rsplit("get a token with: ").next().unwrap());
    assert_no_secrets(&shown);
    let run = |line: &str| {
        let output = Command::new("sh").args(["-c", line]).env_clear().output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, secret, error) = run(&command(&shown, "to show it for your backend, run: "));
    assert_eq!((code, secret.trim().len(), error.as_str()), (Some(0), 43, ""));
    let token = command(&shown, "get a token with: ");
    let (code, token, error) = run(&token);
    assert!(code == Some(0) && token.starts_with("eyJ"), "{error}");
    let jane = command(&shown, "to talk in two terminals, run in both: ");
    assert!(jane.ends_with(" -c chat") && jane.contains(" -p localhost:"), "{jane}");
    let mut talking =
        OnTerminal::start(Command::new("sh").args(["-c", &format!("exec env {jane}")]).env_clear());
    talking.see("chat");
    assert!(shown.contains("clients connect to ws://localhost:"), "{shown}");
    assert!(command(&shown, "stop this one and run: ").ends_with(" --dev"), "{shown}");
    talking.interrupt();
}

#[test]
fn a_start_with_a_settings_file_or_without_a_terminal_is_brief() {
    let daemon = crate::support::Daemon::start("");
    assert!(!daemon.log().contains("to talk in two terminals"), "{}", daemon.log());
}
