//! The life of a stream of events after the head of its answer: its outbox is written, and the end of its client is noticed.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;
use tokio::time::Sleep;

use super::event::Encoder;
use super::socket::EventSocket;
use crate::close::CloseReason;
use crate::hub::yield_to_sockets;
use crate::outbox::Standing;
use crate::server::accept::stream::Stream;
use crate::server::session::guard::ConnectionGuard;
use crate::server::session::task::with_read_buffer;

/// Reads that are discarded in one turn.
const DISCARDED_READS: usize = 16;

/// The future that serves a stream of events.
pub(super) struct Reading {
    guard: ConnectionGuard,
    /// The deadline of the close.
    deadline: Option<Pin<Box<Sleep>>>,
    /// The sending direction is closed.
    shut: bool,
}

/// The stream has ended.
struct Ended;

impl Reading {
    /// Takes over the socket after the head of the answer.
    pub(super) fn new(guard: ConnectionGuard, stream: Stream, encoder: Encoder) -> Reading {
        guard.connection.outbox.attach(Box::new(EventSocket::new(stream.into_socket(), encoder)));
        Reading { guard, deadline: None, shut: false }
    }

    fn step(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        let standing = self.guard.connection.outbox.poll(context);
        if standing.broken {
            return Poll::Ready(Ended);
        }
        if standing.closing.is_some() && self.is_over(context, standing) {
            return Poll::Ready(Ended);
        }
        self.discard(context)
    }

    /// Ends the sending direction behind the close event. Returns whether the time for that is over.
    fn is_over(&mut self, context: &mut Context<'_>, standing: Standing) -> bool {
        let server = self.guard.server();
        let sleep = || Box::pin(tokio::time::sleep_until(server.drain.close_by()));
        let is_over = self.deadline.get_or_insert_with(sleep).as_mut().poll(context).is_ready();
        if is_over {
            server.drain.cut(self.guard.connection.id());
        } else if standing.drained && !std::mem::replace(&mut self.shut, true) {
            self.guard.connection.outbox.shutdown();
        }
        is_over
    }

    /// Reads and discards what the client sends, which has no meaning, until it ends the connection.
    fn discard(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        let (connection, now) = (&self.guard.connection, self.guard.server().now());
        with_read_buffer(|buffer| {
            for _ in 0..DISCARDED_READS {
                let mut target = ReadBuf::new(buffer);
                match connection.outbox.poll_read(context, &mut target) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) if !target.filled().is_empty() => {
                        connection.received(target.filled().len(), now);
                    }
                    Poll::Ready(Ok(())) => return Poll::Ready(Ended),
                    Poll::Ready(Err(error)) => {
                        connection.outbox.close(CloseReason::of_error(&error));
                        return Poll::Ready(Ended);
                    }
                }
            }
            // Other tasks run first.
            yield_to_sockets(context);
            Poll::Pending
        })
    }
}

impl Future for Reading {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            // A panic ends this connection only.
            match catch_unwind(AssertUnwindSafe(|| self.step(context))) {
                Ok(step) => return step.map(|Ended| ()),
                Err(_panic) => {
                    self.guard.server().counters.panics.fetch_add(1, Relaxed);
                    if !self.guard.connection.outbox.close(CloseReason::InternalError) {
                        // It was closing already, and the close has panicked, too.
                        return Poll::Ready(());
                    }
                }
            }
        }
    }
}
