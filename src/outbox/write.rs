//! The system call that writes several frames.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use super::{Sink, Socket};
use crate::frame::Frame;

/// The most frames that one system call takes.
pub(super) const FRAMES_PER_WRITE: usize = 64;

/// The most frames for which a short list of slices is made. A long one takes longer to clear than these take to queue.
const FEW: usize = 4;

/// Writes with one system call. Returns the bytes taken, and whether the sink refused some of those offered.
#[inline]
pub(super) fn write(socket: &Socket, queue: &VecDeque<Frame>, offset: usize) -> io::Result<(usize, bool)> {
    match queue.front() {
        // Nearly always one frame is queued, which needs no list of slices.
        Some(frame) if queue.len() == 1 => write_one(socket, &frame[offset..]),
        _ => {
            let several =
                if queue.len() <= FEW { write_several::<FEW> } else { write_several::<FRAMES_PER_WRITE> };
            let (written, offered) = several(socket, queue, offset);
            taken(written, offered)
        }
    }
}

/// Writes the bytes of one frame. Returns the same as [`write()`].
#[inline]
pub(super) fn write_one(socket: &Socket, bytes: &[u8]) -> io::Result<(usize, bool)> {
    taken(socket.try_write(&[IoSlice::new(bytes)]), bytes.len())
}

#[inline]
fn taken(written: io::Result<usize>, offered: usize) -> io::Result<(usize, bool)> {
    match written {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        // No system reports this; with such a count the queue's own would be wrong, which ends the process.
        Ok(taken) if taken > offered => Err(io::ErrorKind::InvalidData.into()),
        Ok(taken) => Ok((taken, taken < offered)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((0, true)),
        Err(error) => Err(error),
    }
}

/// Writes up to `MOST` frames. Returns the sink's result and the bytes offered.
#[inline(never)]
fn write_several<const MOST: usize>(
    socket: &Socket,
    queue: &VecDeque<Frame>,
    offset: usize,
) -> (io::Result<usize>, usize) {
    let mut slices = [IoSlice::new(&[]); MOST];
    let mut offered = 0;
    let mut count = 0;
    for (slice, frame) in slices.iter_mut().zip(queue) {
        let bytes = if count == 0 { &frame[offset..] } else { &frame[..] };
        *slice = IoSlice::new(bytes);
        offered += bytes.len();
        count += 1;
    }
    (socket.try_write(&slices[..count]), offered)
}
