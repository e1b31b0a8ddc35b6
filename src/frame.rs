//! Encoded WebSocket frames, which all readers share.

mod compressed;

use std::ops::Deref;
use std::sync::Arc;

pub(crate) use self::compressed::{Compressed, Deflated};
use crate::close::CloseReason;
use crate::deflate::Window;

/// The longest header of a server's frame: two bytes and a 64-bit length (RFC 6455 section 5.2; servers do not mask).
const MAX_HEADER: usize = 10;

/// The longest payload of a control frame, in bytes (RFC 6455 section 5.5).
const MAX_CONTROL_PAYLOAD: usize = 125;

/// First bytes of final frames: FIN and the opcode (RFC 6455 section 5.2).
pub(crate) const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

/// The bytes of one or more encoded frames. Each frame is a whole message. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: Arc<[u8]>,
    messages: u32,
}

impl Frame {
    /// Appends a text frame whose payload `write` appends.
    ///
    /// The length of the header is known only after the payload is written, so the payload is moved up to the header.
    pub(crate) fn append_text(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        Frame::append(out, TEXT, write);
    }

    /// Appends a frame with this first byte.
    #[inline]
    fn append(out: &mut Vec<u8>, first: u8, write: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        out.extend_from_slice(&[0; MAX_HEADER]);
        write(out);
        let length = out.len() - start - MAX_HEADER;
        let (size, mut header) = (header_size(length), [0; MAX_HEADER]);
        header[0] = first;
        match size {
            2 => header[1] = length as u8,
            4 => {
                header[1] = 126;
                header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                header[1] = 127;
                header[2..].copy_from_slice(&(length as u64).to_be_bytes());
            }
        }
        out[start..start + size].copy_from_slice(&header[..size]);
        out.copy_within(start + MAX_HEADER.., start + size);
        out.truncate(start + size + length);
    }

    /// Encodes the Close frame of a reason, with its code and its sentence.
    pub fn close(reason: &CloseReason) -> Frame {
        Frame::close_with(reason.code(), reason.sentence())
    }

    /// Encodes a Close frame with this code and sentence. A long sentence is cut at the limit of a control frame.
    pub(crate) fn close_with(code: u16, sentence: &str) -> Frame {
        let mut payload = code.to_be_bytes().to_vec();
        let end = sentence.floor_char_boundary(MAX_CONTROL_PAYLOAD - payload.len());
        payload.extend_from_slice(&sentence.as_bytes()[..end]);
        Frame::control(CLOSE, &payload)
    }

    /// Encodes a ping without payload: any pong shows that the client lives, whatever its payload.
    pub fn ping() -> Frame {
        Frame::control(PING, &[])
    }

    /// Encodes a client's message as the server would send it to a reader with this window.
    pub(crate) fn echo(message: &[u8], is_binary: bool, window: Option<Window>) -> Frame {
        let mut bytes = Vec::new();
        Frame::append_text(&mut bytes, |out| out.extend_from_slice(message));
        if window.is_some()
            && let Some((compressed, _)) = Compressed::new(&Frame::finished(&bytes, 1), 1, false)
            && let Some(frame) = compressed.whole().and_then(|deflated| deflated.for_window(window))
        {
            bytes = frame.to_vec();
        }
        if is_binary {
            bytes[0] = bytes[0] & !TEXT | BINARY;
        }
        Frame::finished(&bytes, 1)
    }

    /// Wraps bytes that are encoded frames already, with the number of their messages.
    pub(crate) fn finished(bytes: &[u8], messages: u32) -> Frame {
        Frame { bytes: Arc::from(bytes), messages }
    }

    /// Wraps bytes of any origin if they are whole text frames as [`Frame::append_text`] makes them, at least one.
    pub(crate) fn checked(bytes: &[u8]) -> Option<Frame> {
        let (mut rest, mut messages) = (bytes, 0);
        while !rest.is_empty() {
            let payload;
            (payload, rest) = first_text(rest)?;
            std::str::from_utf8(payload).ok()?;
            messages += 1;
        }
        (messages > 0 && u32::try_from(bytes.len()).is_ok()).then(|| Frame::finished(bytes, messages))
    }

    /// Returns the end of each message in the bytes.
    pub(crate) fn ends(&self) -> Box<[u32]> {
        let mut end = 0;
        let ends = self.payloads().map(|payload| {
            end += header_size(payload.len()) + payload.len();
            end as u32
        });
        ends.collect()
    }

