//! Accepting connections: what waits without a token is bounded, and running out of descriptors is survived.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};

use super::forwarded::UNIX_PEER;
use super::stream::Stream;
use super::{Refusal, Server, handshake, proxy_header, tls};
use crate::config::Listener;
use crate::http;
use crate::sync::lock;

/// Connections that have not shown a token yet, at once.
pub const MAX_PENDING: usize = 1024;

/// How long a connection may keep others waiting when [`MAX_PENDING`] is reached; then the oldest has to go.
const PENDING_GRACE: Duration = Duration::from_secs(1);

/// Connections that the kernel completes before the daemon has accepted them; net.core.somaxconn may hold less.
const BACKLOG: i32 = 4096;

/// The pause after an accept that failed for want of descriptors or memory: long enough to spin no core, short enough
/// that nobody waits when some come free.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Binds an address. An IPv6 address takes IPv4 connections too.
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

/// Binds a Unix socket. One that a killed daemon left is replaced; who may reach it is a matter of its directory, as
/// who may reach a port is one of the network: a token is needed here and there.
pub fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    const MODE: u32 = 0o666;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        _ => {}
    }
    // The name appears last, so that whoever sees it can use it.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    // What a daemon left that was killed here; a file that is no socket is somebody else's.
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

/// How a listener's connections are spoken to.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) tls: bool,
    proxy_protocol: bool,
    pub(super) api: bool,
}

/// A listening socket, and how its connections are spoken to.
#[derive(Debug)]
pub struct Door {
    socket: Listening,
    how: How,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl From<TcpListener> for Door {
    fn from(listener: TcpListener) -> Door {
        Door { socket: Listening::Tcp(listener), how: How { tls: false, proxy_protocol: false, api: true } }
    }
}

impl From<UnixListener> for Door {
    fn from(listener: UnixListener) -> Door {
        Door { socket: Listening::Unix(listener), how: How { tls: false, proxy_protocol: false, api: true } }
    }
}

impl Door {
    /// The same, spoken to as `listener` says.
    #[must_use]
    pub fn of(self, listener: &Listener) -> Door {
        let &Listener { tls, proxy_protocol, api, .. } = listener;
        Door { how: How { tls, proxy_protocol, api }, ..self }
    }

    async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Small messages leave at once; a client may be gone already, which the next read finds out.
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), SocketAddr::new(address.ip().to_canonical(), address.port())))
            }
            Listening::Unix(listener) => Ok((Stream::Unix(listener.accept().await?.0), UNIX_PEER)),
        }
    }
}

