//! philotectl as a process.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::daemon::Daemon;
use crate::output;

/// An unprivileged user that exists everywhere.
pub(crate) const NOBODY: u32 = 65534;

/// philotectl with the arguments in `line`, the socket at `path` and its own environment.
pub(crate) fn philotectl(path: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_philotectl"));
    command.args(line.split_whitespace()).env_clear().env("PHILOTE_ADMIN_SOCKET", path);
    command
}

impl Daemon {
    /// Runs philotectl with the arguments in `line` against this daemon.
    pub(crate) fn ctl(&self, line: &str) -> Ended {
        run(philotectl(&self.path, line), b"")
    }
}

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.err, "", "--json must not write to standard error");
        serde_json::from_str(&self.out).unwrap()
    }
}

pub(crate) fn run(mut command: Command, stdin: &[u8]) -> Ended {
    let line: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may exit without reading its input.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let ended = Ended {
        code: status.code().unwrap_or(-1),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    };
    output::keep(&ended.err);
    // A command line for a shell is a single argument.
    if !output::may_print_secrets(line.iter().flat_map(|word| word.split_whitespace())) {
        output::keep(&ended.out);
    }
    ended
}

/// Runs philotectl as another user, from a copy that this user can reach. Only root can switch the user.
pub(crate) fn as_nobody(daemon: &Daemon, line: &str) -> Ended {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    let scratch = tempfile::tempdir().unwrap();
    std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = scratch.path().join("philotectl");
    // cp writes the copy, not this process. Otherwise a test that starts another program at this moment would keep the
    // copy open for writing, and such a file cannot be executed.
    assert!(
        Command::new("cp").arg(env!("CARGO_BIN_EXE_philotectl")).arg(&program).status().unwrap().success()
    );
    let mut command = Command::new(program);
    command.args(line.split_whitespace()).env_clear().env("PHILOTE_ADMIN_SOCKET", &daemon.path);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    run(command, b"secret")
}
