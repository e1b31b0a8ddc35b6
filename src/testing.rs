//! Runs a test in a process of its own, for what belongs to a whole process: signals, environment, panic hook, root directory.

use std::process::Command;

const CHILD: &str = "PHILOTE_TEST_CHILD";

/// The command that runs the one test of this path (`log::tests::child`), and shows what it prints.
pub(crate) fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    command
}

/// Whether this process was started by [`child`]; a test that is meant for one does nothing otherwise.
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}
