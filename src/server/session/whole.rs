//! Reads messages that have arrived whole and in one frame, which nearly all are. They need no state of the protocol, so no
//! context of tungstenite is set up for them, and their bytes are copied once.
//!
//! It takes only what is valid. Every other frame is left to tungstenite, which alone judges what is wrong with it.

use std::cell::Cell;

use crate::deflate::{RSV1, inflate};

/// First bytes of a message in one frame: FIN and the opcode (RFC 6455 section 5.2).
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

/// The bit of the second byte that every client sets, because its payload is masked (RFC 6455 section 5.1).
const MASKED: u8 = 0x80;

/// A text or binary message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
}

impl<'a> Data<'a> {
    /// Returns the message with this payload; `None` if it is a text and not UTF-8.
    pub(super) fn of(is_binary: bool, payload: &'a [u8]) -> Option<Data<'a>> {
        if is_binary {
            Some(Data::Binary(payload))
        } else {
            std::str::from_utf8(payload).ok().map(Data::Text)
        }
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Data::Text(text) => text.as_bytes(),
            Data::Binary(bytes) => bytes,
        }
    }

    /// Returns its text, which a binary message may contain as well; `None` if it is not UTF-8.
    pub(crate) fn text(self) -> Option<&'a str> {
        match self {
            Data::Text(text) => Some(text),
            Data::Binary(bytes) => std::str::from_utf8(bytes).ok(),
        }
    }
}

thread_local! {
    /// The payload of the last message of this thread, unmasked. It is no longer than one read.
    static PAYLOAD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Calls `take` with each message at the beginning of `bytes` that has arrived whole in one frame and has at most `max` bytes,
/// until one is none or `take` returns false. With `deflate` a message may be compressed. Removes their bytes. Returns false
/// if `take` did.
pub(super) fn read(
    bytes: &mut &[u8],
    max: usize,
    deflate: bool,
    mut take: impl FnMut(Data<'_>) -> bool,
) -> bool {
    let mut payload = PAYLOAD.take();
    let mut goes_on = true;
    let compressed = if deflate { RSV1 } else { 0 };
    while goes_on
        && let Some((frame, rest)) = whole_frame(bytes, compressed)
        && frame.masked.len() <= max
    {
        payload.clear();
        payload.extend_from_slice(frame.masked);
        unmask(&mut payload, frame.mask);
        let mut take = |payload: &[u8]| Data::of(frame.first & !RSV1 == BINARY, payload).map(&mut take);
        let taken = if frame.first & RSV1 == 0 {
            take(&payload)
        } else {
            inflate(&payload, max, take).unwrap_or_default()
        };
        let Some(taken) = taken else { break };
        *bytes = rest;
        goes_on = taken;
    }
    PAYLOAD.set(payload);
    goes_on
}

/// A frame that is a message.
struct WholeFrame<'a> {
    first: u8,
    mask: [u8; 4],
    masked: &'a [u8],
}

/// Returns the frame at the beginning of `bytes`, if it is a whole message with at most 65,535 bytes, and the bytes after it.
/// Its first byte may have the bits of `compressed`.
fn whole_frame(bytes: &[u8], compressed: u8) -> Option<(WholeFrame<'_>, &[u8])> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    if !matches!(first & !compressed, TEXT | BINARY) {
        return None;
    }
    let (length, rest) = match second.checked_sub(MASKED)? {
        126 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        127 => return None,
        length => (usize::from(length), rest),
    };
    let (&mask, rest) = rest.split_first_chunk()?;
    let (masked, rest) = rest.split_at_checked(length)?;
    Some((WholeFrame { first, mask, masked }, rest))
}

/// Undoes the masking of a payload (RFC 6455 section 5.3).
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    const WIDTH: usize = 16;
    let wide = u128::from_ne_bytes(std::array::from_fn::<u8, WIDTH, _>(|at| mask[at % 4]));
    let (chunks, rest) = payload.as_chunks_mut::<WIDTH>();
    for chunk in chunks {
        *chunk = (u128::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}
