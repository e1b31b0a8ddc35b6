//! What is at the path where a daemon wants to make a Unix socket.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// A socket on which no process listens, as a killed daemon leaves it.
    Abandoned,
    /// A socket on which a process listens, or that this user may not reach.
    Live,
    /// A file of another kind.
    NoSocket,
}

/// Looks at a path. Does not wait, even if a process that listens there accepts nothing.
///
/// # Errors
/// The path cannot be looked at.
pub(crate) fn look(path: &Path) -> io::Result<Found> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return Ok(Found::NoSocket),
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Connecting to a socket with a full backlog would wait until its process accepts.
    probe.set_nonblocking(true)?;
    Ok(match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Found::Abandoned,
        _ => Found::Live,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_socket_that_accepts_nothing_is_live_and_delays_nobody() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("socket");
        assert_eq!(look(&path).unwrap(), Found::Nothing);
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        assert_eq!(look(&path).unwrap(), Found::Abandoned, "nobody listens");
        listener.listen(0).unwrap();
        let mut waiting = Vec::new();
        while waiting.len() < 8 {
            let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            waiting.push(client.connect(&SockAddr::unix(&path).unwrap()).map(|()| client));
        }
        assert!(waiting.iter().any(Result::is_err), "its backlog is full");
        assert_eq!(look(&path).unwrap(), Found::Live);
        drop((listener, waiting));
        assert_eq!(look(&path).unwrap(), Found::Abandoned);
    }

    #[test]
    fn files_of_other_kinds_and_links_are_no_sockets() {
        let scratch = tempfile::tempdir().unwrap();
        let (file, link) = (scratch.path().join("file"), scratch.path().join("link"));
        std::fs::write(&file, "precious").unwrap();
        symlink(&file, &link).unwrap();
        for path in [scratch.path(), &file, &link] {
            assert_eq!(look(path).unwrap(), Found::NoSocket, "{}", path.display());
        }
        assert!(look(&file.join("below")).is_err());
    }
}
