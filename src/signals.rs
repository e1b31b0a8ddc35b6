//! Receives SIGHUP, SIGTERM and SIGINT.
//!
//! The first SIGTERM or SIGINT asks the daemon to stop. The second ends the process at once with status 143 or 130, which
//! is 128 plus the number of the signal, as in a shell.

use std::ffi::c_int;
use std::fmt;
use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

/// Signals that may wait for the daemon: one reload and one stop. Further signals would not change anything.
pub const PENDING_SIGNALS: usize = 2;

/// A signal that the daemon received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: reload.
    Hangup,
    /// SIGTERM: stop.
    Terminate,
    /// SIGINT: stop.
    Interrupt,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Hangup => "SIGHUP",
            Signal::Terminate => "SIGTERM",
            Signal::Interrupt => "SIGINT",
        })
    }
}

/// The daemon cannot receive signals. It should not start, because it could not be stopped gracefully.
#[derive(Debug)]
pub struct SignalError(io::Error);

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot receive SIGHUP, SIGTERM and SIGINT: {}", self.0)
    }
}

impl std::error::Error for SignalError {}

/// Starts to receive signals, on a separate thread. Call it once, before anything else. Signals wait in the receiver.
/// Several SIGHUPs become one while it waits, so a SIGHUP during a reload causes one more reload. No SIGHUP follows a stop.
///
/// # Errors
/// The system has no socket pair or no thread left.
pub fn listen() -> Result<mpsc::Receiver<Signal>, SignalError> {
    let mut signals = Signals::new([SIGHUP, SIGTERM, SIGINT]).map_err(SignalError)?;
    let (sender, receiver) = mpsc::channel(PENDING_SIGNALS);
    let forward_all = move || {
        let end = |signal| signal_hook::low_level::exit(128 + signal);
        forward(signals.forever(), &sender, end);
    };
    std::thread::Builder::new().name("philote-signals".to_owned()).spawn(forward_all).map_err(SignalError)?;
    Ok(receiver)
}

fn forward(signals: impl Iterator<Item = c_int>, sender: &mpsc::Sender<Signal>, end: impl Fn(c_int)) {
    let mut stopping = false;
    for number in signals {
        let signal = match number {
            SIGHUP => Signal::Hangup,
            SIGTERM => Signal::Terminate,
            _ => Signal::Interrupt,
        };
        if signal == Signal::Hangup {
            // A SIGHUP that waits covers this one, and after a stop there is nothing to reload.
            if stopping || sender.capacity() < PENDING_SIGNALS {
                continue;
            }
        } else if std::mem::replace(&mut stopping, true) {
            end(number);
        }
        // The channel has room, because at most one reload waits and only one stop is sent.
        let _ = sender.try_send(signal);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, Stdio};

    use rustix::process::{Pid, Signal as Number, kill_process};

    use super::*;
    use crate::testing;

    #[test]
    fn hangups_become_one_and_a_second_stop_ends_the_process() {
        let (sender, mut receiver) = mpsc::channel(PENDING_SIGNALS);
        let mut received = || std::iter::from_fn(|| receiver.try_recv().ok()).collect::<Vec<_>>();
        let ended = RefCell::new(Vec::new());
        let end = |number| ended.borrow_mut().push(number);

        forward([SIGHUP; 100].into_iter(), &sender, end);
        assert_eq!(received(), [Signal::Hangup]);
        forward([SIGHUP, SIGHUP, SIGTERM, SIGHUP].into_iter(), &sender, end);
        assert_eq!(
            received(),
            [Signal::Hangup, Signal::Terminate],
            "a reload that waits leaves room for the stop"
        );
        assert!(ended.borrow().is_empty());
        forward([SIGHUP, SIGINT, SIGHUP, SIGHUP, SIGTERM].into_iter(), &sender, end);
        assert_eq!(*ended.borrow(), [SIGTERM]);
    }

    /// A process that receives signals, and prints them once it reads a line. It ends with the test.
    struct Listener {
        child: Child,
        says: Box<dyn Iterator<Item = String>>,
    }

    impl Listener {
        fn start() -> Listener {
            let mut command = testing::child("signals::tests::child_that_listens");
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let output = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let mut says = output.filter_map(|line| Some(line.split_once("says ")?.1.to_owned()));
            assert_eq!(says.next().unwrap(), "listening");
            Listener { child, says: Box::new(says) }
        }

        fn send(&self, signal: Number) {
            kill_process(Pid::from_child(&self.child), signal).unwrap();
        }

        fn ask(&mut self) -> String {
            self.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
            self.says.next().unwrap()
        }
    }

    impl Drop for Listener {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn a_signal_before_the_first_receive_is_kept() {
        // One signal at a time, because the kernel may deliver two to different threads in either order.
        for (signal, name) in [(Number::HUP, "SIGHUP"), (Number::TERM, "SIGTERM"), (Number::INT, "SIGINT")] {
            let mut listener = Listener::start();
            listener.send(signal);
            assert_eq!(listener.ask(), name);
        }
    }

    #[test]
    fn a_second_stop_ends_the_process_with_the_status_of_its_signal() {
        for (second, status) in [(Number::TERM, 143), (Number::INT, 130)] {
            let mut listener = Listener::start();
            listener.send(Number::TERM);
            assert_eq!(listener.ask(), "SIGTERM");
            listener.send(second);
            assert_eq!(listener.child.wait().unwrap().code(), Some(status));
        }
    }

    #[test]
    fn child_that_listens() {
        if !testing::is_child() {
            return;
        }
        let mut receiver = listen().unwrap();
        println!("says listening");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        while let Some(signal) = receiver.blocking_recv() {
            println!("says {signal}");
        }
    }
}
