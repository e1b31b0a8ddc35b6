//! One connection's life after the handshake: read, publish, write, and end.
//!
//! The task is a hand-written future, so that an idle connection keeps only three pointers. It has no read buffer (each
//! thread has one), no timer, and no state of the handshake.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::ReadBuf;
use uuid::fmt::Hyphenated;

use super::frames::{FrameLimits, FrameReader, Received};
use super::guard::ConnectionGuard;
use super::inbound::Inbound;
use super::state::State;
use super::whole::Data;
use crate::close::CloseReason;
use crate::hub::{FlushList, yield_to_sockets};
use crate::message::Batch;
use crate::outbox::{Seconds, Standing};
use crate::server::accept::stream::Stream;
use crate::server::limits::Verdict;

/// The most that one read takes from a socket. This bounds what a publisher may send before its readers' queues are
/// written.
const READ_BYTES: usize = 64 * 1024;

/// Messages handled before the outboxes on the flush list are written.
const MESSAGES_PER_FLUSH: u64 = 256;

/// How long a message may take from its first byte to its last.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the Close handshake may take, from the decision to the end of the socket.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads that are discarded in one turn after the Close was decided.
const DISCARDED_READS: usize = 16;

thread_local! {
    /// The read buffer of all connections on this thread.
    static READ_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    /// The allocation of the flush list, kept between publishes.
    static FLUSH_LIST: Cell<FlushList> = const { Cell::new(FlushList::new()) };
    /// The buffer in which messages are encoded, kept in the same way.
    static BATCH: Cell<Batch> = const { Cell::new(Batch::new()) };
}

/// Lends the read buffer of this thread, which has [`READ_BYTES`].
pub(crate) fn with_read_buffer<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut buffer = READ_BUFFER.take().unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
    let result = read(&mut buffer);
    READ_BUFFER.set(Some(buffer));
    result
}

/// The future that serves a connection. With at most 24 bytes its task has 128, which is a step of the sizes of tasks.
pub(crate) struct Session {
    guard: ConnectionGuard,
}

/// What the task does after a step.
enum Step {
    /// Take another step at once.
    Again,
    /// Let other tasks run first.
    Yield,
}

impl Session {
    /// Takes over the socket after the 101, with the bytes that were read after the request.
    pub(crate) fn new(mut guard: ConnectionGuard, stream: Stream, read_ahead: &[u8]) -> Session {
        guard.connection.received(read_ahead.len(), guard.server().now());
        guard.connection.outbox.connect(stream.into_socket());
        if let Some(bytes) = keep(read_ahead) {
            let mut state = guard.kept.take();
            state.unhandled = Some(bytes);
            guard.kept.keep(state);
        }
        Session { guard }
    }

