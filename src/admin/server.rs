//! The server of the admin socket, and of the socket for observers. It has its own thread, so that it answers when the data
//! path is saturated.
//!
//! A connection carries one request; only a stream of events has no end. Every resource that a client uses has a limit:
//! connections ([`MAX_CLIENTS`]), bytes ([`MAX_HEAD`], [`MAX_BODY`]) and time ([`DEADLINE`]). Commands run on the
//! blocking pool, so that a reload that waits does not delay a request for the status.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::api::{Code, Event, Failure};
use super::commands::{self, Answer, Peer};
pub use super::commands::{MAX_BODY, MAX_PUBLISH};
use super::socket::{Access, Socket};
use super::{Control, EventStream};
use crate::http::{BodyError, Turn, Wire, check_framing, linger, read_body, write_within};

/// The most clients of a socket at once. One more replaces the oldest client that has not sent its request or has its answer.
pub const MAX_CLIENTS: usize = 64;
/// The most bytes of a request's head.
pub const MAX_HEAD: usize = 16 * 1024;
/// The time limit for each of three steps: receiving the head, receiving the body, and sending the answer.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How long [`Server::stop`] waits for answers in progress.
const STOP_DEADLINE: Duration = Duration::from_secs(1);
/// The pause before the next accept when no file descriptor was left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The `Server` header of every answer.
const PRODUCT: HeaderValue = HeaderValue::from_static(concat!("philote/", env!("CARGO_PKG_VERSION")));

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The running server. Dropping it stops it like [`Server::stop`].
#[derive(Debug)]
pub struct Server {
    path: Option<PathBuf>,
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Starts the server, which answers requests on `sockets` by calling `control`. Each socket has a limit of clients of
    /// its own, so that observers cannot keep administrators out. Without a socket it only runs the tasks spawned on
    /// [`Server::handle`].
    ///
    /// # Errors
    /// The system cannot create a thread or a file descriptor.
    pub fn start(sockets: Vec<Socket>, control: Arc<dyn Control>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .thread_name("admin-work")
            // One for each client, so that commands that wait never delay the command of another client.
            .max_blocking_threads(MAX_CLIENTS * sockets.len().max(1))
            .build()?;
        let handle = runtime.handle().clone();
        let admin = sockets.iter().find(|socket| socket.access() == Access::Administer);
        let path = admin.map(|socket| socket.path().to_owned());
        let mut doors = {
            let _runtime = runtime.enter();
            sockets.into_iter().map(Door::open).collect::<io::Result<Vec<_>>>()?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("admin".into()).spawn(move || {
            runtime.block_on(async {
                let accept = async {
                    join_all(doors.iter_mut().map(|door| door.accept(&control))).await;
                    // Without a socket there is nobody to accept.
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
                // The sockets go first, so that no new client connects; then the answers in progress finish.
                let mut clients: Vec<Clients> = doors.into_iter().map(|door| door.clients).collect();
                clients.iter().for_each(Clients::drop_waiting);
                // JoinSet::join_all() would panic because of the aborted tasks.
                let ends = clients
                    .iter_mut()
                    .map(|clients| async move { while clients.tasks.join_next().await.is_some() {} });
                let _ = timeout(STOP_DEADLINE, join_all(ends)).await;
            });
            // A command that waits forever must not keep the process from ending.
            runtime.shutdown_background();
        })?;
        Ok(Self { path, handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns the path of the admin socket, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&std::path::Path> {
        self.path.as_deref()
    }

    /// Returns a handle that spawns tasks on the admin thread. Tasks such as the watchdog must run while the data path
    /// is saturated. They end with the server.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Removes the sockets, and waits at most 1 s until answers in progress are finished.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket and its clients.
struct Door {
    socket: Socket,
    listener: UnixListener,
    clients: Clients,
}

impl Door {
    fn open(socket: Socket) -> io::Result<Door> {
        let listener = UnixListener::from_std(socket.listener()?)?;
        Ok(Door { socket, listener, clients: Clients::new() })
    }

    /// Accepts clients; never ends.
    async fn accept(&mut self, control: &Arc<dyn Control>) {
        self.clients.accept(&self.listener, self.socket.access(), control).await;
    }
}

/// The connected clients of a socket.
struct Clients {
    /// A file descriptor, because an administrator must be able to connect when none are left. It is closed to accept a
    /// client, and opened again when a client disconnects.
    reserve: Option<File>,
    tasks: JoinSet<()>,
    // Oldest first. The flag is set from when the client's request has arrived until its answer is written; meanwhile the
    // client is not aborted.
    queue: VecDeque<(AbortHandle, Arc<AtomicBool>)>,
}

impl Clients {
    fn new() -> Clients {
        Clients { reserve: reserve(), tasks: JoinSet::new(), queue: VecDeque::new() }
    }

    async fn accept(&mut self, listener: &UnixListener, access: Access, control: &Arc<dyn Control>) {
        loop {
            tokio::select! {
                Some(_) = self.tasks.join_next() => {
                    self.queue.retain(|(task, _)| !task.is_finished());
                    self.reserve = self.reserve.take().or_else(reserve);
                }
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        self.make_room().await;
                        let asked = Arc::new(AtomicBool::new(false));
                        let task = self.tasks.spawn(serve(stream, access, Arc::clone(control), Arc::clone(&asked)));
                        self.queue.push_back((task, asked));
                    }
                    Err(_) if self.reserve.take().is_some() => {}
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
            }
        }
    }

    /// Waits until one more client fits. Aborts the oldest client whose request is not being answered, if there is one.
    async fn make_room(&mut self) {
        if self.tasks.len() < MAX_CLIENTS {
            return;
        }
        if let Some(at) = self.queue.iter().position(|(_, asked)| !asked.load(Ordering::Relaxed))
            && let Some((task, _)) = self.queue.remove(at)
        {
            task.abort();
        }
        self.tasks.join_next().await;
        self.queue.retain(|(task, _)| !task.is_finished());
    }

    fn drop_waiting(&self) {
        for (task, _) in self.queue.iter().filter(|(_, asked)| !asked.load(Ordering::Relaxed)) {
            task.abort();
        }
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// One connection, which carries one request.
async fn serve(stream: UnixStream, access: Access, control: Arc<dyn Control>, asked: Arc<AtomicBool>) {
    let Ok(peer) = stream.peer_cred().map(|credentials| Peer::from(&credentials)) else { return };
    let turn = Arc::new(Turn::default());
    let service = service_fn(|request: Request<Incoming>| {
        // hyper needs a future that can be moved in order to return the stream.
        Box::pin(async {
            let hidden = turn.begin(request.headers()).await;
            let answer = answer(request, hidden, (peer, access), &control, &asked).await;
            if answer.body().size_hint().exact().is_some() {
                turn.answered();
            } else {
                // It has no time limit: a client that is too slow misses events.
                turn.streams();
            }
            Ok::<_, Infallible>(answer)
        })
    });
    let mut connection = http1::Builder::new()
        .keep_alive(false)
        // A client that has shut down only its sending side receives its answer.
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(DEADLINE)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Wire::new(stream, Arc::clone(&turn))), service);
    let ended = std::future::poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let (mut stream, mut unsent) = connection.into_parts().io.into_inner().into_parts();
    if let Err(error) = ended {
        unsent.extend_from_slice(&malformed(&error, turn.promises_too_much()));
    }
    if write_within(&mut stream, &unsent, DEADLINE).await {
        // It has its answer, so it must make room for others while the rest of what it sends is read.
        asked.store(false, Ordering::Relaxed);
        linger(&mut stream).await;
    }
}

/// Returns the bytes of the answer to a malformed request, or nothing if the connection broke.
fn malformed(error: &hyper::Error, promises_too_much: bool) -> Vec<u8> {
    let (status, failure) = if error.is_parse_too_large() && promises_too_much {
        let sentence = format!("the request body may have at most {MAX_PUBLISH} bytes");
        ("413 Content Too Large", Failure::new(Code::TooLarge, sentence))
    } else if error.is_parse_too_large() {
        let sentence = format!("the request head may have at most {MAX_HEAD} bytes");
        ("431 Request Header Fields Too Large", Failure::new(Code::TooLarge, sentence))
    } else if error.is_parse() {
        ("400 Bad Request", Failure::new(Code::BadRequest, format!("this is not HTTP/1.1: {error}")))
    } else {
        return Vec::new();
    };
    let body = serde_json::to_string(&failure).unwrap_or_default();
    let length = body.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}\n"
    )
    .into_bytes()
}

async fn answer(
    request: Request<Incoming>,
    hidden: usize,
    (peer, access): (Peer, Access),
    control: &Arc<dyn Control>,
    asked: &AtomicBool,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut allow = None;
    let framing = check_framing(&head.headers, hidden);
    let outcome = match commands::find(&head.method, head.uri.path(), access) {
        Err(refusal) => {
            allow = refusal.allow;
            Err(refusal.failure)
        }
        Ok(_) if let Err(sentence) = framing => Err(Failure::new(Code::BadRequest, sentence)),
        Ok(command) => match read(body, command.max_body()).await {
            Err(failure) => Err(failure),
            Ok(body) => {
                asked.store(true, Ordering::Relaxed);
                let control = Arc::clone(control);
                let query = head.uri.query().unwrap_or_default().to_owned();
                tokio::task::spawn_blocking(move || {
                    commands::run(command, &query, &body, (peer, access), &*control)
                })
                .await
                .unwrap_or_else(|_| {
                    let message =
                        "the command failed because of a fault in the daemon; its log has the details";
                    Err(Failure::new(Code::Internal, message))
                })
            }
        },
    };
    let mut kind = HeaderValue::from_static("application/json");
    let (status, body) = match outcome {
        Ok(Answer::Text(text)) => {
            kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            (StatusCode::OK, Full::from(text).boxed_unsync())
        }
        Ok(Answer::Json(json)) => (StatusCode::OK, line(json)),
        Ok(Answer::Events(events)) => (StatusCode::OK, lines(events)),
        Err(failure) => (failure.code.status(), line(serde_json::to_vec(&failure).unwrap_or_default())),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(SERVER, PRODUCT);
    headers.insert(CONTENT_TYPE, kind);
    if let Some(allow) = allow.and_then(|methods| HeaderValue::from_str(&methods).ok()) {
        headers.insert(ALLOW, allow);
    }
    response
}

/// A body with one JSON document.
fn line(mut json: Vec<u8>) -> Body {
    json.push(b'\n');
    Full::from(json).boxed_unsync()
}

/// An endless body with one event per line.
fn lines(events: EventStream) -> Body {
    let line = |event: Event| {
        let mut json = serde_json::to_vec(&event).unwrap_or_default();
        json.push(b'\n');
        Ok(Frame::data(Bytes::from(json)))
    };
    StreamBody::new(events.map(line)).boxed_unsync()
}

async fn read(body: Incoming, max: usize) -> Result<Vec<u8>, Failure> {
    match timeout(DEADLINE, read_body(body, max, |_| Ok::<_, Infallible>(()))).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(BodyError::TooLarge)) => {
            Err(Failure::new(Code::TooLarge, format!("the request body may have at most {max} bytes")))
        }
        Ok(Err(BodyError::Broken)) => {
            Err(Failure::new(Code::BadRequest, "the request body is incomplete or malformed"))
        }
        Err(_) => {
            let seconds = DEADLINE.as_secs();
            Err(Failure::new(Code::RequestTimeout, format!("the request body took longer than {seconds} s")))
        }
    }
}
