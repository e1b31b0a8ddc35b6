//! What the daemon tells systemd, and the sockets that systemd passes to it.
//!
//! The crate sd-notify forms the messages; it also sends them, but only on a blocking socket, so that a stopped service
//! manager would stop the daemon. Here they are sent without waiting.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;

mod passed;
#[cfg(test)]
mod tests;

pub use passed::{PassedListener, PassedSocket, SystemdError, passed_listeners};

/// The longest status text that is sent, in bytes: systemd throws away datagrams of more than 4,096.
pub const MAX_STATUS_BYTES: usize = 1024;

/// How many messages that must arrive wait for a manager that takes none: a reload is two of them, a stop is one.
const MAX_WAITING: usize = 8;

/// The way to the service manager. Without one, and when it is dead, all calls do nothing; no call ever waits. What it
/// was too busy for goes out with a later call, so a daemon that sends its status now and then loses no state.
#[derive(Debug)]
pub struct Notifier {
    manager: Option<Mutex<Manager>>,
    watchdog: Option<Duration>,
}

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// What must arrive and found the socket full.
    waiting: VecDeque<String>,
    /// A failure has been logged.
    failed: bool,
}

impl Notifier {
    /// The manager that `NOTIFY_SOCKET` names, and the watchdog of `WATCHDOG_USEC` if `WATCHDOG_PID` means this process.
    pub fn from_environment() -> Notifier {
        let path = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty());
        Notifier::new(path.as_deref(), sd_notify::watchdog_enabled())
    }

    /// A manager at this path (or abstract name, with `@` in front), which expects a sign of life within `watchdog`.
    pub fn new(path: Option<&OsStr>, watchdog: Option<Duration>) -> Notifier {
        let manager = path.and_then(|path| {
            let opened = Manager::open(path);
            opened.inspect_err(|error| log_failure(&path.display(), error)).ok()
        });
        Notifier {
            manager: manager.map(Mutex::new),
            watchdog: watchdog.filter(|watchdog| !watchdog.is_zero()),
        }
    }

    /// The daemon serves: after the start, and after each reload whether it succeeded or not.
    pub fn ready(&self) {
        self.send(&[NotifyState::Ready], true);
    }

    /// What `systemctl status` shows. Line ends become blanks, what is over [`MAX_STATUS_BYTES`] is cut.
    pub fn status(&self, text: &str) {
        let end = text.floor_char_boundary(MAX_STATUS_BYTES);
        let line = text[..end].replace(char::is_control, " ");
        self.send(&[NotifyState::Status(&line)], false);
    }

    /// A reload has begun; [`ready`](Self::ready) ends it.
    pub fn reloading(&self) {
        // systemd wants both in one datagram: by the time it tells this reload from an older READY.
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now());
        self.send(&states, true);
    }

    /// The daemon has begun to stop.
    pub fn stopping(&self) {
        self.send(&[NotifyState::Stopping], true);
    }

    /// Start, reload or stop may go on for this long from now; at most an hour and eleven minutes (2^32 µs).
    pub fn extend_timeout(&self, duration: Duration) {
        let microseconds = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::ExtendTimeoutUsec(microseconds)], false);
    }

    /// How often the watchdog is to be fed: twice in the time after which systemd ends the daemon. None when systemd
    /// watches nothing.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// The daemon is alive. To be called only upon proof.
    pub fn feed_watchdog(&self) {
        self.send(&[NotifyState::Watchdog], false);
    }

    /// `must_arrive`: what the manager waits for is kept while its socket is full, and sent before all else as soon as
    /// there is room; the rest is repeated by the daemon anyhow.
    fn send(&self, states: &[NotifyState<'_>], must_arrive: bool) {
        let Some(manager) = &self.manager else { return };
        let mut message = String::new();
        for state in states {
            // Writing to a String cannot fail.
            let _ = writeln!(message, "{state}");
        }
        manager.lock().unwrap_or_else(PoisonError::into_inner).send(message, must_arrive);
    }
}

impl Manager {
    fn open(path: &OsStr) -> io::Result<Manager> {
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Manager { socket, address, waiting: VecDeque::new(), failed: false })
    }

    fn send(&mut self, message: String, must_arrive: bool) {
        // The order of messages must not change, so what waits goes first.
        let messages = std::mem::take(&mut self.waiting).into_iter().map(|message| (message, true));
        for (message, must_arrive) in messages.chain([(message, must_arrive)]) {
            let full = !self.waiting.is_empty();
            let sent = if full { Err(io::ErrorKind::WouldBlock.into()) } else { self.try_send(&message) };
            match sent {
                Ok(()) => self.failed = false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if must_arrive && self.waiting.len() < MAX_WAITING {
                        self.waiting.push_back(message);
                    }
                }
                Err(error) if !self.failed => {
                    self.failed = true;
                    log_failure(&format_args!("{:?}", self.address), &error);
                }
                Err(_) => {}
            }
        }
    }

    fn try_send(&self, message: &str) -> io::Result<()> {
        self.socket.send_to_addr(message.as_bytes(), &self.address).map(|_| ())
    }
}

fn log_failure(address: &dyn std::fmt::Display, error: &io::Error) {
    tracing::debug!("cannot tell the service manager at {address} of the daemon's state: {error}");
}