    /// Takes steps until there is nothing to do or others must run.
    fn turn(&self, state: &mut State, context: &mut Context<'_>) -> Poll<()> {
        loop {
            // A panic ends this connection only.
            let step = catch_unwind(AssertUnwindSafe(|| self.step(state, context)));
            match step {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(Ok(Step::Again))) => {}
                Ok(Poll::Ready(Ok(Step::Yield))) => {
                    yield_to_sockets(context);
                    return Poll::Pending;
                }
                Ok(Poll::Ready(Err(Ended))) => return Poll::Ready(()),
                Err(_panic) => {
                    self.guard.server().counters.panics.fetch_add(1, Relaxed);
                    if !self.guard.connection.outbox.close(CloseReason::InternalError) {
                        // It was closing already, and the Close has panicked, too.
                        return Poll::Ready(());
                    }
                }
            }
        }
    }

    /// Takes one step.
    fn step(&self, state: &mut State, context: &mut Context<'_>) -> Poll<Result<Step, Ended>> {
        let outbox = &self.guard.connection.outbox;
        // An outbox that is idle has been polled, so that it wakes this task when it has to.
        let standing = if outbox.is_idle() { Standing::IDLE } else { outbox.poll(context) };
        if standing.broken {
            return Poll::Ready(Err(Ended));
        }
        if let Some(writing) = &mut state.flushing {
            ready!(writing.poll(context, &self.guard.server().flusher));
            state.flushing = None;
        }
        if standing.closing.is_some() {
            return self.end(state, context, standing);
        }
        if let Some(handing_over) = &mut state.handing_over {
            let _ = ready!(Pin::new(handing_over).poll(context));
            state.handing_over = None;
        }
        if let Some(joining) = &mut state.joining {
            let _expected = ready!(joining.before.as_mut().poll(context));
            let waited = state.joining.take();
            let now = self.guard.server().now();
            self.handle(state, waited.map(|joining| joining.message).as_deref(), &mut &[][..], now);
            return Poll::Ready(Ok(Step::Again));
        }
        self.check_message_deadline(state, context);
        self.receive(state, context)
    }

    /// Handles what has arrived: the bytes of one read, or those that an earlier one left.
    fn receive(&self, state: &mut State, context: &mut Context<'_>) -> Poll<Result<Step, Ended>> {
        if let Some(mut bytes) = state.unhandled.take() {
            let mut rest = &bytes[..];
            self.handle(state, None, &mut rest, self.guard.server().now());
            let handled = bytes.len() - rest.len();
            bytes.advance(handled);
            state.unhandled = Some(bytes).filter(|bytes| !bytes.is_empty());
            return Poll::Ready(Ok(Step::Yield));
        }
        let mut buffer = READ_BUFFER.take().unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
        let mut target = ReadBuf::new(&mut buffer);
        let result = self.guard.connection.outbox.poll_read(context, &mut target);
        let count = target.filled().len();
        let step = match result {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if count > 0 => {
                let now = self.guard.server().now();
                self.guard.connection.received(count, now);
                let mut rest = &buffer[..count];
                self.handle(state, None, &mut rest, now);
                state.unhandled = keep(rest);
                Poll::Ready(Ok(if count == READ_BYTES { Step::Yield } else { Step::Again }))
            }
            // The stream ended without a Close, or was reset: nobody is left to tell.
            Poll::Ready(Ok(())) => Poll::Ready(Err(Ended)),
            Poll::Ready(Err(error)) => {
                self.guard.connection.outbox.close(CloseReason::of_error(&error));
                Poll::Ready(Err(Ended))
            }
        };
        READ_BUFFER.set(Some(buffer));
        step
    }

    /// Handles a message that has waited, and messages until the bytes are used up or a flush is due, then writes the outboxes
    /// on the flush list.
    fn handle(&self, state: &mut State, waited: Option<&str>, bytes: &mut &[u8], now: Seconds) {
        let ConnectionGuard { connection, server, .. } = &self.guard;
        let live = server.live();
        let mut flush_list = FLUSH_LIST.take();
        let mut batch = BATCH.take();
        let mut id = [0; Hyphenated::LENGTH];
        let mut publisher = Inbound {
            server,
            connection,
            live: &live,
            claims: connection.claims(),
            auths: state.auths.at(now),
            seat: &mut state.seat,
            id: connection.id().hyphenated().encode_lower(&mut id),
            flush_list: &mut flush_list,
            batch: &mut batch,
            pause: false,
            passes_on: false,
            joining: &mut state.joining,
            has_waited: waited.is_some(),
        };
        if let Some(message) = waited {
            publisher.take(Data::Text(message));
            publisher.has_waited = false;
        }
        let limits = FrameLimits {
            message: publisher.longest_message(),
            read_buffer: live.settings.websocket.read_buffer_size,
            deflate: connection.compresses(),
        };
        let rates = &live.settings.limits;
        let mut rate = if rates.messages_per_second == 0 && rates.bytes_per_second == 0 {
            None
        } else {
            Some(state.rate.get_or_insert_default())
        };
        let (mut handled, mut handled_bytes) = (0, 0);
        let mut messages = 0;
        let result = state.frames.read(bytes, limits, now, |received| {
            handled += 1;
            if let (Some(rate), Some(size)) = (&mut rate, received.size()) {
                let verdict = rate.judge(size, rates, server.started().elapsed());
                if verdict != Verdict::Taken {
                    return publisher.over_rate(verdict, &received) && handled < MESSAGES_PER_FLUSH;
                }
            }
            match received {
                Received::Message(message) => {
                    messages += 1;
                    handled_bytes += message.bytes().len();
                    if !publisher.take(message) {
                        return false;
                    }
                }
                Received::Ping(pong) => publisher.answer(pong),
                Received::Pong => {}
                Received::Close(reason, answer) => {
                    connection.outbox.close_with(reason, Some(answer));
                }
            }
            // Decompressed, what was read may be a thousand times as long.
            handled < MESSAGES_PER_FLUSH && handled_bytes < READ_BYTES && !publisher.pause
        });
        publisher.send();
        if publisher.passes_on {
            state.handing_over = server.cluster.as_ref().and_then(|cluster| cluster.ticket());
        }
        if let Err(reason) = result {
            connection.outbox.close(reason);
        }
        connection.received_messages(messages, now);
        server.counters.messages_in.fetch_add(messages as u64, Relaxed);
        state.flushing = server.flusher.flush(&mut flush_list);
        flush_list.trim();
        FLUSH_LIST.set(flush_list);
        BATCH.set(batch);
    }

    /// Closes the connection if a message that was begun is not finished in time.
    ///
    /// The timer of one message stays set when the message is done. If it fires during a later message, that one gets
    /// the rest of its time; if it fires between two, it is freed.
    fn check_message_deadline(&self, state: &mut State, context: &mut Context<'_>) {
        let Some(began) = state.frames.message_began() else {
            let _fired = state.deadline.take_if(|deadline| deadline.is_elapsed());
            return;
        };
        let now = self.guard.server().now();
        let timeout = MESSAGE_TIMEOUT.as_secs() as Seconds;
        loop {
            let left = Duration::from_secs(u64::from((began + timeout).saturating_sub(now)));
            let deadline = state.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
            if deadline.as_mut().poll(context).is_pending() {
                return;
            }
            state.deadline = None;
            if left.is_zero() {
                self.guard.connection.outbox.close(CloseReason::MessageTooSlow);
                return;
            }
        }
    }

    /// Sends what waits and the Close, closes the sending direction, and waits for the client's end, all within
    /// [`CLOSE_TIMEOUT`] and before the end of a drain.
    ///
    /// What the client still sends is read and discarded. A socket that is closed with unread bytes sends a reset,
    /// and a reset makes the client's system drop the Close.
    fn end(
        &self,
        state: &mut State,
        context: &mut Context<'_>,
        standing: Standing,
    ) -> Poll<Result<Step, Ended>> {
        if !state.ending {
            state.ending = true;
            state.frames = FrameReader::default();
            state.unhandled = None;
            let deadline = self.guard.server().drain.close_by();
            state.deadline = Some(Box::pin(tokio::time::sleep_until(deadline)));
        }
        if standing.drained && !state.shut {
            state.shut = true;
            self.guard.connection.outbox.shutdown();
        }
        if state.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(context).is_ready()) {
            self.guard.server().drain.cut(self.guard.connection.id());
            return Poll::Ready(Err(Ended));
        }
        let mut buffer = READ_BUFFER.take().unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
        let mut result = Poll::Ready(Ok(Step::Yield));
        for _ in 0..DISCARDED_READS {
            let mut target = ReadBuf::new(&mut buffer);
            match self.guard.connection.outbox.poll_read(context, &mut target) {
                Poll::Ready(Ok(())) if !target.filled().is_empty() => {}
                // The client sends no more, but may still read what is to be written.
                Poll::Ready(Ok(())) if !state.shut => {
                    result = Poll::Pending;
                    break;
                }
                Poll::Ready(_) => {
                    result = Poll::Ready(Err(Ended));
                    break;
                }
                Poll::Pending => {
                    result = Poll::Pending;
                    break;
                }
            }
        }
        READ_BUFFER.set(Some(buffer));
        result
    }
}

