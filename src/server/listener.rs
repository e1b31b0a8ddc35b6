//! Accepting connections: what waits without a token is bounded, and running out of descriptors is survived.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::{Server, handshake};
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

/// Accepts connections until dropped or aborted.
pub async fn accept(server: Arc<Server>, listener: TcpListener) {
    let mut warned: Option<Instant> = None;
    let mut life = server.accept_loops.enter();
    loop {
        let accepted = async {
            server.pending.room().await;
            listener.accept().await
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
                tokio::spawn(greet(server.clone(), stream, address, waiting));
            }
            // The client was gone before it was accepted: no fault of this side.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if warned.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                    tracing::warn!(%error, "can't accept connections; trying again");
                    warned = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn greet(server: Arc<Server>, stream: TcpStream, address: SocketAddr, waiting: Waiting) {
    // Small messages leave at once; a client may be gone already, which the next read finds out.
    let _ = stream.set_nodelay(true);
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    if let Some(session) = handshake::serve(server, stream, address, waiting).await {
        // A task of its own: this one's future is as large as all that HTTP needs.
        tokio::spawn(session);
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
pub(super) struct Pending {
    waiting: Arc<Mutex<Queue>>,
    freed: Arc<Notify>,
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
    waiting: Arc<Mutex<Queue>>,
    freed: Arc<Notify>,
    told: Arc<Notify>,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        lock(&self.waiting).entries.len()
    }

    /// Waits until one more may come in. Where the oldest has had its time, it is told to go: a client with a token
    /// needs a moment only, so whoever fills all places with silence drives out its own.
    async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            let left = {
                let mut waiting = lock(&self.waiting);
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
        let mut waiting = lock(&self.waiting);
        let number = waiting.next;
        waiting.next += 1;
        waiting.entries.insert(number, (Instant::now(), told.clone()));
        Waiting { number, waiting: self.waiting.clone(), freed: self.freed.clone(), told }
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
        lock(&self.waiting).entries.remove(&self.number);
        self.freed.notify_one();
    }
}
