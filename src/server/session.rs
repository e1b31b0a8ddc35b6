//! One connection's life after the handshake: read, publish, write, and end.
//!
//! The task is a hand-written future, so that an idle connection keeps no more than these fields: no read buffer
//! (each thread has one), no timer, no state of the handshake.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::Guard;
use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::protocol::Message;
use uuid::fmt::Hyphenated;

use super::flush::flush;
use super::frames::{FrameLimits, FrameReader, Received};
use super::limits::{Rate, Seat, Verdict};
use super::presence::{Presence, access_frame};
use super::stream::{Reader, Stream};
use super::{Live, Server, unix_now};
use crate::access_key::{AccessKey, verify_in_frame};
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::hub::{Connection, Touched};
use crate::message::{Auth, BadMessage, Batch, Delivery, ErrorReply, FromClient, Publish};
use crate::outbox::{Pushed, Seconds, Standing};

/// What one read takes from a socket at most, and so what a publisher may bring before its readers' queues are
/// written.
const READ_BYTES: usize = 64 * 1024;

/// Messages handled before what they touched is written.
const MESSAGES_PER_FLUSH: u64 = 256;

/// Tokens that one connection may show in frames in a second: verifying one costs as much as many messages.
const MAX_AUTHS_PER_SECOND: u32 = 100;

/// How long a message may take from its first byte to its last.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the Close handshake may take, from the decision to the end of the socket.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads thrown away at once after the Close was decided.
const DISCARDED_READS: usize = 16;

thread_local! {
    /// The one read buffer of all connections on this thread.
    static READ_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    /// The room of the list of touched outboxes, kept between publishes.
    static TOUCHED: Cell<Touched> = const { Cell::new(Touched::new()) };
    /// The room in which messages are encoded, kept in the same way.
    static BATCH: Cell<Batch> = const { Cell::new(Batch::new()) };
}

/// The future that carries a connection.
pub(super) struct Session {
    presence: Presence,
    reader: Reader,
    frames: FrameReader,
    /// Bytes that were read and not handled yet: what came with the handshake, or what a large batch left.
    unhandled: Bytes,
    /// The writing of what this connection published, where it touched many outboxes.
    flushing: Option<Box<JoinSet<()>>>,
    /// The deadline of the message in progress, or of the Close.
    deadline: Option<Pin<Box<Sleep>>>,
    /// What it has sent of late, where a rate is set.
    rate: Option<Box<Rate>>,
    /// What limits for each client count it as.
    seat: Seat,
    /// The Close has been decided: what the client sends is thrown away.
    ending: bool,
    /// The sending direction is shut.
    shut: bool,
    auths: Auths,
}

/// Tokens shown in frames in this second.
#[derive(Default)]
struct Auths {
    second: Seconds,
    count: u32,
}

/// Whether a step left the task something to wait for.
enum Step {
    /// Look again at once.
    Again,
    /// Let others run, then look again.
    Yield,
}

impl Session {
    /// Takes over the socket after the 101, with what was read behind the request.
    pub(super) fn new(mut presence: Presence, stream: Stream, read_ahead: &[u8]) -> Session {
        let (reader, writer) = stream.into_split();
        presence.connection.received(read_ahead.len(), presence.server().now());
        presence.connection.outbox.attach(writer);
        let seat = presence.take_seat();
        Session {
            presence,
            reader,
            frames: FrameReader::default(),
            // A copy: even an empty slice would keep hyper's buffer of 8 KiB.
            unhandled: Bytes::copy_from_slice(read_ahead),
            flushing: None,
            deadline: None,
            rate: None,
            seat,
            ending: false,
            shut: false,
            auths: Auths::default(),
        }
    }

    fn step(&mut self, context: &mut Context<'_>) -> Poll<Result<Step, Ended>> {
        let now = self.presence.server().now();
        let standing = self.presence.connection.outbox.poll(context, now);
        if standing.broken {
            return Poll::Ready(Err(Ended));
        }
        if let Some(tasks) = &mut self.flushing {
            while let Some(_done) = ready!(tasks.poll_join_next(context)) {}
            self.flushing = None;
        }
        if standing.closing.is_some() {
            return self.end(context, standing);
        }
        self.check_message_deadline(context, now);
        self.receive(context, now)
    }

