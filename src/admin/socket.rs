//! The socket files, for administrators and for observers. Only one daemon at a time has it, and it has its final mode before any client can connect.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Type};

use crate::unix_socket::{self, Found};

/// The most clients that wait in the kernel while the server has as many as it accepts.
const BACKLOG: i32 = 128;
/// Linux allows 107 bytes, and the socket's temporary name is four bytes longer than its final one.
pub(super) const LONGEST_PATH: usize = 103;

/// What the clients of a socket may do; the greater includes the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read what monitoring needs: no tokens, no secrets, no messages, and no change.
    Observe,
    /// Everything.
    Administer,
}

impl Access {
    /// Returns the name of the socket in sentences.
    fn socket(self) -> &'static str {
        match self {
            Self::Observe => "observe socket",
            Self::Administer => "admin socket",
        }
    }

    /// Returns how to choose another path.
    fn choose(self) -> &'static str {
        match self {
            Self::Observe => "observe_socket under [admin]",
            Self::Administer => "PHILOTE_ADMIN_SOCKET=/path/to.sock, or socket under [admin]",
        }
    }
}

/// Why a socket could not be created.
#[derive(Debug)]
pub struct BindError {
    /// Which of the sockets.
    pub access: Access,
    /// What is wrong.
    pub kind: BindErrorKind,
}

/// What is wrong with a socket that could not be created.
#[derive(Debug)]
pub enum BindErrorKind {
    /// Another daemon listens on it.
    Live {
        /// The socket.
        path: PathBuf,
    },
    /// The path is a file of another kind, which the daemon does not delete.
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The path is longer than Unix allows for a socket.
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    Io {
        /// What failed, to complete "cannot ... PATH".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (socket, choose) = (self.access.socket(), self.access.choose());
        match &self.kind {
            BindErrorKind::Live { path } => {
                write!(
                    f,
                    "another philote listens on the {socket} {}; choose another: {choose}",
                    path.display()
                )
            }
            BindErrorKind::NotASocket { path } => {
                let path = path.display();
                write!(f, "{path} exists and is not a socket; remove it, or choose another: {choose}")
            }
            BindErrorKind::TooLong { path } => write!(
                f,
                "the path of the {socket} has {} bytes, more than {LONGEST_PATH}: {}; choose another: {choose}",
                path.as_os_str().len(),
                path.display()
            ),
            BindErrorKind::Io { doing, path, source } => {
                write!(
                    f,
                    "cannot {doing} {} for the {socket}: {source}; choose a directory that this user may write to: \
                     {choose}",
                    path.display()
                )?;
                match self.access {
                    Access::Administer => {
                        f.write_str("; or run without philotectl: PHILOTE_ADMIN_SOCKET=none")
                    }
                    Access::Observe => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            BindErrorKind::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A listening socket for administrators or observers. Dropping it removes the file, unless another daemon has replaced it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    access: Access,
    identity: (u64, u64),
    _lock: Lock,
}

/// The lock that a daemon holds together with the socket, so that only one daemon at a time uses the path. The kernel
/// releases it when the process ends, for any reason.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed before it is released: a process that has opened it sees that the path has changed, and tries again.
        let _ = fs::remove_file(&self.path);
    }
}

impl Socket {
    /// Creates the socket at `path` with the permission bits `mode` and listens on it. The file has the process's
    /// group, or that of a directory with the set-group-ID bit. A socket that a killed daemon left behind is replaced.
    ///
    /// # Errors
    /// [`BindError`]. The socket of another daemon stays as it is.
    pub fn bind(path: &Path, mode: u32, access: Access) -> Result<Self, BindError> {
        Self::bind_it(path, mode, access).map_err(|kind| BindError { access, kind })
    }

    fn bind_it(path: &Path, mode: u32, access: Access) -> Result<Self, BindErrorKind> {
        if path.as_os_str().as_bytes().len() > LONGEST_PATH {
            return Err(BindErrorKind::TooLong { path: path.to_owned() });
        }
        let lock = take_lock(path)?;
        check_unused(path)?;

        // The mode is set before listen(), because clients can connect from then on. The final name comes last, so that
        // a process that sees the file can connect.
        let private = with_suffix(path, ".new");
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| BindErrorKind::Io { doing, path, source }
        };
        match fs::remove_file(&private) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &private)(error));
            }
            _ => {}
        }
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)
            .map_err(failed("make the socket", path))?;
        let address = SockAddr::unix(&private).map_err(failed("make the socket", path))?;
        socket.bind(&address).map_err(failed("make the socket", &private))?;
        fs::set_permissions(&private, Permissions::from_mode(mode))
            .map_err(failed("set the mode of", &private))?;
        socket.listen(BACKLOG).map_err(failed("listen on", path))?;
        socket.set_nonblocking(true).map_err(failed("listen on", path))?;
        let identity = fs::metadata(&private).map(|m| identity(&m)).map_err(failed("look at", &private))?;
        fs::rename(&private, path).map_err(failed("make the socket", path))?;
        Ok(Self { listener: socket.into(), path: path.to_owned(), access, identity, _lock: lock })
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what its clients may do.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Returns a non-blocking listener for the server.
    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| identity(&m) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Creates and locks the lock file beside `path`.
