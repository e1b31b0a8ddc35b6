//! The compressed form of a frame's messages, which all readers share that negotiated permessage-deflate.

use super::{Frame, MAX_HEADER, TEXT};
use crate::deflate::{self, RSV1, Window};

/// The room for the end of a message: that of its id, and of the blocks that hold it.
const END_BYTES: usize = 64;

/// The compressed form of a frame, in which at least one message is shorter.
#[derive(Debug)]
pub(crate) enum Compressed {
    /// It is complete.
    Whole(Deflated),
    /// It lacks the end of each message.
    Open(Parts),
}

/// A frame of compressed messages, and of those that do not become shorter.
#[derive(Debug)]
pub(crate) struct Deflated {
    frame: Frame,
    /// The window that a reader needs.
    window: Window,
}

/// The compressed bytes of a frame's messages, without the headers of their frames.
#[derive(Debug)]
pub(crate) struct Parts {
    messages: Vec<Part>,
    bytes: Vec<u8>,
}

/// The compressed bytes of one message.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// How many bytes of the message they stand for; 0 if the message is sent as it is.
    covered: usize,
    /// Where they end.
    end: usize,
}

/// The messages that were compressed, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Savings {
    pub(crate) messages: u64,
    pub(crate) before: u64,
    pub(crate) after: u64,
}

impl Compressed {
    /// Compresses the messages of at least `from` bytes. Returns `None` if none becomes shorter.
    ///
    /// The messages of a history end with an id that is known only with their channel locked, when nothing may be compressed
    /// any more. With `is_open` the last byte of each message is left out; [`Compressed::end`] adds it, or more.
    pub(crate) fn new(frame: &Frame, from: usize, is_open: bool) -> Option<(Compressed, Savings)> {
        let (mut messages, mut bytes) = (Vec::with_capacity(frame.messages()), Vec::new());
        let mut savings = Savings::default();
        for payload in frame.payloads() {
            let beginning = &payload[..payload.len().saturating_sub(usize::from(is_open))];
            let mut covered = 0;
            if payload.len() >= from && deflate::compress(beginning, is_open, &mut bytes) {
                covered = beginning.len();
                savings.messages += 1;
                savings.before += covered as u64;
            }
            messages.push(Part { covered, end: bytes.len() });
        }
        savings.after = bytes.len() as u64;
        let parts = Parts { messages, bytes };
        let compressed = |parts: Parts| {
            if is_open { Compressed::Open(parts) } else { Compressed::Whole(parts.finish(frame, |_, _| {})) }
        };
        (savings.messages > 0).then(|| (compressed(parts), savings))
    }

    /// Returns the frame, if it is complete.
    pub(crate) fn whole(&self) -> Option<&Deflated> {
        match self {
            Compressed::Whole(deflated) => Some(deflated),
            Compressed::Open(_) => None,
        }
    }

    /// Returns the frame with the ends of the messages of `frame`, if they were left out.
    pub(crate) fn end(&self, frame: &Frame) -> Option<Deflated> {
        match self {
            Compressed::Whole(_) => None,
            Compressed::Open(parts) => Some(parts.finish(frame, deflate::end_open)),
        }
    }
}

impl Parts {
    /// Makes the frame. Calls `end` to append what is not covered of each message.
    fn finish(&self, frame: &Frame, end: impl Fn(&[u8], &mut Vec<u8>)) -> Deflated {
        let room = self.bytes.len() + self.messages.len() * (MAX_HEADER + END_BYTES);
        let (mut out, mut start, mut longest) = (Vec::with_capacity(room), 0, 0);
        for (part, payload) in self.messages.iter().zip(frame.payloads()) {
            if part.covered == 0 {
                Frame::append_text(&mut out, |out| out.extend_from_slice(payload));
            } else {
                Frame::append(&mut out, TEXT | RSV1, |out| {
                    out.extend_from_slice(&self.bytes[start..part.end]);
                    end(&payload[part.covered..], out);
                });
            }
            start = part.end;
            longest = longest.max(part.covered);
        }
        let frame = Frame::finished(&out, self.messages.len() as u32);
        Deflated { frame, window: Window::for_length(longest) }
    }
}

impl Deflated {
    /// Returns the frame if a reader with this window can read it.
    #[inline]
    pub(crate) fn for_window(&self, window: Option<Window>) -> Option<&Frame> {
        (window >= Some(self.window)).then_some(&self.frame)
    }
}