/// Copies bytes that are handled later, if there are any.
fn keep(bytes: &[u8]) -> Option<Box<Bytes>> {
    (!bytes.is_empty()).then(|| Box::new(Bytes::copy_from_slice(bytes)))
}

/// The connection has ended.
struct Ended;

impl Future for Session {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.guard.kept.take();
        let poll = self.turn(&mut state, context);
        self.guard.kept.keep(state);
        poll
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

    use super::*;
    use crate::config::{Environment, Overrides, load};
    use crate::hub::Connection;
    use crate::outbox::testing::PanickingSink;
    use crate::server::Server;
    use crate::server::accept::{accept_loop, listener};
    use crate::token::{NewToken, issue, verify};

    /// tokio adds 104 bytes and aligns tasks to 128, so this is the most for a task of 128 bytes.
    #[test]
    fn the_task_of_a_connection_stays_small() {
        assert!(size_of::<Session>() <= 24, "{} bytes", size_of::<Session>());
    }

    type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

    async fn connect(server: &Server, address: std::net::SocketAddr) -> Client {
        let write = vec!["c".to_owned(), "panics".to_owned()];
        let token = NewToken { read: vec!["c".to_owned()], write: Some(write), ..NewToken::default() };
        let token = issue(&token, &server.live().keys).unwrap();
        let request = format!("ws://{address}/?auth={token}").into_client_request().unwrap();
        connect_async(request).await.unwrap().0
    }