    /// Handles what has arrived: one read of the socket, or what an earlier one left.
    fn receive(&mut self, context: &mut Context<'_>, now: Seconds) -> Poll<Result<Step, Ended>> {
        if !self.unhandled.is_empty() {
            let bytes = std::mem::take(&mut self.unhandled);
            let mut rest = &bytes[..];
            self.handle(&mut rest, now);
            self.unhandled = bytes.slice(bytes.len() - rest.len()..);
            return Poll::Ready(Ok(Step::Yield));
        }
        let mut buffer = READ_BUFFER.take().unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
        let mut target = ReadBuf::new(&mut buffer);
        let result = Pin::new(&mut self.reader).poll_read(context, &mut target);
        let count = target.filled().len();
        let step = match result {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if count > 0 => {
                self.presence.connection.received(count, now);
                let mut rest = &buffer[..count];
                self.handle(&mut rest, now);
                self.unhandled = Bytes::copy_from_slice(rest);
                Poll::Ready(Ok(if count == READ_BYTES { Step::Yield } else { Step::Again }))
            }
            // The end of the stream without a Close, or a reset: nobody is left to talk to.
            Poll::Ready(_) => Poll::Ready(Err(Ended)),
        };
        READ_BUFFER.set(Some(buffer));
        step
    }

    /// Handles messages until the bytes are used up or a flush is due, then writes what they touched.
    fn handle(&mut self, bytes: &mut &[u8], now: Seconds) {
        let server = self.presence.server();
        let connection = &self.presence.connection;
        let live = server.live();
        let mut touched = TOUCHED.take();
        let mut batch = BATCH.take();
        let mut id = [0; Hyphenated::LENGTH];
        let mut publisher = Publisher {
            server,
            connection,
            v1: self.presence.v1,
            live: &live,
            access: connection.access(),
            auths: &mut self.auths,
            seat: &mut self.seat,
            now,
            id: connection.id().hyphenated().encode_lower(&mut id),
            touched: &mut touched,
            batch: &mut batch,
        };
        let limits = FrameLimits {
            message: live.settings.websocket.max_message_size,
            read_buffer: live.settings.websocket.read_buffer_size,
        };
        let rates = &live.settings.limits;
        let mut rate = if rates.messages_per_second == 0 && rates.bytes_per_second == 0 {
            None
        } else {
            Some(self.rate.get_or_insert_default())
        };
        let mut handled = 0;
        let mut messages = 0;
        let result = self.frames.read(bytes, limits, now, |received| {
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
                    publisher.take(&message);
                }
                Received::Ping(pong) => publisher.answer(pong),
                Received::Pong => {}
                Received::Close(reason, answer) => {
                    connection.outbox.close_with(reason, Some(answer));
                }
            }
            handled < MESSAGES_PER_FLUSH
        });
        publisher.send();
        if let Err(reason) = result {
            connection.outbox.close(reason);
        }
        connection.received_messages(messages, now);
        server.counters.messages_in.fetch_add(messages, Relaxed);
        self.flushing = flush(server, &mut touched);
        touched.trim();
        TOUCHED.set(touched);
        BATCH.set(batch);
    }

    /// Sees to it that a message which was begun is finished in time, or the connection closed.
    ///
    /// The timer of one message stays set when it is done; if it fires in the middle of a later one, that one gets the
    /// rest of its time.
    fn check_message_deadline(&mut self, context: &mut Context<'_>, now: Seconds) {
        let Some(began) = self.frames.message_began() else { return };
        let timeout = MESSAGE_TIMEOUT.as_secs() as Seconds;
        loop {
            let left = Duration::from_secs(u64::from((began + timeout).saturating_sub(now)));
            let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
            if deadline.as_mut().poll(context).is_pending() {
                return;
            }
            self.deadline = None;
            if left.is_zero() {
                self.presence.connection.outbox.close(CloseReason::MessageTooSlow);
                return;
            }
        }
    }

    /// Sends what waits and the Close, shuts the sending direction, and waits for the client's end, all in
    /// [`CLOSE_TIMEOUT`].
    ///
    /// What the client still sends is read and thrown away: a socket that is closed with unread bytes sends a reset,
    /// and a reset makes the client's system forget the Close.
    fn end(&mut self, context: &mut Context<'_>, standing: Standing) -> Poll<Result<Step, Ended>> {
        if !self.ending {
            self.ending = true;
            self.frames = FrameReader::default();
            self.unhandled = Bytes::new();
            self.deadline = Some(Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
        }
        if standing.drained && !self.shut {
            self.shut = true;
            self.presence.connection.outbox.shutdown();
        }
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(context).is_ready()) {
            return Poll::Ready(Err(Ended));
        }
        let mut buffer = READ_BUFFER.take().unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
        let mut result = Poll::Ready(Ok(Step::Yield));
        for _ in 0..DISCARDED_READS {
            let mut target = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.reader).poll_read(context, &mut target) {
                Poll::Ready(Ok(())) if !target.filled().is_empty() => {}
                // The client sends no more: what is still to be written, it may yet read.
                Poll::Ready(Ok(())) if !self.shut => {
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

/// The connection has ended.
struct Ended;

impl Future for Session {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            // One connection's panic is that connection's end.
            let step = catch_unwind(AssertUnwindSafe(|| self.step(context)));
            match step {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(Ok(Step::Again))) => {}
                Ok(Poll::Ready(Ok(Step::Yield))) => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Ok(Poll::Ready(Err(Ended))) => return Poll::Ready(()),
                Err(_panic) => {
                    self.presence.server().counters.panics.fetch_add(1, Relaxed);
                    if !self.presence.connection.outbox.close(CloseReason::InternalError) {
                        // It was closing already, and can't even do that.
                        return Poll::Ready(());
                    }
                }
            }
        }
    }
}

