//! The socket of a reader of events: makes events of the frames that an outbox writes, and passes them on.
//!
//! The outbox counts the bytes of frames, also those of an event that is partly written. Its queue, limits and progress
//! therefore mean the same as for a WebSocket, and at most one event per stream is held here.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::sync::Mutex;
use std::task::{Context, Poll};

use super::cursor::Change;
use super::event::Encoder;
use tokio::io::ReadBuf;

use crate::frame;
use crate::outbox::Sink;
use crate::sync::lock;

/// The bytes of events after which no further one is made for the same system call.
const EVENT_BYTES: usize = 64 * 1024;

/// The memory for events that a thread keeps, in bytes; more is needed for one long message only.
const KEPT_BYTES: usize = 2 * EVENT_BYTES;

thread_local! {
    /// The events of one system call.
    static EVENTS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The socket of a reader of events.
pub(super) struct EventSocket<S> {
    socket: S,
    /// Locked across the system call, because events must leave in order. Only the writer of the outbox takes it, so nobody
    /// waits.
    state: Mutex<State>,
}

struct State {
    encoder: Encoder,
    /// The event that is partly written.
    begun: Option<Box<Begun>>,
}

/// An event that is partly written.
struct Begun {
    event: Box<[u8]>,
    written: usize,
    /// The length of its frame.
    frame: usize,
    /// The bytes of the frame that were reported as written: at least one, because the outbox never drops a frame of which
    /// a byte was written, and not the last one before the event is, so that the outbox calls again.
    reported: usize,
}

impl Begun {
    /// Returns how many more bytes of the frame count as written.
    fn report(&mut self) -> usize {
        let part = (self.written as u64 * self.frame as u64 / self.event.len() as u64) as usize;
        let written = part.clamp(1, self.frame - 1).max(self.reported);
        written - std::mem::replace(&mut self.reported, written)
    }
}

/// An event that is offered to the socket.
struct Offered {
    /// Where it ends among the events.
    end: usize,
    /// The length of its frame.
    frame: usize,
    change: Option<Change>,
}

impl<S: Sink> EventSocket<S> {
    pub(super) fn new(socket: S, encoder: Encoder) -> EventSocket<S> {
        EventSocket { socket, state: Mutex::new(State { encoder, begun: None }) }
    }
}

impl State {
    /// Writes the rest of the event that was begun. Returns how many bytes of its frame that are, and whether it is done.
    fn go_on(&mut self, socket: &impl Sink) -> io::Result<(usize, bool)> {
        let Some(begun) = &mut self.begun else { return Ok((0, true)) };
        begun.written += socket.try_write(&[IoSlice::new(&begun.event[begun.written..])])?;
        if begun.written < begun.event.len() {
            return Ok((begun.report(), false));
        }
        let rest = begun.frame - begun.reported;
        self.begun = None;
        Ok((rest, true))
    }

    /// Makes events of the frames after the first `skipped` bytes, up to [`EVENT_BYTES`] or a little more.
    fn make(&mut self, slices: &[IoSlice<'_>], mut skipped: usize, events: &mut Vec<u8>) -> Vec<Offered> {
        let mut offered = Vec::new();
        for slice in slices {
            let mut rest = slice.get(skipped..).unwrap_or_default();
            skipped = skipped.saturating_sub(slice.len());
            while events.len() < EVENT_BYTES
                && let Some((part, after)) = frame::split(rest)
            {
                rest = after;
                let change = self.encoder.append(&part, events);
                offered.push(Offered { end: events.len(), frame: part.length, change });
            }
        }
        offered
    }

    /// Notes that the first `written` bytes of the events were written. Returns how many bytes of frames count as written.
    fn written(&mut self, events: &[u8], offered: &[Offered], written: usize) -> usize {
        let done = offered.partition_point(|one| one.end <= written);
        let start = done.checked_sub(1).map_or(0, |last| offered[last].end);
        let mut taken = offered[..done].iter().map(|one| one.frame).sum();
        let mut unwritten = done;
        if written > start {
            let one = &offered[done];
            unwritten += 1;
            let event = events[start..one.end].into();
            let begun = Begun { event, written: written - start, frame: one.frame, reported: 0 };
            taken += self.begun.insert(Box::new(begun)).report();
        }
        for change in offered[unwritten..].iter().rev().filter_map(|one| one.change) {
            self.encoder.undo(change);
        }
        taken
    }
}

impl<S: Sink> Sink for EventSocket<S> {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = lock(&self.state);
        let (mut taken, done) = state.go_on(&self.socket)?;
        let mut events = EVENTS.take();
        let mut result = Ok(());
        let mut goes_on = done;
        while goes_on {
            events.clear();
            let offered = state.make(slices, taken, &mut events);
            if offered.is_empty() {
                break;
            }
            let written = self.socket.try_write(&[IoSlice::new(&events)]);
            let count = *written.as_ref().unwrap_or(&0);
            taken += state.written(&events, &offered, count);
            goes_on = count == events.len();
            result = written.map(drop);
        }
        events.shrink_to(KEPT_BYTES);
        EVENTS.set(events);
        match result {
            Err(error) if taken == 0 || error.kind() != io::ErrorKind::WouldBlock => Err(error),
            // The writer takes 0 for an end.
            _ if taken == 0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(taken),
        }
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_writable(context)
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_read(context, buffer)
    }

    fn shutdown(&self) {
        self.socket.shutdown();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::close::CloseReason;
    use crate::frame::Frame;
    use crate::outbox::{Budget, Outbox};
    use crate::server::sse::event::Framing;

    /// A socket that takes as many bytes as the test gives it, in pieces of each size in turn.
    #[derive(Clone, Default)]
    struct Slow(Arc<Mutex<(usize, Vec<u8>)>>);

    impl Sink for Slow {
        fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let mut slow = lock(&self.0);
            let offered = slices.iter().flat_map(|slice| slice.iter());
            let taken: Vec<u8> = offered.take(slow.0).copied().collect();
            slow.0 -= taken.len();
            slow.1.extend_from_slice(&taken);
            if taken.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken.len()) }
        }

        fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if lock(&self.0).0 > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn shutdown(&self) {}
    }

    fn text(text: &str) -> Frame {
        Frame::echo(text.as_bytes(), false, None)
    }

    fn message(number: u64, data: &str) -> Frame {
        text(&format!(
            r#"{{"issuer":"00000000-0000-0000-0000-000000000000","channel":"c","data":"{data}","id":"ab-{number}"}}"#
        ))
    }

    fn frames() -> Vec<Frame> {
        let two = [&message(2, "two")[..], &message(3, &"x".repeat(300))].concat();
        vec![
            text(r#"{"access":{"read":["c"],"ids":{"c":"ab-0"}}}"#),
            message(1, "one"),
            Frame::finished(&two, 2),
            Frame::ping(),
            message(4, &"y".repeat(70_000)),
            message(5, ""),
        ]
    }

    /// The events if nothing hinders them.
    fn expected(frames: &[Frame]) -> Vec<u8> {
        let mut encoder = Encoder::new(Framing::Chunked, 0);
        let mut out = Vec::new();
        for frame in frames {
            let mut rest = &frame[..];
            while let Some((part, after)) = frame::split(rest) {
                rest = after;
                encoder.append(&part, &mut out);
            }
        }
        out
    }

    fn outbox(budget: Budget) -> (Outbox, Slow) {
        let (outbox, slow) = (Outbox::new(Arc::new(budget)), Slow::default());
        outbox.attach(Box::new(EventSocket::new(slow.clone(), Encoder::new(Framing::Chunked, 0))));
        (outbox, slow)
    }

    fn poll(outbox: &Outbox) {
        let _ = outbox.poll(&mut Context::from_waker(std::task::Waker::noop()));
    }

    #[test]
    fn a_socket_that_takes_bytes_in_pieces_gets_the_same_events() {
        let frames = frames();
        let expected = expected(&frames);
        for piece in [1, 2, 7, 64, 501, 4096, 100_000, usize::MAX / 2] {
            let (outbox, slow) = outbox(Budget::new(4096, 1 << 20, 1 << 30, 1024));
            let _ = outbox.push_all(frames.iter().cloned());
            outbox.flush();
            let mut before = 0;
            while outbox.stats().queued_messages > 0 {
                lock(&slow.0).0 = piece;
                poll(&outbox);
                let stats = outbox.stats();
                assert!(stats.bytes >= before, "progress only grows");
                assert!(stats.queued_bytes > 0 || stats.queued_messages == 0);
                before = stats.bytes;
            }
            assert_eq!(before as usize, frames.iter().map(|frame| frame.len()).sum::<usize>());
            assert!(lock(&slow.0).1 == expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn the_position_counts_only_what_was_begun() {
        // The first system call offers all messages, and the socket takes the first and a part of the second.
        let all = [
            text(r#"{"access":{"read":["c"],"ids":{"c":"ab-0"}}}"#),
            message(1, "one"),
            message(2, "two"),
            message(3, "three"),
        ];
        let first = expected(&all[..2]).len();
        let (outbox, slow) = outbox(Budget::new(4096, 1 << 20, 1 << 30, 1024));
        lock(&slow.0).0 = first + 5;
        let _ = outbox.push_all(all.iter().cloned());
        outbox.flush();
        assert_eq!(outbox.stats().queued_messages, 2);
        // The rest is dropped, and the event that was begun is finished.
        assert!(outbox.close(CloseReason::QueueMemory));
        lock(&slow.0).0 = usize::MAX / 2;
        poll(&outbox);
        let written = String::from_utf8(lock(&slow.0).1.clone()).unwrap();
        assert!(written.contains("id: c=ab-2\n\n") && !written.contains("ab-3"), "{written}");
        assert!(written.contains("event: close\ndata: {\"code\":4413,"), "{written}");
        assert!(written.ends_with("\r\n0\r\n\r\n"), "{written}");
    }

    #[test]
    fn a_reader_that_takes_nothing_is_closed_at_the_limit() {
        let (outbox, slow) = outbox(Budget::new(10, 1 << 20, 1 << 30, 1024));
        lock(&slow.0).0 = 3;
        for number in 1..=12 {
            if outbox.push_all(std::iter::once(message(number, "x"))).is_promised() {
                outbox.flush();
            }
            poll(&outbox);
        }
        assert_eq!(outbox.closing(), Some(CloseReason::SlowConsumer));
        assert_eq!(outbox.stats().queued_messages, 2, "the event that was begun, and the Close");
    }
}
