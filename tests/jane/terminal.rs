//! A program in its own pseudo-terminal: its screen, and the keys that are pressed.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Far longer than any step takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program in a pseudo-terminal.
pub(crate) struct OnTerminal {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    shown: String,
}

impl OnTerminal {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_with(command, 80)
    }

    /// Starts a program on a terminal with this number of columns.
    pub(crate) fn start_with(command: &mut Command, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let terminal = || -> Stdio {
            let fd: OwnedFd =
                File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap().into();
            fd.into()
        };
        command.env("TERM", "xterm").stdin(terminal()).stdout(terminal()).stderr(terminal());
        let child = command.spawn().unwrap();
        // The command still holds its ends of the terminal, which would keep the screen open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let keys = File::from(master);
        let mut reader = keys.try_clone().unwrap();
        let (send, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading ends with an error when no process has the terminal open any more.
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

    /// Waits until `text` is on the screen, and returns everything printed so far.
    pub(crate) fn see(&mut self, text: &str) -> &str {
        while !self.shown.contains(text) {
            match self.screen.recv_timeout(PATIENCE) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no {text:?}: {error}; {:?}", self.shown),
            }
        }
        &self.shown
    }

    /// Waits until there is more on the screen, and returns everything printed so far.
    pub(crate) fn more(&mut self) -> &str {
        let bytes = self.screen.recv_timeout(PATIENCE).unwrap();
        self.shown.push_str(&String::from_utf8_lossy(&bytes));
        &self.shown
    }

    /// Interrupts the program, as Ctrl-C does in its own terminal.
    pub(crate) fn interrupt(mut self) {
        kill_process(Pid::from_child(&self.child), interrupt_signal()).unwrap();
        let _ = self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn end(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for OnTerminal {
    /// A daemon would otherwise outlive the test that started it.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// SIGINT; SIGTERM where the tests were started with SIGINT ignored, as by a shell in the background. The programs inherit
/// that, and a test that interrupts one would wait for ever.
pub(crate) fn interrupt_signal() -> Signal {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    if ignored & 1 << (Signal::INT.as_raw() - 1) == 0 { Signal::INT } else { Signal::TERM }
}
