//! Opens the listeners, and removes their Unix sockets when they are dropped.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::error::{self, StartError};
use crate::config::{Address, Listener, Settings};
use crate::server::{Server, accept_loop, listener};
use crate::systemd::{PassedListener, PassedSocket};

/// The open listeners. Their clients wait until the accept loops run.
pub(super) struct Listeners {
    /// The listeners, with the addresses at which they are bound.
    pub(super) open: Vec<Listener>,
    /// Whether systemd passed the sockets. It keeps them open after the daemon stops.
    pub(super) from_systemd: bool,
    waiting: Vec<(listener::ListeningSocket, Listener)>,
    accept_loops: Vec<JoinHandle<()>>,
    _created: Created,
}

/// The Unix sockets that the daemon created, with their inodes. Dropping this removes them, also when the daemon cannot start
/// after all, except those that another daemon has replaced.
#[derive(Default)]
struct Created(Vec<(PathBuf, u64)>);

impl Created {
    fn add(&mut self, path: &Path) {
        let inode = std::fs::symlink_metadata(path).map(|socket| socket.ino());
        self.0.extend(inode.ok().map(|inode| (path.to_owned(), inode)));
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        for (path, inode) in &self.0 {
            if std::fs::symlink_metadata(path).is_ok_and(|found| found.ino() == *inode) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

impl Listeners {
    /// Takes the sockets that systemd passed, or else binds those of `listen`.
    pub(super) fn open(
        server: &Server,
        passed: Vec<PassedListener>,
        settings: &Settings,
    ) -> Result<Listeners, StartError> {
        let from_systemd = !passed.is_empty();
        let (sockets, created) = if from_systemd {
            let described = passed.into_iter().map(|passed| describe(passed, settings));
            (described.collect::<Result<_, _>>()?, Created::default())
        } else {
            bind(settings)?
        };
        let (mut open, mut waiting) = (Vec::new(), Vec::new());
        for (socket, listener) in sockets {
            let (socket, address): (listener::ListeningSocket, _) = match socket {
                PassedSocket::Tcp(socket) => {
                    let socket = TcpListener::from_std(socket).map_err(StartError::Runtime)?;
                    let address = socket.local_addr().map_err(StartError::Runtime)?;
                    if settings.dev && !address.ip().is_loopback() {
                        return Err(StartError::DevSocket(address));
                    }
                    server.set_port(address.port());
                    (socket.into(), Address::Tcp(address))
                }
                PassedSocket::Unix(socket) => (
                    UnixListener::from_std(socket).map_err(StartError::Runtime)?.into(),
                    listener.address.clone(),
                ),
            };
            open.push(Listener { address, ..listener.clone() });
            waiting.push((socket, listener));
        }
        Ok(Listeners { open, from_systemd, waiting, accept_loops: Vec::new(), _created: created })
    }

    /// Starts the accept loops.
    pub(super) fn accept(&mut self, server: &Arc<Server>, runtime: &Runtime) {
        for (socket, listener) in self.waiting.drain(..) {
            self.accept_loops.push(runtime.spawn(accept_loop::run(server.clone(), socket.of(&listener))));
        }
    }

    /// Stops accepting connections.
    pub(super) fn stop_accepting(&self) {
        self.accept_loops.iter().for_each(JoinHandle::abort);
    }
}

/// Binds the addresses of `listen`. The default address falls back to IPv4 on a machine without IPv6.
fn bind(settings: &Settings) -> Result<(Vec<(PassedSocket, Listener)>, Created), StartError> {
    let (mut bound, mut created) = (Vec::new(), Created::default());
    for listener in settings.listen.listeners() {
        let failed = |source| StartError::Bind { address: listener.address.clone(), source };
        let socket = match &listener.address {
            Address::Unix(path) => {
                let socket = listener::bind_unix(path).map_err(failed)?;
                created.add(path);
                PassedSocket::Unix(socket)
            }
            Address::Tcp(address) => {
                let socket = match (listener::bind(*address), settings.listen.without_ipv6()) {
                    (Err(error), Some(ipv4)) if error::means_no_ipv6(&error) => listener::bind(ipv4),
                    (result, _) => result,
                };
                PassedSocket::Tcp(socket.map_err(failed)?)
            }
        };
        bound.push((socket, listener.clone()));
    }
    Ok((bound, created))
}

/// Returns a socket that systemd passed with the listener of `listen` that describes it.
fn describe(passed: PassedListener, settings: &Settings) -> Result<(PassedSocket, Listener), StartError> {
    let address = match &passed.socket {
        PassedSocket::Tcp(socket) => Address::Tcp(socket.local_addr().map_err(StartError::Runtime)?),
        PassedSocket::Unix(socket) => {
            let address = socket.local_addr().map_err(StartError::Runtime)?;
            Address::Unix(address.as_pathname().unwrap_or(Path::new("")).to_owned())
        }
    };
    let listener = settings.listen.for_passed_socket(&address).unwrap_or_else(|| {
        tracing::warn!(
            "listen has no entry for {address}, which systemd passed: it is treated like a plain string in listen"
        );
        let tls = settings.tls.is_some() && matches!(address, Address::Tcp(_));
        Listener { tls, ..Listener::plain(address) }
    });
    Ok((passed.socket, listener))
}
