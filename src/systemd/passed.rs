//! Descriptors passed by systemd or by another program with the same protocol: listening sockets (`philote.socket`), and
//! what the process before has stored ([`Notifier::store`](super::Notifier::store)).

use std::fmt;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::socket_acceptconn;

/// The first passed file descriptor; 0 to 2 are the standard streams.
const FIRST_DESCRIPTOR: usize = 3;
/// The most descriptors that are taken. The number is checked, because memory for all of them is allocated at once.
const MOST: usize = 1024;

/// A listening socket of either kind.
#[derive(Debug)]
pub enum PassedSocket {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

/// What was passed.
#[derive(Debug, Default)]
pub struct Passed {
    /// The listening sockets, in order.
    pub listeners: Vec<PassedListener>,
    /// The descriptor that the process before has stored.
    pub stored: Option<File>,
}

/// A listening socket in non-blocking mode, which is closed on exec.
#[derive(Debug)]
pub struct PassedListener {
    /// The socket.
    pub socket: PassedSocket,
    /// Its name from `LISTEN_FDNAMES` (`FileDescriptorName=`, or the name of the socket unit), or `unknown`.
    pub name: String,
}

/// Why the passed sockets cannot be used.
#[derive(Debug)]
pub enum SystemdError {
    /// `LISTEN_FDS` is larger than [`MOST`].
    TooMany {
        /// How many descriptors it says.
        passed: usize,
    },
    /// `LISTEN_FDNAMES` has more or fewer names than `LISTEN_FDS` says.
    Names {
        /// How many names there are.
        names: usize,
        /// How many sockets were passed.
        sockets: usize,
    },
    /// The descriptor that was stored is not open.
    NotOpen {
        /// Its number.
        descriptor: usize,
        /// Its name.
        name: String,
    },
    /// A descriptor is not a listening TCP or Unix socket.
    NotListening {
        /// Its number.
        descriptor: usize,
        /// Its name.
        name: String,
    },
    /// The socket could not be put into non-blocking mode.
    NonBlocking {
        /// Its number.
        descriptor: usize,
        /// Its name.
        name: String,
        /// The system's error.
        error: io::Error,
    },
}

impl fmt::Display for SystemdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SystemdError::TooMany { passed } => {
                write!(f, "LISTEN_FDS says that {passed} descriptors were passed: the most are {MOST}")
            }
            SystemdError::NotOpen { descriptor, name } => write!(
                f,
                "LISTEN_FDS and LISTEN_FDNAMES say that descriptor {descriptor} ({name:?}) was passed, but it is not open: \
                 start philote without these variables"
            ),
            SystemdError::Names { names, sockets } => write!(
                f,
                "LISTEN_FDNAMES has {names} names, but LISTEN_FDS has {sockets} sockets: give each socket one name"
            ),
            SystemdError::NotListening { descriptor, name } => write!(
                f,
                "the passed descriptor {descriptor} ({name:?}) is not a listening stream socket: use ListenStream= \
                 with a port or a path in its socket unit, without Accept=yes"
            ),
            SystemdError::NonBlocking { descriptor, name, error } => write!(
                f,
                "the passed socket {name:?} (descriptor {descriptor}) cannot be made non-blocking: {error}"
            ),
        }
    }
}

impl std::error::Error for SystemdError {}

/// Takes the descriptors of `LISTEN_FDS`: those with the name `stored_name` as stored, and all others as sockets. Returns
/// none if nothing was passed or `LISTEN_PID` is another process. Without `LISTEN_PID` it takes sockets, as listenfd does for
/// tools that cannot know the process id.
///
/// Call it once, before other threads read the environment, because listenfd removes the variables.
///
/// # Errors
/// There are too many descriptors, one is not open or not a listening stream socket, or the numbers of names and sockets
/// differ.
pub fn passed(stored_name: &str) -> Result<Passed, SystemdError> {
    let is_of_another =
        variable("LISTEN_PID").is_some_and(|process| process != std::process::id().to_string());
    let number = variable("LISTEN_FDS").and_then(|number| number.parse().ok()).unwrap_or(0);
    if number > MOST && !is_of_another {
        return Err(SystemdError::TooMany { passed: number });
    }
    let names = variable("LISTEN_FDNAMES");
    let mut all = Passed { stored: take_stored(stored_name)?, ..Passed::default() };
    let mut passed = ListenFd::from_env();
    let names: Vec<String> = match names {
        Some(names) => names.split(':').map(str::to_owned).collect(),
        None => vec!["unknown".to_owned(); passed.len()],
    };
    if passed.len() > 0 && names.len() != passed.len() {
        return Err(SystemdError::Names { names: names.len(), sockets: passed.len() });
    }
    for (index, name) in names.into_iter().enumerate().take(passed.len()) {
        if all.stored.is_none() || name != stored_name {
            all.listeners.push(take(&mut passed, index, name)?);
        }
    }
    Ok(all)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Takes the last descriptor with this name, and closes others. listenfd takes nothing but sockets.
fn take_stored(stored_name: &str) -> Result<Option<File>, SystemdError> {
    let mut stored = None;
    for (index, (name, descriptor)) in sd_listen_fds::get().unwrap_or_default().into_iter().enumerate() {
        if name.as_deref() != Some(stored_name) {
            // It stays open for listenfd.
            let _ = descriptor.into_raw();
            continue;
        }
        let descriptor = descriptor.into_std();
        if fcntl_setfd(&descriptor, FdFlags::CLOEXEC).is_err() {
            // Closing it would close what some other code opens under this number.
            let _ = descriptor.into_raw_fd();
            return Err(SystemdError::NotOpen {
                descriptor: FIRST_DESCRIPTOR + index,
                name: stored_name.to_owned(),
            });
        }
        stored = Some(File::from(descriptor));
    }
    Ok(stored)
}

fn take(passed: &mut ListenFd, index: usize, name: String) -> Result<PassedListener, SystemdError> {
    let descriptor = FIRST_DESCRIPTOR + index;
    let tcp = passed.take_tcp_listener(index).ok().flatten().map(PassedSocket::Tcp);
    let unix = || passed.take_unix_listener(index).ok().flatten().map(PassedSocket::Unix);
    let Some(socket) = tcp.or_else(unix) else { return Err(SystemdError::NotListening { descriptor, name }) };
    // A connection passed by Accept=yes differs only in this.
    let (listens, made) = match &socket {
        PassedSocket::Tcp(socket) => (socket_acceptconn(socket), socket.set_nonblocking(true)),
        PassedSocket::Unix(socket) => (socket_acceptconn(socket), socket.set_nonblocking(true)),
    };
    if !listens.unwrap_or(false) {
        return Err(SystemdError::NotListening { descriptor, name });
    }
    match made {
        Ok(()) => Ok(PassedListener { socket, name }),
        Err(error) => Err(SystemdError::NonBlocking { descriptor, name, error }),
    }
}
