//! `philotectl top` in tmux: the screen, the effect of keys, and the state of the terminal afterwards.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Client, Daemon, PATIENCE, sign_with, status, upgrade};
use crate::terminal::OnTerminal;

/// Switches to the terminal's alternate screen, and back.
const TAKEN: &str = "\x1b[?1049h";
const GIVEN_BACK: &str = "\x1b[?1049l";

fn top(daemon: &Daemon) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_philotectl"));
    command.arg("top").env_clear();
    command.env("PHILOTE_ADMIN_SOCKET", daemon.directory.path().join("admin.sock"));
    command
}

/// A shell in its own tmux, 80 by 24.
struct Tmux {
    directory: TempDir,
}

impl Tmux {
    fn start(daemon: &Daemon) -> Tmux {
        let tmux = Tmux { directory: TempDir::new().unwrap() };
        let started = tmux
            .command()
            .args(["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "/bin/sh"])
            .env("PHILOTE_ADMIN_SOCKET", daemon.directory.path().join("admin.sock"))
            .env("PATH", PathBuf::from(env!("CARGO_BIN_EXE_philotectl")).parent().unwrap())
            .env("LC_ALL", "C.UTF-8")
            .status()
            .unwrap();
        assert!(started.success());
        tmux
    }

    /// tmux itself, without the environment of the shell in it.
    fn command(&self) -> Command {
        let path = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|directory| directory.join("tmux"))
            .find(|file| file.exists())
            .unwrap_or_else(|| panic!("this test needs tmux"));
        let mut command = Command::new(path);
        command.arg("-u").arg("-S").arg(self.directory.path().join("socket")).stdin(Stdio::null());
        command
    }

    fn press(&self, keys: &[&str]) {
        assert!(self.command().arg("send-keys").args(keys).status().unwrap().success());
    }

    fn screen(&self) -> String {
        String::from_utf8(self.command().args(["capture-pane", "-p"]).output().unwrap().stdout).unwrap()
    }

    /// Whether the program in the foreground uses the alternate screen.
    fn taken(&self) -> bool {
        let asked = self.command().args(["display-message", "-p", "#{alternate_on}"]).output().unwrap();
        asked.stdout == b"1\n"
    }

    fn wait(&self, what: &str, mut holds: impl FnMut(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if holds(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "timed out: {what}:\n{screen}");
        }
    }

    fn see(&self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text))
    }

    /// The settings of the terminal, as `stty -g` prints them.
    fn settings(&self) -> String {
        let file = self.directory.path().join("settings");
        let path = file.display();
        self.press(&[&format!("/bin/stty -g > {path}.new; /bin/mv {path}.new {path}"), "Enter"]);
        self.wait("the terminal's settings", |_| file.exists());
        let settings = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(file).unwrap();
        settings
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command().arg("kill-server").status();
    }
}

/// Changes the order, filters and ends the filter, shows another list, pauses, and shows the help.
fn order_filter_and_pause(tmux: &Tmux) {
    tmux.press(&["s"]);
    tmux.see("Connections, greatest queue first: 3");
    tmux.press(&["/", "carol", "Enter"]);
    let filtered = tmux.see("Connections, greatest queue first: 1 for carol");
    assert!(!filtered.contains(" bob "), "{filtered}");
    tmux.press(&["c"]);
    tmux.see("greatest queue first: 3\n");
    tmux.press(&["1", "s"]);
    tmux.see("Channels, messages first: 2");
    tmux.press(&["p"]);
    tmux.see("LISTS PAUSED");
    tmux.press(&["p", "?"]);
    tmux.see("Keys; any key closes this");
    tmux.press(&["x"]);
    tmux.wait("the help's end", |screen| !screen.contains("Keys; any") && !screen.contains("PAUSED"));
}

/// Disconnects carol: first answers no, then yes.
fn disconnect_after_confirmation(tmux: &Tmux, carol: &mut Client) {
    tmux.press(&["2", "/", "carol", "Enter"]);
    tmux.see("first: 1 for carol");
    tmux.press(&["d"]);
    let question = tmux.see("y yes, r yes and ask to reconnect, else no");
    assert!(question.contains("Disconnect 1 connection?"), "{question}");
    tmux.press(&["n"]);
    tmux.see("nothing was disconnected");
    carol.settle();
    tmux.press(&["d"]);
    tmux.see("Disconnect 1 connection?");
    tmux.press(&["y"]);
    assert_eq!(carol.closed().0, 4403);
    tmux.wait("the closed one", |screen| screen.contains(" disconnected "));
    tmux.press(&["c"]);
    tmux.see("connections 2 of 255");
}