    /// Returns each of the frames that it consists of.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let part;
            (part, rest) = split(rest)?;
            Some(part)
        })
    }

    /// Returns whether both share their bytes.
    pub(crate) fn is(&self, other: &Frame) -> bool {
        Arc::ptr_eq(&self.bytes, &other.bytes)
    }

    /// Returns the number of messages.
    pub fn messages(&self) -> usize {
        self.messages as usize
    }

    /// Returns the payload of each message in order.
    pub(crate) fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let part;
            (part, rest) = split(rest)?;
            Some(part.payload)
        })
    }

    fn control(first: u8, payload: &[u8]) -> Frame {
        let payload = &payload[..payload.len().min(MAX_CONTROL_PAYLOAD)];
        let mut bytes = Vec::with_capacity(2 + payload.len());
        bytes.extend_from_slice(&[first, payload.len() as u8]);
        bytes.extend_from_slice(payload);
        Frame::finished(&bytes, 1)
    }
}

/// Returns the payload of the text frame that bytes begin with, and the rest; `None` if they do not begin with a whole one that
/// has the shortest header.
fn first_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (Part { first, payload, length }, rest) = split(bytes)?;
    (first == TEXT && header_size(payload.len()) + payload.len() == length).then_some((payload, rest))
}

/// One frame of those that lie one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    /// The first byte: FIN and the opcode.
    pub(crate) first: u8,
    /// The payload, which is not masked.
    pub(crate) payload: &'a [u8],
    /// The length of the whole frame, in bytes.
    pub(crate) length: usize,
}

/// Returns the first of the whole frames that lie in `bytes`, and the rest; `None` if there is none.
#[inline]
pub(crate) fn split(bytes: &[u8]) -> Option<(Part<'_>, &[u8])> {
    let (start, payload) = match *bytes {
        [_, 126, a, b, ..] => (4, usize::from(u16::from_be_bytes([a, b]))),
        [_, 127, a, b, c, d, e, f, g, h, ..] => {
            (MAX_HEADER, u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize)
        }
        [_, length, ..] => (2, usize::from(length)),
        _ => return None,
    };
    let (frame, rest) = bytes.split_at_checked(start.saturating_add(payload))?;
    Some((Part { first: frame[0], payload: &frame[start..], length: frame.len() }, rest))
}

/// Returns the length of the shortest header for a payload (RFC 6455 section 5.2).
fn header_size(length: usize) -> usize {
    match length {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => MAX_HEADER,
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes a text frame behind another one in the same buffer.
    fn text(payload: &str) -> Frame {
        let mut bytes = Vec::new();
        Frame::append_text(&mut bytes, |out| out.push(b'1'));
        Frame::append_text(&mut bytes, |out| out.extend_from_slice(payload.as_bytes()));
        assert_eq!(bytes[..3], [0x81, 1, b'1']);
        Frame::finished(&bytes[3..], 1)
    }

    #[test]
    fn the_length_takes_the_shortest_form() {
        for (length, header) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 0xff, 0xff]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let frame = text(&"x".repeat(length));
            assert_eq!(frame[..header.len()], header, "{length}");
            assert_eq!(frame.len(), header.len() + length);
            let twice = Frame::finished(&[&frame[..], &frame[..]].concat(), 2);
            assert!(twice.payloads().all(|payload| payload == "x".repeat(length).as_bytes()));
            assert_eq!(twice.payloads().count(), 2);
        }
    }

    #[test]
    fn only_whole_text_frames_are_taken_from_bytes() {
        let frames =
            [text("a"), text(&"ü".repeat(300)), text(&"x".repeat(70_000))].map(|frame| frame.to_vec());
        let good = frames.concat();
        let frame = Frame::checked(&good).unwrap();
        assert_eq!((&frame[..], frame.messages()), (&good[..], 3));
        assert_eq!(*frame.ends(), [3, 607, good.len() as u32]);
        for length in (0..700).chain([good.len() - 1]) {
            let is_whole = [3, 607].contains(&length);
            assert_eq!(Frame::checked(&good[..length]).is_some(), is_whole, "{length}");
        }
        for bad in [
            &[BINARY, 1, b'a'][..],
            &[1, 1, b'a'],
            &[TEXT, 0x81, 0, 0, 0, 0, b'a'],
            &[TEXT, 126, 0, 1, b'a'],
            &[TEXT, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, b'a'],
            &[TEXT, 1, 0xff],
        ] {
            assert_eq!(Frame::checked(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_long_sentence_is_cut_between_characters() {
        let frame = Frame::close_with(4401, &"ü".repeat(100));
        assert_eq!(frame[..4], [0x88, 2 + 122, 0x11, 0x31]);
        assert_eq!(std::str::from_utf8(&frame[4..]), Ok(&*"ü".repeat(61)));
    }

    #[test]
    fn every_close_reason_fits_a_control_frame() {
        for reason in CloseReason::all() {
            assert!(reason.sentence().len() + 2 <= MAX_CONTROL_PAYLOAD, "{reason:?}");
            let frame = Frame::close(&reason);
            assert_eq!(frame[2..4], reason.code().to_be_bytes());
        }
    }
}
