//! The socket file: taken by one daemon at a time, with its final mode before anybody can reach it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Type};

/// Clients that the kernel keeps waiting while the server is at its bound.
const BACKLOG: i32 = 128;
/// Linux takes 107 bytes, and the name under which the socket is made is four longer than its own.
const LONGEST_PATH: usize = 103;

/// Why the admin socket could not be taken.
#[derive(Debug)]
pub enum BindError {
    /// Another daemon serves it.
    Live {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket stands there, and is not ours to delete.
    NotASocket {
        /// What stands there.
        path: PathBuf,
    },
    /// Unix socket paths are short.
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    Io {
        /// What was tried, as in "cannot ... PATH".
        doing: &'static str,
        /// The file it was tried with.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAME_ANOTHER: &str =
            "name another for this one: PHILOTE_ADMIN_SOCKET=/path/to.sock, or socket under [admin]";
        const DO_WITHOUT: &str = "or do without philotectl: PHILOTE_ADMIN_SOCKET=none";
        match self {
            Self::Live { path } => {
                write!(f, "another philote serves the admin socket {}; {NAME_ANOTHER}", path.display())
            }
            Self::NotASocket { path } => {
                write!(f, "{} is there and is no socket; remove it, or {NAME_ANOTHER}", path.display())
            }
            Self::TooLong { path } => write!(
                f,
                "the path of the admin socket has {} bytes, {LONGEST_PATH} are allowed: {}; {NAME_ANOTHER}",
                path.as_os_str().len(),
                path.display()
            ),
            Self::Io { doing, path, source } => {
                write!(
                    f,
                    "the admin socket: cannot {doing} {}: {source}; choose a directory that this user may write to: \
                     PHILOTE_ADMIN_SOCKET=/path/to.sock, or socket under [admin]; {DO_WITHOUT}",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The admin socket, listening. Dropping it removes the file, if it is still this one.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
    _lock: Lock,
}

/// Held as long as the socket, so that of two daemons only one can believe that it has the path. The kernel lets
/// it go when its holder dies, however it dies.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before it is let go: whoever opened it meanwhile sees that it is no longer there and tries again.
        let _ = fs::remove_file(&self.path);
    }
}

impl Socket {
    /// Takes `path` and listens there with the permission bits `mode`; the file's group is the process's own.
    /// A socket that a killed daemon left is replaced.
    ///
    /// # Errors
    /// [`BindError`]; another daemon's socket is left as it is.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, BindError> {
        if path.as_os_str().as_bytes().len() > LONGEST_PATH {
            return Err(BindError::TooLong { path: path.to_owned() });
        }
        let lock = take_lock(path)?;
        refuse_what_is_not_ours(path)?;

        // Clients can connect from listen() on, so that the mode must be there before; and the name appears
        // last, so that whoever sees the file can use it.
        let private = with_suffix(path, ".new");
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| BindError::Io { doing, path, source }
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
        Ok(Self { listener: socket.into(), path: path.to_owned(), identity, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listening end, non-blocking, for the server.
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

/// Takes the lock beside `path`.
fn take_lock(path: &Path) -> Result<Lock, BindError> {
    let lock = with_suffix(path, ".lock");
    let failed = |source| BindError::Io { doing: "lock", path: lock.clone(), source };
    loop {
        // Only the daemon's own user may open it: a stranger who locks it would keep the daemon from starting.
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            // In place of a named pipe's wait for a reader there is an error.
            .custom_flags(i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default())
            .open(&lock)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(BindError::Live { path: path.to_owned() }),
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let held = file.metadata().map_err(failed)?;
        if fs::metadata(&lock).is_ok_and(|there| identity(&there) == identity(&held)) {
            return Ok(Lock { path: lock, _file: file });
        }
    }
}

/// Whether `path` is free, or a socket that nobody answers on.
fn refuse_what_is_not_ours(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Io { doing: "look at", path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let probe = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    // Without waiting: a full backlog is a sign of life, not a reason to hang.
    probe.set_nonblocking(true).map_err(failed)?;
    match probe.connect(&SockAddr::unix(path).map_err(failed)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        _ => Err(BindError::Live { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn has_its_mode_whatever_the_umask_and_leaves_nothing_behind() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("admin.sock");
        for mode in [0o660, 0o600, 0o666] {
            let socket = Socket::bind(&path, mode).unwrap();
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
        // What kill -9 leaves: the file, its lock file, and one that it had just begun.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        fs::write(with_suffix(&path, ".lock"), "").unwrap();
        fs::write(with_suffix(&path, ".new"), "").unwrap();
        let first = Socket::bind(&path, 0o660).unwrap();
        let error = Socket::bind(&path, 0o660).unwrap_err();
        assert!(matches!(error, BindError::Live { .. }));
        assert_eq!(
            error.to_string(),
            format!(
                "another philote serves the admin socket {}; name another for this one: \
                 PHILOTE_ADMIN_SOCKET=/path/to.sock, or socket under [admin]",
                path.display()
            )
        );
        UnixStream::connect(&path).unwrap();
        drop(first);
        Socket::bind(&path, 0o660).unwrap();
    }

    #[test]
    fn what_another_program_serves_and_what_is_no_socket_stay() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("admin.sock");
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path, 0o660), Err(BindError::Live { .. })));
        drop(other);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path, 0o660), Err(BindError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let long = scratch.path().join("x".repeat(100));
        assert!(matches!(Socket::bind(&long, 0o660), Err(BindError::TooLong { .. })));
    }

    #[test]
    fn of_many_daemons_that_start_at_once_one_gets_it() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let go = std::sync::Barrier::new(8);
        let taken = std::thread::scope(|scope| {
            let start = || {
                go.wait();
                Socket::bind(&path, 0o660)
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(taken.iter().filter(|result| result.is_ok()).count(), 1);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_successor_s_socket_survives_the_end_of_the_one_before() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("admin.sock");
        let old = Socket::bind(&path, 0o660).unwrap();
        fs::remove_file(&path).unwrap();
        let new = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(old);
        UnixStream::connect(&path).unwrap();
        drop(new);
    }
}
