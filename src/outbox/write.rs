//! The socket of an outbox, and the system call that writes several frames to it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use crate::frame::Frame;

/// The most frames that one system call takes.
pub(super) const FRAMES_PER_WRITE: usize = 64;

/// A socket that an outbox writes to, or a stand-in for tests.
pub trait Sink: Send + Sync {
    /// Writes as many bytes as the socket takes now.
    ///
    /// # Errors
    /// `WouldBlock` if it takes none. Any other error means that the connection is gone.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Waits until the socket takes bytes again. Only the connection's own task calls it.
    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the sending direction, so that the peer reads the end of the stream after the last byte.
    fn shutdown(&self);
}

/// Writes with one system call. Returns the bytes taken, and whether the sink refused some of those offered.
#[inline]
pub(super) fn write(sink: &dyn Sink, queue: &VecDeque<Frame>, offset: usize) -> io::Result<(usize, bool)> {
    match queue.front() {
        // Nearly always one frame is queued, which needs no list of slices.
        Some(frame) if queue.len() == 1 => write_one(sink, &frame[offset..]),
        _ => {
            let (written, offered) = write_several(sink, queue, offset);
            taken(written, offered)
        }
    }
}

/// Writes the bytes of one frame. Returns the same as [`write()`].
#[inline]
pub(super) fn write_one(sink: &dyn Sink, bytes: &[u8]) -> io::Result<(usize, bool)> {
    taken(sink.try_write(&[IoSlice::new(bytes)]), bytes.len())
}

#[inline]
fn taken(written: io::Result<usize>, offered: usize) -> io::Result<(usize, bool)> {
    match written {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(taken) => Ok((taken, taken < offered)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((0, true)),
        Err(error) => Err(error),
    }
}

/// Writes up to [`FRAMES_PER_WRITE`] frames. Returns the sink's result and the bytes offered.
#[inline(never)]
fn write_several(sink: &dyn Sink, queue: &VecDeque<Frame>, offset: usize) -> (io::Result<usize>, usize) {
    let mut slices = [IoSlice::new(&[]); FRAMES_PER_WRITE];
    let mut offered = 0;
    let mut count = 0;
    for (slice, frame) in slices.iter_mut().zip(queue) {
        let bytes = if count == 0 { &frame[offset..] } else { &frame[..] };
        *slice = IoSlice::new(bytes);
        offered += bytes.len();
        count += 1;
    }
    (sink.try_write(&slices[..count]), offered)
}
