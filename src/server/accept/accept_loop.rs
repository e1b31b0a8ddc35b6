//! Accepts connections. It bounds those that wait without a token, and survives a lack of file descriptors.

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
use crate::server::http::direct;
use crate::server::rejection::Rejection;
use crate::server::{Server, record};
use crate::sync::lock;

/// The pause after an accept that failed because descriptors or memory ran out: long enough not to spin a core, short
/// enough that nobody waits once some are free.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Accepts connections until dropped or aborted.
pub async fn run(server: Arc<Server>, socket: impl Into<ListeningSocket>) {
    let socket = socket.into();
    let mut warned: Option<Instant> = None;
    let mut life = server.accept_loops.enter();
    // Connections inherit it, which saves a system call for each.
    let mut user_timeout = user_timeout_of(&server);
    socket.set_user_timeout(user_timeout);
    loop {
        let accepted = async {
            let (stream, address) = socket.accept().await?;
            // A proxy that speaks the PROXY protocol connects for many clients.
            let key = Some(address).filter(|_| !socket.protocols.proxy_protocol);
            // A header of the PROXY protocol is not yet sent by the client.
            let speaks = !socket.protocols.proxy_protocol && stream.has_input();
            let entered =
                server.pending.enter(key.and_then(|address| server.address_key(address)), speaks).await;
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
                let wanted = user_timeout_of(&server);
                if wanted != user_timeout {
                    user_timeout = wanted;
                    socket.set_user_timeout(wanted);
                    stream.set_user_timeout(wanted);
                }
                tokio::spawn(greet(server.clone(), stream, address, socket.protocols, waiting));
            }
            Ok((stream, address, Err(rejection))) => {
                tokio::spawn(turn_away(server.clone(), stream, address, socket.protocols, rejection));
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                if warned.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                    tracing::warn!("cannot accept connections: {error}; trying again");
                    warned = Some(Instant::now());
                }
                // If no descriptor is left, silent connections hold some.
                server.pending.make_room();
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// How long a client may confirm nothing of what was sent: twice as long as the heartbeat takes to notice its silence.
fn user_timeout_of(server: &Server) -> Duration {
    let websocket = &server.live().settings.websocket;
    2 * (websocket.ping_interval + websocket.pong_timeout)
}

/// Returns whether an error of accept(2) is that of the connection, which had ended before it was accepted. The next one
/// must not wait for it.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    let ended = matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | HostUnreachable
            | NetworkDown
            | NetworkUnreachable
            | Interrupted
    );
    ended || error.raw_os_error() == Some(rustix::io::Errno::PROTO.raw_os_error())
}

/// Ends a connection that must make room, and tells its client why if HTTP can be spoken already.
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

/// Serves a new connection until it becomes a session or ends.
///
/// Many silent connections may wait here, so this task is small: the state of each step is in a box that is freed
/// after it.
async fn greet(
    server: Arc<Server>,
    stream: Stream,
    peer: SocketAddr,
    protocols: Protocols,
    waiting: Waiting,
) {
    let deadline = tokio::time::Instant::now() + server.live().settings.websocket.handshake_timeout;
    // hyper allocates room for a head as soon as it looks for one, so it must not look before there is something to
    // read.
    let spoke = match waiting.speaks() {
        true => Ok(()),
        false => waiting.within(deadline, stream.readable()).await,
    };
    match spoke {
        Ok(()) => Box::pin(listen(server, stream, peer, protocols, deadline, waiting)).await,
        Err(rejection) => Box::pin(leave(server, stream, peer, protocols, &waiting, rejection)).await,
    }
}

/// Ends a connection that has sent nothing.
async fn leave(
    server: Arc<Server>,
    mut stream: Stream,
    peer: SocketAddr,
    protocols: Protocols,
    waiting: &Waiting,
    rejection: Rejection,
) {
    match rejection {
        // It has sent no request, so it gets no answer.
        Rejection::Timeout if !protocols.tls && !protocols.proxy_protocol => {
            waiting.linger(&mut stream).await
        }
        // The TLS handshake was not completed in time.
        Rejection::Timeout => record::rejected(&server, peer, rejection.into()),
        rejection => turn_away(server, stream, peer, protocols, rejection).await,
    }
}

/// Serves a connection that has something to read.
async fn listen(
    server: Arc<Server>,
    stream: Stream,
    peer: SocketAddr,
    protocols: Protocols,
    deadline: tokio::time::Instant,
    waiting: Waiting,
) {
    let (stream, peer) = if waiting.speaks() && !protocols.tls && !protocols.proxy_protocol {
        (stream, peer)
    } else {
        match Box::pin(open(&server, stream, peer, protocols, deadline, &waiting)).await {
            Ok(opened) => opened,
            Err((peer, rejection)) => {
                if let Some(rejection) = rejection {
                    record::rejected(&server, peer, rejection.into());
                }
                return;
            }
        }
    };
    // After the TLS handshake the client may be silent again.
    let plain = Protocols { tls: false, proxy_protocol: false, ..protocols };
    if protocols.tls
        && let Err(rejection) = waiting.within(deadline, stream.readable()).await
    {
        return Box::pin(leave(server, stream, peer, plain, &waiting, rejection)).await;
    }
    let session = direct::serve(server, stream, peer, protocols, deadline, waiting).await;
    if let Some(session) = session {
        // The session gets its own task, which is smaller still.
        tokio::spawn(session);
    }
}

/// Does what comes before HTTP: the proxy's header, a place among the connections that speak, TLS. Returns the
/// stream, and the address of its client as far as it is known now.
///
/// # Errors
/// The address of the client and why it is rejected; `None` if nobody is left to tell.
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
        waiting.speak(server.address_key(peer)).await.map_err(Some)
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
                    waiting.linger(&mut stream).await;
                    Err((peer, Some(Rejection::PlainHttp)))
                }
                Err(error) => Err((peer, error.error.map(|error| Rejection::Tls(error.to_string())))),
            }
        }
        (stream, _) => Ok((stream, peer)),
    }
}

/// Reads the header in which a proxy names its client, and waits until that client sends something.
///
/// # Errors
/// Why the connection is rejected; `None` if the proxy has closed it.
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
    waiting.belong(server.address_key(*peer)).map_err(Some)?;
    stream.readable().await;
    Ok(())
}

/// The accept loops, which answer the watchdog.
#[derive(Default)]
pub(crate) struct AcceptLoops {
    question: watch::Sender<u64>,
    answers: Mutex<Vec<Arc<AtomicU64>>>,
    answered: Arc<Notify>,
}

impl AcceptLoops {
    fn enter(&self) -> AcceptLoop {
        // In this order: a question that was asked before is answered, and one that comes now is seen.
        let question = self.question.subscribe();
        let answer = Arc::new(AtomicU64::new(*question.borrow()));
        lock(&self.answers).push(answer.clone());
        AcceptLoop { question, answer, answered: self.answered.clone() }
    }

    /// Asks all loops, and waits until they have answered.
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

/// One accept loop's side. A loop that has ended counts as having answered.
struct AcceptLoop {
    question: watch::Receiver<u64>,
    answer: Arc<AtomicU64>,
    answered: Arc<Notify>,
}

impl AcceptLoop {
    async fn asked(&mut self) {
        // An error means that the server is gone, and this loop with it.
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
