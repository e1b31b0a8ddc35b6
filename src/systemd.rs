//! Notifications to systemd, what it stores for the next process, and the descriptors that it passes.
//!
//! The crate sd-notify formats the messages. It could also send them, but only on a blocking socket, so that a stopped
//! service manager would stop the daemon. This module sends them without blocking.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt::Write;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr};
use sd_notify::NotifyState;

mod passed;
#[cfg(test)]
mod tests;

pub use passed::{Passed, PassedListener, PassedSocket, SystemdError, passed};

/// The longest status text, in bytes. systemd discards datagrams of more than 4,096 bytes.
pub const MAX_STATUS_BYTES: usize = 1024;

/// The most required messages that wait while the manager's socket is full: a reload needs two, a stop needs one.
const MAX_WAITING: usize = 8;

/// How long [`Notifier::store`] tries while the manager's socket is full.
const STORE_PATIENCE: Duration = Duration::from_secs(1);

/// A connection to the service manager. Calls never block, and do nothing if there is no manager or it is dead.
/// Messages that found its socket full are sent by a later call, such as the next periodic status.
#[derive(Debug)]
pub struct Notifier {
    manager: Option<Mutex<Manager>>,
    watchdog: Option<Duration>,
}

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// Required messages that found the socket full.
    waiting: VecDeque<String>,
    /// Whether a failure has been logged.
    failed: bool,
}

impl Notifier {
    /// Uses the manager in `NOTIFY_SOCKET`, and the watchdog in `WATCHDOG_USEC` if `WATCHDOG_PID` is this process.
    pub fn from_environment() -> Notifier {
        let path = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty());
        Notifier::new(path.as_deref(), sd_notify::watchdog_enabled())
    }

    /// Uses the manager at this path (or abstract name, with `@` in front), which expects a notification within
    /// `watchdog`.
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

    /// Reports that the daemon is ready: after the start, and after each reload whether or not it succeeded.
    pub fn ready(&self) {
        self.send(&[NotifyState::Ready], true);
    }

    /// Sets the text of `systemctl status`. Control characters become spaces, and text over [`MAX_STATUS_BYTES`] is
    /// cut.
    pub fn status(&self, text: &str) {
        let end = text.floor_char_boundary(MAX_STATUS_BYTES);
        let line = text[..end].replace(char::is_control, " ");
        self.send(&[NotifyState::Status(&line)], false);
    }

    /// Reports that a reload has begun; [`ready`](Self::ready) ends it.
    pub fn reloading(&self) {
        // systemd needs both in one datagram. The time distinguishes this reload from an older READY.
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now());
        self.send(&states, true);
    }

    /// Reports that the daemon has begun to stop.
    pub fn stopping(&self) {
        self.send(&[NotifyState::Stopping], true);
    }

    /// Extends the time limit of a start, reload or stop to `duration` from now, at most 71 minutes (2^32 µs).
    pub fn extend_timeout(&self, duration: Duration) {
        let microseconds = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::ExtendTimeoutUsec(microseconds)], false);
    }

    /// Returns how often to feed the watchdog: twice in the time after which systemd kills the daemon. `None` without a
    /// watchdog.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// Reports that the daemon is alive. Call it only after checking that.
    pub fn feed_watchdog(&self) {
        self.send(&[NotifyState::Watchdog], false);
    }

    /// Returns whether there is a manager.
    pub fn has_manager(&self) -> bool {
        self.manager.is_some()
    }

    /// Stores a descriptor in the manager, which passes it to the next process of this service under this name. Unlike the
    /// other calls it waits up to [`STORE_PATIENCE`], because nothing would send it later.
    ///
    /// # Errors
    /// There is no manager, or it does not take the message in time.
    pub fn store(&self, name: &str, descriptor: &impl AsFd) -> io::Result<()> {
        let manager = self.manager.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let message = format!("FDSTORE=1\nFDNAME={name}\n");
        let began = Instant::now();
        loop {
            let manager = manager.lock().unwrap_or_else(PoisonError::into_inner);
            match manager.try_send_with(&message, descriptor.as_fd()) {
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && began.elapsed() < STORE_PATIENCE => {}
                result => return result.map_err(|error| manager.cannot_be_told(&error)),
            }
            drop(manager);
            std::thread::sleep(STORE_PATIENCE / 100);
        }
    }

    /// Removes what was stored under this name from the manager.
    pub fn remove_stored(&self, name: &str) {
        if let Some(manager) = &self.manager {
            let message = format!("FDSTOREREMOVE=1\nFDNAME={name}\n");
            manager.lock().unwrap_or_else(PoisonError::into_inner).send(message, true);
        }
    }

    /// Sends a message. If `must_arrive`, because the manager waits for it, it is kept while the socket is full and
    /// sent first later. The daemon repeats the other messages anyway.
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
        // The order of messages must not change, so waiting messages go first.
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

    fn try_send_with(&self, message: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let address = match (self.address.as_pathname(), self.address.as_abstract_name()) {
            (Some(path), _) => SocketAddrUnix::new(path)?,
            (_, Some(name)) => SocketAddrUnix::new_abstract_name(name)?,
            _ => return Err(io::ErrorKind::NotConnected.into()),
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let descriptor = [descriptor];
        let mut descriptors = SendAncillaryBuffer::new(&mut space);
        descriptors.push(SendAncillaryMessage::ScmRights(&descriptor));
        let message = [IoSlice::new(message.as_bytes())];
        sendmsg_addr(&self.socket, &address, &message, &mut descriptors, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Adds the address to an error, for messages that say nothing else about the manager.
    fn cannot_be_told(&self, error: &io::Error) -> io::Error {
        io::Error::new(
            error.kind(),
            format!("cannot notify the service manager at {:?}: {error}", self.address),
        )
    }

    fn try_send(&self, message: &str) -> io::Result<()> {
        self.socket.send_to_addr(message.as_bytes(), &self.address).map(|_| ())
    }
}

fn log_failure(address: &dyn std::fmt::Display, error: &io::Error) {
    tracing::debug!("cannot notify the service manager at {address}: {error}");
}