#[test]
#[ignore = "needs tmux: tests/run includes it"]
fn top_shows_live_figures_and_restores_the_terminal() {
    let mut daemon = Daemon::start("[shutdown]\ndrain = \"1s\"\n");
    let named = |subject: &str, channel: &str| {
        daemon.client_with(&json!({"read": [channel], "write": [channel], "sub": subject}))
    };
    let mut alice = named("alice", "chat");
    let mut bob = named("bob", "chat");
    let mut carol = named("carol", "news");
    let forged = sign_with(&json!({"sub": "forged"}), "another secret, not the server's");
    assert_eq!(status(&daemon.exchange(upgrade(&forged, "Connection: close\r\n"))), 401);

    let tmux = Tmux::start(&daemon);
    // Typed so that only the prompt itself has this text.
    tmux.press(&["PS1='rea''dy> '; clear", "Enter"]);
    tmux.see("ready>");
    let before = tmux.settings();
    tmux.press(&["clear; philotectl top", "Enter"]);
    // Live figures: messages are published while it runs.
    tmux.see("connections 3 of 255");
    let screen = tmux.wait("a rate above nothing", |screen| {
        alice.publish_and_see(&mut bob);
        screen.contains("messages in ") && !screen.contains("messages in 0.0/s")
    });
    println!("{screen}");
    for part in
        ["philote 1.0.0", "serving", "deliveries ", "Channels, rate first: 2", "chat", "news", "alice"]
    {
        assert!(screen.contains(part), "{part} in\n{screen}");
    }
    tmux.see("Closed and refused, newest first: 1");
    tmux.see("(forged)");
    tmux.see("bad_signature");
    // A bar of a chart.
    tmux.wait("a plot", |screen| screen.contains('█'));

    order_filter_and_pause(&tmux);
    disconnect_after_confirmation(&tmux, &mut carol);

    // Each way to quit restores the terminal.
    let given_back = |word: &str, status: i32| {
        tmux.press(&[&format!("echo {word} $?"), "Enter"]);
        // The command line differs from the line that it prints.
        let printed = format!("{word} {status}");
        let shown = tmux.wait(&printed, |screen| screen.lines().any(|line| line == printed));
        assert!(!tmux.taken(), "{shown}");
        assert_eq!(tmux.settings(), before);
    };
    tmux.press(&["q"]);
    tmux.wait("the shell", |_| !tmux.taken());
    given_back("left", 0);
    tmux.press(&["clear; philotectl top", "Enter"]);
    tmux.see("connections 2 of 255");
    assert!(tmux.taken());
    tmux.press(&["C-c"]);
    tmux.wait("the shell", |_| !tmux.taken());
    given_back("interrupted", 0);
    // Stopped and resumed.
    tmux.press(&["clear; philotectl top", "Enter"]);
    tmux.see("connections 2 of 255");
    tmux.press(&["C-z"]);
    tmux.wait("the shell", |_| !tmux.taken());
    tmux.see("ready>");
    tmux.press(&["fg", "Enter"]);
    tmux.see("connections 2 of 255");
    drop((alice, bob));
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    tmux.see("philote is not running: no socket at ");
    given_back("gone", 3);
}

#[test]
#[ignore = "needs tmux: tests/run includes it"]
fn top_ends_by_the_signal_when_its_terminal_is_gone() {
    let daemon = Daemon::start("");
    let tmux = Tmux::start(&daemon);
    let file = tmux.directory.path().join("status");
    let path = file.display();
    // The shell outlives the terminal.
    let line = format!("trap : HUP; philotectl top; echo $? > {path}.new; /bin/mv {path}.new {path}");
    tmux.press(&[&format!("/bin/sh -c '{line}'"), "Enter"]);
    tmux.see("of 255");
    assert!(tmux.command().arg("kill-server").status().unwrap().success());
    let deadline = Instant::now() + PATIENCE;
    while !file.exists() {
        assert!(Instant::now() < deadline, "it runs on without a terminal");
        std::thread::yield_now();
    }
    // 128 and SIGHUP. It was aborted when it could not write to the terminal.
    assert_eq!(std::fs::read_to_string(file).unwrap(), "129\n");
}

#[test]
fn top_needs_a_terminal_and_says_so() {
    let mut daemon = Daemon::start("[shutdown]\ndrain = \"1s\"\n");
    for (line, sentence) in [
        (&[][..], "top needs a terminal for its output and its keys"),
        (&["--json"], "top is interactive and has no JSON output"),
    ] {
        let output = top(&daemon).args(line).stdin(Stdio::null()).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]));
        let hint = "for programs: philotectl status --json --watch 1";
        assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("{sentence}\n{hint}\n"));
    }

    // A size that no screen has.
    let mut screen = OnTerminal::start_with(&mut top(&daemon), u16::MAX);
    screen.see("cannot use this terminal: it claims to have 65535 columns and 24 rows");
    assert_eq!(screen.end(), 1);

    // A terminal without colours, quit with each key that quits; then ended by a signal.
    for key in ["q", "\u{3}"] {
        let mut screen = OnTerminal::start(top(&daemon).env("NO_COLOR", "1"));
        screen.see("of 255");
        screen.press(key);
        let shown = screen.see(GIVEN_BACK);
        assert!(
            shown.contains(TAKEN) && !shown.contains("\x1b[31") && !shown.contains("\x1b[38;5;"),
            "{shown:?}"
        );
        assert_eq!(screen.end(), 0);
    }
    let mut screen = OnTerminal::start(&mut top(&daemon));
    screen.see("of 255");
    screen.signal(Signal::TERM);
    screen.see(GIVEN_BACK);
    assert_eq!(screen.end(), 0);

    // A daemon that ends, and one that does not run; then the alternate screen is not used at all.
    let mut screen = OnTerminal::start(&mut top(&daemon));
    screen.see("of 255");
    daemon.signal(Signal::KILL);
    daemon.wait();
    screen.see(GIVEN_BACK);
    screen.see("philote is not running: nothing listens on ");
    screen.see(&philote::installation::start_it("philote"));
    assert_eq!(screen.end(), 3);
    let mut screen = OnTerminal::start(&mut top(&daemon));
    assert!(!screen.see(&philote::installation::start_it("philote")).contains(TAKEN));
    assert_eq!(screen.end(), 3);
}

impl Client {
    fn publish_and_see(&mut self, reader: &mut Client) {
        self.publish("chat", "hello");
        assert_eq!(reader.data(), "hello");
    }
}