    async fn next(client: &mut Client) -> Option<Message> {
        use futures_util::StreamExt;
        client.next().await.and_then(Result::ok)
    }

    async fn send(client: &mut Client, text: &str) {
        use futures_util::SinkExt;
        client.send(Message::text(text)).await.unwrap();
    }

    /// Adds a reader of the channel `panics`, to which the task of a publisher writes.
    fn read_with_panics(server: &Server) -> Arc<Connection> {
        let live = server.live();
        let token = NewToken { read: vec!["panics".to_owned()], ..NewToken::default() };
        let claims = verify(&issue(&token, &live.keys).unwrap(), &live.keys, &live.policy, 0).unwrap();
        let address = ([127, 0, 0, 1], 0).into();
        let reader = Connection::new(address, Arc::new(claims), server.hub.budget().clone(), 0);
        let reader = Arc::new(reader);
        reader.outbox.attach(Box::new(PanickingSink));
        server.hub.enter(&reader);
        reader
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn fault_55_a_panic_costs_one_connection() {
        let environment = Environment::new([("SECRET", "a secret of more than thirty-two characters")]);
        let server = Server::new(load(&Overrides::default(), &environment).unwrap().settings, 1024);
        let listener = TcpListener::from_std(listener::bind(([127, 0, 0, 1], 0).into()).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept_loop::run(server.clone(), listener));
        let _broken = read_with_panics(&server);
        let (mut one, mut other) = (connect(&server, address).await, connect(&server, address).await);
        send(&mut one, r#"{"channel":"c","data":"before"}"#).await;
        send(&mut one, r#"{"channel":"panics","data":"x"}"#).await;
        let Some(Message::Text(text)) = next(&mut other).await else { panic!("a message") };
        assert!(text.contains("before"), "what was published before the panic is delivered");
        let Some(Message::Close(Some(close))) = next(&mut one).await else { panic!("a Close") };
        assert_eq!(u16::from(close.code), 1011);
        assert_eq!(server.counters.panics.load(Relaxed), 1);
        let mut third = connect(&server, address).await;
        send(&mut third, r#"{"channel":"c","data":"after"}"#).await;
        let Some(Message::Text(text)) = next(&mut other).await else { panic!("a message") };
        assert!(text.contains("after"));
    }
}
