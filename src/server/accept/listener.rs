//! Listening sockets: how they are bound, and what is spoken on their connections.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::stream::{Stream, set_user_timeout};
use crate::config::Listener;
use crate::server::http::forwarded::UNIX_PEER;
use crate::unix_socket::{self, Found};

/// Connections that the kernel completes before the daemon accepts them, at most: so many that net.core.somaxconn, which
/// administrators can raise, is the limit. Where a proxy finds the backlog of a Unix socket full, it answers 502.
const BACKLOG: i32 = 65_535;

/// Binds an address. A socket for an IPv6 address takes IPv4 connections too.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Binds a Unix socket, and replaces one that a killed daemon left. Access is decided by its directory, as access to
/// a port is decided by the network. A token is needed in both cases.
pub fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    const MODE: u32 = 0o666;
    match unix_socket::look(path)? {
        Found::NoSocket => return Err(io::ErrorKind::AlreadyExists.into()),
        Found::Live => return Err(io::ErrorKind::AddrInUse.into()),
        Found::Nothing | Found::Abandoned => {}
    }
    // The name appears last, so that a client that finds it can connect.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    // Removes the leftover of a daemon that was killed at this point. A file that is not a socket is kept.
    if std::fs::symlink_metadata(new).is_ok_and(|left| left.file_type().is_socket()) {
        let _ = std::fs::remove_file(new);
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(new)?)?;
    std::fs::set_permissions(new, std::fs::Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    std::fs::rename(new, path)?;
    Ok(socket.into())
}

/// The protocols that are spoken on a listener's connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Protocols {
    pub(crate) tls: bool,
    pub(crate) proxy_protocol: bool,
    pub(crate) api: bool,
}

/// A listening socket, and what is spoken on its connections.
#[derive(Debug)]
pub struct ListeningSocket {
    socket: Listening,
    pub(super) protocols: Protocols,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl From<TcpListener> for ListeningSocket {
    fn from(listener: TcpListener) -> ListeningSocket {
        // Small messages are sent at once: connections inherit this option from their listener.
        let _ = SockRef::from(&listener).set_tcp_nodelay(true);
        ListeningSocket {
            socket: Listening::Tcp(listener),
            protocols: Protocols { tls: false, proxy_protocol: false, api: true },
        }
    }
}

impl From<UnixListener> for ListeningSocket {
    fn from(listener: UnixListener) -> ListeningSocket {
        ListeningSocket {
            socket: Listening::Unix(listener),
            protocols: Protocols { tls: false, proxy_protocol: false, api: true },
        }
    }
}

impl ListeningSocket {
    /// Returns the same socket with the protocols from its listener's settings.
    #[must_use]
    pub fn of(self, listener: &Listener) -> ListeningSocket {
        let &Listener { tls, proxy_protocol, api, .. } = listener;
        ListeningSocket { protocols: Protocols { tls, proxy_protocol, api }, ..self }
    }

    /// Sets for the connections that arrive from now on when the system ends them, as [`set_user_timeout`] says.
    pub(super) fn set_user_timeout(&self, timeout: Duration) {
        if let Listening::Tcp(listener) = &self.socket {
            set_user_timeout(listener, timeout);
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Stream::Tcp(stream), SocketAddr::new(address.ip().to_canonical(), address.port())))
            }
            Listening::Unix(listener) => Ok((Stream::Unix(listener.accept().await?.0), UNIX_PEER)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_inherit_the_options_of_their_listener() {
        let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let socket = ListeningSocket::from(TcpListener::from_std(listener).unwrap());
        socket.set_user_timeout(Duration::from_secs(90));
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (Stream::Tcp(stream), _) = socket.accept().await.unwrap() else { panic!("TCP") };
        assert!(stream.nodelay().unwrap());
        assert_eq!(rustix::net::sockopt::tcp_user_timeout(&stream).unwrap(), 90_000);
    }
}