/// Accepts connections until dropped or aborted.
pub async fn accept(server: Arc<Server>, door: impl Into<Door>) {
    let door = door.into();
    let mut warned: Option<Instant> = None;
    let mut life = server.accept_loops.enter();
    loop {
        let accepted = async {
            server.pending.room().await;
            door.accept().await
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = life.asked() => {
                life.answer();
                continue;
            }
        };
        match accepted {
            Ok((stream, address)) => {
                let waiting = server.pending.enter();
                tokio::spawn(greet(server.clone(), stream, address, door.how, waiting));
            }
            // The client was gone before it was accepted: no fault of this side.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if warned.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                    tracing::warn!("can't accept connections: {error}; trying again");
                    warned = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Speaks with a new connection until it is a session or has ended.
///
/// Many may wait here that say nothing, so this task is small: what a step needs lies in a box that ends with it.
async fn greet(server: Arc<Server>, stream: Stream, peer: SocketAddr, how: How, waiting: Waiting) {
    let deadline = tokio::time::Instant::now() + server.live().settings.websocket.handshake_timeout;
    let opened = if how.tls || how.proxy_protocol {
        let open = async {
            tokio::select! {
                biased;
                opened = open(&server, stream, peer, how) => opened,
                () = tokio::time::sleep_until(deadline) => Err((peer, Some(Refusal::Timeout))),
                () = waiting.told_to_go() => Err((peer, Some(Refusal::Pending(MAX_PENDING)))),
            }
        };
        Box::pin(open).await
    } else {
        Ok((stream, peer))
    };
    let (mut stream, peer) = match opened {
        Ok(opened) => opened,
        Err((peer, refusal)) => {
            if let Some(refusal) = refusal {
                server.refused(peer, refusal.into());
            }
            return;
        }
    };
    // hyper makes room for a head as soon as it looks for one: not before there is something to read.
    let spoke = tokio::select! {
        biased;
        () = stream.readable() => true,
        () = tokio::time::sleep_until(deadline) => false,
        () = waiting.told_to_go() => false,
    };
    if !spoke {
        // It asked for nothing.
        return Box::pin(http::linger(&mut stream)).await;
    }
    let session = Box::pin(handshake::serve(server, stream, peer, how, deadline, &waiting)).await;
    if let Some(session) = session {
        drop(waiting);
        // A task of its own, which is smaller still.
        tokio::spawn(session);
    }
}

/// What comes before HTTP: the proxy's header, TLS. Returns the stream, and who its client is as far as is known now.
///
/// # Errors
/// Whose connection it was and why it is refused; `None` where there is nothing to tell.
async fn open(
    server: &Server,
    mut stream: Stream,
    mut peer: SocketAddr,
    how: How,
) -> Result<(Stream, SocketAddr), (SocketAddr, Option<Refusal>)> {
    if how.proxy_protocol {
        match proxy_header::read(&mut stream).await {
            Ok(client) => peer = client.unwrap_or(peer),
            Err(error) => {
                let malformed = error.kind() == io::ErrorKind::InvalidData;
                return Err((peer, malformed.then_some(Refusal::ProxyHeader)));
            }
        }
    }
    match (stream, &server.tls) {
        (Stream::Tcp(stream), Some(acceptor)) if how.tls => match acceptor.accept(stream).await {
            Ok(stream) => Ok((Stream::Tls(Box::new(stream)), peer)),
            Err(tls::HandshakeError { plain: Some(stream), .. }) => {
                let mut stream = Stream::Tcp(stream);
                http::write(&mut stream, &Refusal::PlainHttp.bytes()).await;
                http::linger(&mut stream).await;
                Err((peer, Some(Refusal::PlainHttp)))
            }
            Err(error) => Err((peer, error.error.map(|error| Refusal::Tls(error.to_string())))),
        },
        (stream, _) => Ok((stream, peer)),
    }
}

/// The accept loops, which answer when asked for a sign of life.
#[derive(Default)]
pub(super) struct AcceptLoops {
    question: watch::Sender<u64>,
    answers: Mutex<Vec<Arc<AtomicU64>>>,
    answered: Arc<Notify>,
}

impl AcceptLoops {
    fn enter(&self) -> AcceptLoop {
        let answer = Arc::new(AtomicU64::new(0));
        lock(&self.answers).push(answer.clone());
        AcceptLoop { question: self.question.subscribe(), answer, answered: self.answered.clone() }
    }

    /// Asks, and waits until all have answered.
    pub(super) async fn answer(&self) {
        let number = *self.question.borrow() + 1;
        self.question.send_replace(number);
        loop {
            let answered = self.answered.notified();
            if lock(&self.answers).iter().all(|answer| answer.load(Relaxed) >= number) {
                return;
            }
            answered.await;
        }
    }
}

/// One accept loop's side. One that has ended has answered all there is to ask.
struct AcceptLoop {
    question: watch::Receiver<u64>,
    answer: Arc<AtomicU64>,
    answered: Arc<Notify>,
}

impl AcceptLoop {
    async fn asked(&mut self) {
        // An error means that the server itself is gone, and this loop with it.
        let _ = self.question.changed().await;
    }

    fn answer(&self) {
        self.answer.store(*self.question.borrow(), Relaxed);
        self.answered.notify_one();
    }
}

impl Drop for AcceptLoop {
    fn drop(&mut self) {
        self.answer.store(u64::MAX, Relaxed);
        self.answered.notify_one();
    }
}

/// The connections that have not shown a token yet.
#[derive(Default)]
pub(super) struct Pending(Arc<Room>);

#[derive(Default)]
struct Room {
    queue: Mutex<Queue>,
    /// Told when one has gone, and when the last has.
    freed: Notify,
    emptied: Notify,
}

#[derive(Default)]
struct Queue {
    /// By order of arrival.
    entries: BTreeMap<u64, (Instant, Arc<Notify>)>,
    next: u64,
}

/// One connection's place among those that wait, given back when dropped.
pub(super) struct Waiting {
    number: u64,
    room: Arc<Room>,
    told: Arc<Notify>,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        lock(&self.0.queue).entries.len()
    }

    /// Waits until there is none.
    pub(super) async fn none(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            if self.len() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Waits until one more may come in. Where the oldest has had its time, it is told to go: a client with a token
    /// needs a moment only, so whoever fills all places with silence drives out its own.
    async fn room(&self) {
        loop {
            let freed = self.0.freed.notified();
            let left = {
                let mut waiting = lock(&self.0.queue);
                if waiting.entries.len() < MAX_PENDING {
                    return;
                }
                let Some(oldest) = waiting.entries.first_entry() else { return };
                let left = PENDING_GRACE.saturating_sub(oldest.get().0.elapsed());
                if left.is_zero() {
                    let (_, told) = oldest.remove();
                    told.notify_one();
                    return;
                }
                left
            };
            // Whichever comes first: a place, or the oldest's time.
            let _ = tokio::time::timeout(left, freed).await;
        }
    }

    fn enter(&self) -> Waiting {
        let told = Arc::new(Notify::new());
        let mut waiting = lock(&self.0.queue);
        let number = waiting.next;
        waiting.next += 1;
        waiting.entries.insert(number, (Instant::now(), told.clone()));
        Waiting { number, room: self.0.clone(), told }
    }
}

impl Waiting {
    /// Waits until it has to make room for others.
    pub(super) async fn told_to_go(&self) {
        self.told.notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut queue = lock(&self.room.queue);
        queue.entries.remove(&self.number);
        let none = queue.entries.is_empty();
        drop(queue);
        self.room.freed.notify_one();
        if none {
            self.room.emptied.notify_one();
        }
    }
}