/// The message that makes the tests' build panic.
#[cfg(test)]
const PANIC: &str = "panic";

/// What is needed to handle one connection's messages.
struct Publisher<'a> {
    server: &'a Arc<Server>,
    connection: &'a Arc<Connection>,
    v1: bool,
    live: &'a Live,
    access: Guard<Arc<AccessKey>>,
    auths: &'a mut Auths,
    seat: &'a mut Seat,
    now: Seconds,
    id: &'a str,
    touched: &'a mut Touched,
    /// What was published last and not queued yet.
    batch: &'a mut Batch,
}

impl Publisher<'_> {
    /// Does what a client's message asks for, or answers why not.
    fn take(&mut self, message: &Message) {
        if cfg!(feature = "echo") {
            return self.answer(Frame::of(message));
        }
        let text = match message {
            Message::Text(text) => Ok(text.as_str()),
            Message::Binary(bytes) => std::str::from_utf8(bytes).map_err(|_| BadMessage::NotUtf8),
            _ => return,
        };
        #[cfg(test)]
        assert_ne!(text, Ok(PANIC), "on purpose");
        let names = self.live.settings.limits.channel_name_bytes;
        match text.and_then(|text| FromClient::parse(text, names, self.v1)) {
            Ok(FromClient::Publish(publish)) => self.publish(&publish),
            Ok(FromClient::Auth(auth)) => self.authenticate(&auth),
            Err(error) => {
                let ack = text_of(message).filter(|_| self.v1).and_then(FromClient::ack_of);
                self.answer(ErrorReply::BadMessage { error, ack }.encode());
            }
        }
    }

    fn publish(&mut self, publish: &Publish<'_>) {
        if !self.access.may_write(&publish.channel) {
            let reply = ErrorReply::Forbidden { channel: &publish.channel, ack: publish.ack };
            return self.answer(reply.encode());
        }
        let shown = self.live.settings.websocket.show_subject;
        let delivery = Delivery {
            issuer: self.id,
            channel: &publish.channel,
            data: publish.data,
            subject: self.access.subject.as_deref().filter(|_| shown),
        };
        // Who follows the traffic is told how many readers each message had: each goes by itself then.
        let followed = self.server.events.follow_messages();
        if followed || !self.batch.takes(&publish.channel) {
            queue(self.server, self.connection, self.batch, self.touched);
        }
        self.batch.add(&delivery);
        if let Some(ack) = publish.ack {
            self.batch.ask(ack);
        }
        if followed {
            let readers = queue(self.server, self.connection, self.batch, self.touched);
            self.server.events.tell_message(&delivery, readers);
        }
    }

    /// Replaces the access by that of another token. What came before it is published with the old one, what comes
    /// after it with the new.
    #[cold]
    fn authenticate(&mut self, auth: &Auth<'_>) {
        self.send();
        if self.auths.second != self.now {
            *self.auths = Auths { second: self.now, count: 0 };
        }
        self.auths.count += 1;
        if self.auths.count > MAX_AUTHS_PER_SECOND {
            return self.answer(ErrorReply::TooManyAuths(MAX_AUTHS_PER_SECOND).encode());
        }
        let access = match verify_in_frame(&auth.token, &self.live.keys, &self.live.policy, unix_now()) {
            Ok(access) => access,
            Err(error) => return self.answer(ErrorReply::Unauthorized(&error.to_string()).encode()),
        };
        if self.server.check_subject(&access).is_err() {
            self.connection.outbox.close(CloseReason::SubjectRefused);
            return;
        }
        let subject = access.subject.as_deref();
        if let Err(refusal) = self.seat.set_subject(self.server, subject, &self.live.settings.limits) {
            return self.answer(ErrorReply::Unauthorized(&refusal.to_string()).encode());
        }
        let before = self.access.expires;
        let (connection, touched) = (self.connection, &mut *self.touched);
        self.server.hub.replace_access(connection, Arc::new(access), &auth.since, |places| {
            answer(connection, access_frame(connection, places), touched);
        });
        self.server.timekeeper.refile(connection, before);
        self.access = connection.access();
        // A reload or a refusal that began meanwhile has looked at the old access.
        if self.access.key.as_ref().is_some_and(|key| !self.server.live().keys.contains(key)) {
            connection.outbox.close(CloseReason::KeyWithdrawn);
        } else if self.server.check_subject(&self.access).is_err() {
            connection.outbox.close(CloseReason::SubjectRefused);
        }
    }

    /// Says that something was over the rate and is not handled. False where that was too much for too long.
    #[cold]
    fn over_rate(&mut self, verdict: Verdict, received: &Received) -> bool {
        self.server.counters.rate_limited.fetch_add(1, Relaxed);
        match verdict {
            Verdict::Refused { answer: true } => {
                let message = if let Received::Message(message) = received { text_of(message) } else { None };
                let ack = message.filter(|_| self.v1).and_then(FromClient::ack_of);
                self.answer(ErrorReply::RateLimited { ack }.encode());
            }
            Verdict::Close => {
                // What was published before it is.
                self.send();
                self.connection.outbox.close(CloseReason::RateLimited);
            }
            _ => {}
        }
        verdict != Verdict::Close
    }

    /// Queues what was gathered to its readers.
    fn send(&mut self) {
        queue(self.server, self.connection, self.batch, self.touched);
    }

    /// Sends something to the client itself, in order with its other messages.
    fn answer(&mut self, frame: Frame) {
        if self.batch.is_asked() {
            self.send();
        }
        answer(self.connection, frame, self.touched);
    }
}

