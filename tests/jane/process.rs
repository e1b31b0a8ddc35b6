//! jane as a process, with pipes as its standard streams.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Far longer than any step takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running jane, whose output is read line by line.
pub(crate) struct Jane {
    child: Child,
    pub(crate) stdin: Option<Box<dyn Write>>,
    out: Receiver<String>,
    err: Receiver<String>,
}

/// jane with the arguments in `line` and its own environment.
pub(crate) fn command(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jane"));
    command.args(line.split_whitespace()).env_clear().env("USER", "grace");
    command
}

impl Jane {
    pub(crate) fn start(line: &str) -> Self {
        Self::spawn(command(line).stdin(Stdio::piped()))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().map(|stdin| Box::new(stdin) as Box<dyn Write>);
        let out = lines(child.stdout.take().unwrap());
        let err = lines(child.stderr.take().unwrap());
        Self { child, stdin, out, err }
    }

    pub(crate) fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// The most memory that it had so far, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The next line of standard output.
    pub(crate) fn out(&self) -> String {
        self.out.recv_timeout(PATIENCE).unwrap()
    }

    /// The next line of standard error.
    pub(crate) fn err(&self) -> String {
        self.err.recv_timeout(PATIENCE).unwrap()
    }

    /// Waits for its end, and returns the exit status and the rest of standard output and standard error.
    pub(crate) fn end(mut self) -> (i32, Vec<String>, Vec<String>) {
        drop(self.stdin.take());
        let rest = |lines: Receiver<String>| {
            let mut all = Vec::new();
            loop {
                match lines.recv_timeout(PATIENCE) {
                    Ok(line) => all.push(line),
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return all,
                    Err(error) => panic!("jane does not exit: {error}; {all:?}"),
                }
            }
        };
        let (out, err) = (rest(self.out), rest(self.err));
        (self.child.wait().unwrap().code().unwrap(), out, err)
    }

    /// Interrupts jane, as Ctrl-C does.
    pub(crate) fn interrupt(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, crate::terminal::interrupt_signal()).unwrap();
        self.child.wait().unwrap();
    }
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            if send.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    receive
}
