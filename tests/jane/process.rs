//! jane as a process, with pipes or a pseudo-terminal at its ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Far longer than anything takes: a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running jane. Its lines are read as they come.
pub(crate) struct Jane {
    child: Child,
    pub(crate) stdin: Option<Box<dyn Write>>,
    out: Receiver<String>,
    err: Receiver<String>,
}

/// jane with the words of `line`, in an environment of its own.
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

    /// The next line of standard output.
    pub(crate) fn out(&self) -> String {
        self.out.recv_timeout(PATIENCE).unwrap()
    }

    /// The next line of standard error.
    pub(crate) fn err(&self) -> String {
        self.err.recv_timeout(PATIENCE).unwrap()
    }

    /// Waits for its end: exit status, the rest of standard output and of standard error.
    pub(crate) fn end(mut self) -> (i32, Vec<String>, Vec<String>) {
        drop(self.stdin.take());
        let rest = |lines: Receiver<String>| {
            let mut all = Vec::new();
            loop {
                match lines.recv_timeout(PATIENCE) {
                    Ok(line) => all.push(line),
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return all,
                    Err(error) => panic!("it does not end: {error}; {all:?}"),
                }
            }
        };
        let (out, err) = (rest(self.out), rest(self.err));
        (self.child.wait().unwrap().code().unwrap(), out, err)
    }

    /// Interrupts it, as Ctrl-C does.
    pub(crate) fn interrupt(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
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

/// A jane in a pseudo-terminal of its own.
pub(crate) struct OnTerminal {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    shown: String,
}

impl OnTerminal {
    pub(crate) fn start(command: &mut Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let terminal = || -> Stdio {
            let fd: OwnedFd =
                File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap().into();
            fd.into()
        };
        command.env("TERM", "xterm").stdin(terminal()).stdout(terminal()).stderr(terminal());
        let child = command.spawn().unwrap();
        // The command still holds its ends of the terminal, which would keep the screen from ending.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let keys = File::from(master);
        let mut reader = keys.try_clone().unwrap();
        let (send, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading ends with an error when nobody has the terminal open any more.
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keys, screen, shown: String::new() }
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` is on the screen, and returns all that has been.
    pub(crate) fn see(&mut self, text: &str) -> &str {
        while !self.shown.contains(text) {
            match self.screen.recv_timeout(PATIENCE) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no {text:?}: {error}; {:?}", self.shown),
            }
        }
        &self.shown
    }

    pub(crate) fn end(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }
}
