//! Accepting connections: what waits without a token is bounded, and running out of descriptors is survived.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::listener::{ListeningSocket, Protocols};
use super::pending::Waiting;
use super::stream::Stream;
use super::{proxy_protocol, tls};
use crate::http;
use crate::server::http::connection;
use crate::server::rejection::Rejection;
use crate::server::{Server, record};
use crate::sync::lock;

/// The pause after an accept that failed for want of descriptors or memory: long enough to spin no core, short enough
/// that nobody waits when some come free.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Accepts connections until dropped or aborted.
pub async fn run(server: Arc<Server>, socket: impl Into<ListeningSocket>) {
    let socket = socket.into();
    let mut warned: Option<Instant> = None;
    let mut life = server.accept_loops.enter();
    loop {
        let accepted = async {
            let (stream, address) = socket.accept().await?;
            // Whoever speaks the PROXY protocol speaks for many.
            let origin = Some(address).filter(|_| !socket.protocols.proxy_protocol);
            // A header of the PROXY protocol is not yet the client's word.
            let speaks = !socket.protocols.proxy_protocol && stream.has_input();
            let entered =
                server.pending.enter(origin.and_then(|address| server.origin(address)), speaks).await;
            io::Result::Ok((stream, address, entered))
        };
        tokio::pin!(accepted);
        let accepted = loop {
            tokio::select! {
                accepted = &mut accepted => break accepted,
                () = life.asked() => life.answer(),
            }
        };
        match accepted {
            Ok((stream, address, Ok(waiting))) => {
                tokio::spawn(greet(server.clone(), stream, address, socket.protocols, waiting));
            }
            Ok((stream, address, Err(rejection))) => {
                tokio::spawn(turn_away(server.clone(), stream, address, socket.protocols, rejection));
            }
            // The client was gone before it was accepted: no fault of this side.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if warned.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                    tracing::warn!("can't accept connections: {error}; trying again");
                    warned = Some(Instant::now());
                }
                // There may be no descriptor left: those who say nothing hold some.
                server.pending.make_room();
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Ends a connection that has to go, and tells it why where HTTP can be spoken already.
async fn turn_away(
    server: Arc<Server>,
    mut stream: Stream,
    peer: SocketAddr,
    protocols: Protocols,
    rejection: Rejection,
) {
    let answer = if protocols.tls { Vec::new() } else { rejection.bytes() };
    record::rejected(&server, peer, rejection.into());
    server.pending.send_away(&mut stream, &answer).await;
}

/// Speaks with a new connection until it is a session or has ended.
///
/// Many may wait here that say nothing, so this task is small: what a step needs lies in a box that ends with it.
async fn greet(
    server: Arc<Server>,
    stream: Stream,
    peer: SocketAddr,
    protocols: Protocols,
    waiting: Waiting,
) {
    let deadline = tokio::time::Instant::now() + server.live().settings.websocket.handshake_timeout;
    // hyper makes room for a head as soon as it looks for one: not before there is something to read.
    let spoke = match waiting.speaks() {
        true => Ok(()),
        false => waiting.within(deadline, stream.readable()).await,
    };
    match spoke {
        Ok(()) => Box::pin(listen(server, stream, peer, protocols, deadline, waiting)).await,
        Err(rejection) => Box::pin(leave(server, stream, peer, protocols, rejection)).await,
    }
}

/// Ends a connection that has said nothing.
async fn leave(
    server: Arc<Server>,
    mut stream: Stream,
    peer: SocketAddr,
    protocols: Protocols,
    rejection: Rejection,
) {
    match rejection {
        // It asked for nothing.
        Rejection::Timeout if !protocols.tls && !protocols.proxy_protocol => http::linger(&mut stream).await,
        // Hands were not shaken in time.
        Rejection::Timeout => record::rejected(&server, peer, rejection.into()),
        rejection => turn_away(server, stream, peer, protocols, rejection).await,
    }
}

/// Hears a connection that has something to say.
async fn listen(
    server: Arc<Server>,
    stream: Stream,
    peer: SocketAddr,
    protocols: Protocols,
    deadline: tokio::time::Instant,
    waiting: Waiting,
) {
    let waiting = Arc::new(waiting);
    let (stream, peer) = match Box::pin(open(&server, stream, peer, protocols, deadline, &waiting)).await {
        Ok(opened) => opened,
        Err((peer, rejection)) => {
            if let Some(rejection) = rejection {
                record::rejected(&server, peer, rejection.into());
            }
            return;
        }
    };
    // Behind TLS it may be silent again.
    let plain = Protocols { tls: false, proxy_protocol: false, ..protocols };
    if protocols.tls
        && let Err(rejection) = waiting.within(deadline, stream.readable()).await
    {
        return Box::pin(leave(server, stream, peer, plain, rejection)).await;
    }
    let session = Box::pin(connection::serve(server, stream, peer, protocols, deadline, &waiting)).await;
    if let Some(session) = session {
        drop(waiting);
        // A task of its own, which is smaller still.
        tokio::spawn(session);
    }
}

/// What comes before HTTP: the proxy's header, a place among those that speak, TLS. Returns the stream, and who its
/// client is as far as is known now.
///
/// # Errors
/// Whose connection it was and why it is refused; `None` where there is nothing more to tell.
async fn open(
    server: &Arc<Server>,
    mut stream: Stream,
    mut peer: SocketAddr,
    protocols: Protocols,
    deadline: tokio::time::Instant,
    waiting: &Waiting,
) -> Result<(Stream, SocketAddr), (SocketAddr, Option<Rejection>)> {
    let ready = async {
        if protocols.proxy_protocol {
            introduce(server, &mut stream, &mut peer, waiting).await?;
        }
        waiting.speak(server.origin(peer)).await.map_err(Some)
    };
    match waiting.within(deadline, ready).await.unwrap_or_else(|rejection| Err(Some(rejection))) {
        Ok(()) => {}
        Err(Some(rejection @ Rejection::Pending(_))) => {
            Box::pin(turn_away(server.clone(), stream, peer, protocols, rejection)).await;
            return Err((peer, None));
        }
        Err(rejection) => return Err((peer, rejection)),
    }
    match (stream, &server.tls) {
        (Stream::Tcp(stream), Some(acceptor)) if protocols.tls => {
            let shaken = Box::pin(waiting.within(deadline, acceptor.accept(stream, || waiting.heard())));
            match shaken.await.map_err(|rejection| (peer, Some(rejection)))? {
                Ok(stream) => Ok((Stream::Tls(Box::new(stream)), peer)),
                Err(tls::HandshakeError { plain: Some(stream), .. }) => {
                    let mut stream = Stream::Tcp(stream);
                    http::write(&mut stream, &Rejection::PlainHttp.bytes()).await;
                    http::linger(&mut stream).await;
                    Err((peer, Some(Rejection::PlainHttp)))
                }
                Err(error) => Err((peer, error.error.map(|error| Rejection::Tls(error.to_string())))),
            }
        }
        (stream, _) => Ok((stream, peer)),
    }
}

/// Reads the header in which a proxy says for whom it speaks, and waits for what its client says.
///
/// # Errors
/// Why it is refused; `None` where the proxy is gone.
async fn introduce(
    server: &Server,
    stream: &mut Stream,
    peer: &mut SocketAddr,
    waiting: &Waiting,
) -> Result<(), Option<Rejection>> {
    match proxy_protocol::read(stream).await {
        Ok(client) => *peer = client.unwrap_or(*peer),
        Err(error) => {
            let malformed = error.kind() == io::ErrorKind::InvalidData;
            return Err(malformed.then_some(Rejection::ProxyHeader));
        }
    }
    waiting.heard();
    waiting.belong(server.origin(*peer)).map_err(Some)?;
    stream.readable().await;
    Ok(())
}

/// The accept loops, which answer when asked for a sign of life.
#[derive(Default)]
pub(crate) struct AcceptLoops {
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
    pub(crate) async fn answer(&self) {
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
