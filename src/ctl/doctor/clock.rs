//! Checks whether a time service keeps the clock right. Tokens expire by it.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::admin::api::{Finding, Findings};

/// How long systemd may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks systemd, which reports what the kernel knows, whichever program sets the clock.
pub(super) fn clock(mut findings: Findings) -> Vec<Finding> {
    match synchronized() {
        Some(true) => findings.or_ok("the clock is synchronized"),
        Some(false) => {
            findings.warn(
                "the clock is not synchronized, so tokens may be refused or live too long",
                "run: sudo timedatectl set-ntp true",
            );
            findings.or_ok("")
        }
        None => findings.or_ok("unknown: timedatectl does not tell"),
    }
}

/// Returns `None` where systemd does not run, or does not answer in time.
fn synchronized() -> Option<bool> {
    let mut command = Command::new("timedatectl");
    command.args(["show", "--property=NTPSynchronized", "--value"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let mut stdout = child.stdout.take()?;
    let (sender, answer) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let _ = stdout.read_to_string(&mut text);
        let _ = sender.send(text);
    });
    let text = answer.recv_timeout(PATIENCE);
    // It has ended, or takes too long.
    let _ = child.kill();
    let _ = child.wait();
    match text.ok()?.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}
