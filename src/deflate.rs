//! permessage-deflate (RFC 7692): its negotiation, and single messages compressed and decompressed.
//!
//! Neither side keeps context between messages. So a compressed message is the same for all readers, and a connection needs
//! no state: each thread has one compressor and one decompressor for all connections.

mod compress;
mod inflate;
mod offer;

pub(crate) use self::compress::{compress, end_of_open, end_open};
pub(crate) use self::inflate::{InflateError, inflate, inflate_beginning, longest_compressed};
pub(crate) use self::offer::{Agreement, negotiate};

use std::num::NonZeroU8;

/// The bit of a frame's first byte that marks a compressed message (RFC 7692 section 6).
pub(crate) const RSV1: u8 = 0x40;

/// How far back compressed data may refer: the base-2 logarithm of a number of bytes (RFC 7692 section 7.1.2). Never 0, so
/// that an `Option` of it takes one byte in each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Window(NonZeroU8);

impl Window {
    /// The smallest window that a client may ask for.
    const SMALLEST: Window = Window::of(8);
    /// The largest window of the format.
    const LARGEST: Window = Window::of(15);
    /// The window that messages are compressed with, 4 KiB. A client that keeps to less memory than the largest window, as
    /// Python's websockets does, asks for this one. In JSON, what repeats is near.
    const OURS: Window = Window::of(12);

    const fn of(bits: u8) -> Window {
        match NonZeroU8::new(bits) {
            Some(bits) => Window(bits),
            None => Window(NonZeroU8::MIN),
        }
    }

    fn bits(self) -> u8 {
        self.0.get()
    }

    /// Returns the smallest window that every reader of a message of this length needs: no reference is longer than the
    /// message, nor than the window that it is compressed with.
    pub(crate) fn for_length(length: usize) -> Window {
        let bits = (Window::SMALLEST.bits()..Window::OURS.bits()).find(|bits| length <= 1 << bits);
        bits.map_or(Window::OURS, Window::of)
    }
}

/// Takes a value of this thread out of its cell, or makes it, and puts it back after use. If `work` panics, it is dropped.
fn with_spare<T: 'static, R>(
    cell: &'static std::thread::LocalKey<std::cell::Cell<Option<Box<T>>>>,
    make: impl FnOnce() -> T,
    work: impl FnOnce(&mut T) -> R,
) -> R {
    let mut value = cell.take().unwrap_or_else(|| Box::new(make()));
    let result = work(&mut value);
    cell.set(Some(value));
    result
}