/// A message's text, where it is one.
#[cold]
fn text_of(message: &Message) -> Option<&str> {
    message.to_text().ok()
}

/// Queues what was gathered to its readers, and to its publisher the answers that it asked for.
fn queue(server: &Server, publisher: &Arc<Connection>, batch: &mut Batch, touched: &mut Touched) -> usize {
    let readers = server.hub.publish_batch(batch, Some(publisher), touched);
    if let Some(acks) = batch.take_acks(readers) {
        answer(publisher, acks, touched);
    }
    readers
}

fn answer(connection: &Arc<Connection>, frame: Frame, touched: &mut Touched) {
    if connection.outbox.push(frame) == Pushed::Promised {
        touched.promised(connection);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};
    use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

    use super::*;
    use crate::access_key::{NewToken, issue};
    use crate::config::{Environment, Overrides, load};
    use crate::server::listener;

    type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

    async fn connect(server: &Server, address: std::net::SocketAddr) -> Client {
        let channels = vec!["c".to_owned()];
        let token = NewToken { read: channels.clone(), write: Some(channels), ..NewToken::default() };
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

    #[tokio::test(flavor = "multi_thread")]
    async fn fault_55_a_panic_costs_one_connection() {
        let environment = Environment::new([("SECRET", "a secret of more than thirty-two characters")]);
        let server = Server::new(load(&Overrides::default(), &environment).unwrap().settings, 1024);
        let listener = TcpListener::from_std(listener::bind(([127, 0, 0, 1], 0).into()).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(listener::accept(server.clone(), listener));
        let (mut one, mut other) = (connect(&server, address).await, connect(&server, address).await);
        send(&mut one, r#"{"channel":"c","data":"before"}"#).await;
        send(&mut one, PANIC).await;
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