fn take_lock(path: &Path) -> Result<Lock, BindErrorKind> {
    let lock = with_suffix(path, ".lock");
    let failed = |source| BindErrorKind::Io { doing: "lock", path: lock.clone(), source };
    loop {
        // Only the daemon's own user may open it: another user who locked it would keep the daemon from starting.
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            // Opening a named pipe fails instead of waiting for a reader.
            .custom_flags(i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default())
            .open(&lock)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(BindErrorKind::Live { path: path.to_owned() }),
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let held = file.metadata().map_err(failed)?;
        if fs::metadata(&lock).is_ok_and(|there| identity(&there) == identity(&held)) {
            return Ok(Lock { path: lock, _file: file });
        }
    }
}

/// Fails unless `path` is free or a socket without a listening process.
fn check_unused(path: &Path) -> Result<(), BindErrorKind> {
    let path = path.to_owned();
    match unix_socket::look(&path) {
        Ok(Found::Nothing | Found::Abandoned) => Ok(()),
        Ok(Found::Live) => Err(BindErrorKind::Live { path }),
        Ok(Found::NoSocket) => Err(BindErrorKind::NotASocket { path }),
        Err(source) => Err(BindErrorKind::Io { doing: "look at", path, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn bind(path: &Path, mode: u32) -> Result<Socket, BindError> {
        Socket::bind(path, mode, Access::Administer)
    }

    #[test]
    fn a_socket_has_its_mode_under_any_umask_and_removes_its_files() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("admin.sock");
        for mode in [0o660, 0o600, 0o666] {
            let socket = bind(&path, mode).unwrap();
            let found = fs::metadata(&path).unwrap();
            assert_eq!(found.mode() & 0o7777, mode);
            assert_eq!(found.gid(), rustix::process::getegid().as_raw());
            UnixStream::connect(&path).unwrap();
            drop(socket);
            assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn fault_68_a_socket_left_by_a_killed_daemon_is_replaced_and_a_live_one_is_not() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("admin.sock");
        // kill -9 leaves the socket, its lock file, and perhaps the temporary name.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        fs::write(with_suffix(&path, ".lock"), "").unwrap();
        fs::write(with_suffix(&path, ".new"), "").unwrap();
        let first = bind(&path, 0o660).unwrap();
        let error = bind(&path, 0o660).unwrap_err();
        assert!(matches!(error.kind, BindErrorKind::Live { .. }));
        assert_eq!(
            error.to_string(),
            format!(
                "another philote listens on the admin socket {}; choose another: \
                 PHILOTE_ADMIN_SOCKET=/path/to.sock, or socket under [admin]",
                path.display()
            )
        );
        UnixStream::connect(&path).unwrap();
        drop(first);
        bind(&path, 0o660).unwrap();
    }

    #[test]
    fn a_socket_of_another_program_and_a_regular_file_are_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("admin.sock");
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(bind(&path, 0o660).unwrap_err().kind, BindErrorKind::Live { .. }));
        drop(other);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path, 0o660).unwrap_err().kind, BindErrorKind::NotASocket { .. }));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let long = scratch.path().join("x".repeat(100));
        assert!(matches!(bind(&long, 0o660).unwrap_err().kind, BindErrorKind::TooLong { .. }));
    }

    #[test]
    fn only_one_of_several_daemons_started_at_once_binds() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let go = std::sync::Barrier::new(8);
        let taken = std::thread::scope(|scope| {
            let start = || {
                go.wait();
                bind(&path, 0o660)
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(taken.iter().filter(|result| result.is_ok()).count(), 1);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn dropping_a_replaced_socket_keeps_its_successor() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("admin.sock");
        let old = bind(&path, 0o660).unwrap();
        fs::remove_file(&path).unwrap();
        let new = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(old);
        UnixStream::connect(&path).unwrap();
        drop(new);
    }
}
