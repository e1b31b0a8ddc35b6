//! A stand-in for a socket, for the tests of the outbox and the hub.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::Sink;

/// A sink that takes only as many bytes as a test granted.
#[derive(Clone, Default)]
pub(crate) struct TestSink(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    written: Vec<u8>,
    room: usize,
    refusals: usize,
    writes: usize,
    waiting: Option<Waker>,
    broken: bool,
}

impl TestSink {
    pub(crate) fn with_room(room: usize) -> TestSink {
        let sink = TestSink::default();
        sink.grant(room);
        sink
    }

    /// Lets the sink take this many more bytes.
    pub(crate) fn grant(&self, bytes: usize) {
        let waiting = {
            let mut state = self.0.lock().unwrap();
            state.room = state.room.saturating_add(bytes);
            state.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// Fails from now on, as a reset connection does.
    pub(crate) fn break_down(&self) {
        self.0.lock().unwrap().broken = true;
    }

    pub(crate) fn written(&self) -> Vec<u8> {
        self.0.lock().unwrap().written.clone()
    }

    pub(crate) fn written_len(&self) -> usize {
        self.0.lock().unwrap().written.len()
    }

    pub(crate) fn writes(&self) -> usize {
        self.0.lock().unwrap().writes
    }

    pub(crate) fn refusals(&self) -> usize {
        self.0.lock().unwrap().refusals
    }
}

impl Sink for TestSink {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap();
        state.writes += 1;
        if state.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let taken = offered.min(state.room);
        if taken < offered {
            state.refusals += 1;
        }
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut left = taken;
        for slice in slices {
            let part = &slice[..left.min(slice.len())];
            state.written.extend_from_slice(part);
            left -= part.len();
        }
        state.room -= taken;
        Ok(taken)
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock().unwrap();
        if state.room > 0 || state.broken {
            return Poll::Ready(Ok(()));
        }
        state.waiting = Some(context.waker().clone());
        Poll::Pending
    }

    fn shutdown(&self) {}
}

/// A sink whose writing panics.
pub(crate) struct PanickingSink;

impl Sink for PanickingSink {
    fn try_write(&self, _: &[IoSlice<'_>]) -> io::Result<usize> {
        panic!("on purpose")
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn shutdown(&self) {}
}
