//! Frames between the generator and a server, and the marks by which messages are recognized.

use std::sync::Arc;

/// Opcodes (RFC 6455 section 5.2).
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// The role of a connection in a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The channel that it reads or writes.
    pub channel: String,
    /// Whether it reads the channel.
    pub reads: bool,
    /// The token that it sends; empty for servers that need none.
    pub token: String,
}

/// The protocol of a kind of server over WebSocket, as far as messages must be published and counted.
pub trait Dialect {
    /// Header lines of the upgrade request, each with its line ending.
    fn headers(&self, seat: &Seat) -> String;

    /// Complete client frames to send after the upgrade; [`Dialect::greeted`] decides when they have been answered.
    fn greeting(&self, _seat: &Seat) -> Option<Vec<u8>> {
        None
    }

    /// Whether a frame's payload ends the greeting.
    fn greeted(&self, _seat: &Seat, _payload: &[u8]) -> bool {
        true
    }

    /// Appends a complete client frame that publishes `data` on the seat's channel.
    fn publish(&self, seat: &Seat, data: &[u8], out: &mut Vec<u8>);

    /// Appends a complete client frame that asks to join or leave channels, whose answer is one data frame.
    fn ask(&self, _joins: bool, _channels: &[String], _out: &mut Vec<u8>) {}

    /// Passes the data of each message in a data frame's payload to `take`. Where the server expects an answer,
    /// complete client frames are appended to `answer`.
    fn messages(&self, seat: &Seat, payload: &[u8], answer: &mut Vec<u8>, take: impl FnMut(&[u8]));
}

/// Philote's own protocol.
#[derive(Clone, Copy, Debug)]
pub struct Philote;

impl Dialect for Philote {
    fn headers(&self, seat: &Seat) -> String {
        format!("Authorization: Bearer {}\r\n", seat.token)
    }

    fn publish(&self, seat: &Seat, data: &[u8], out: &mut Vec<u8>) {
        let parts: [&[u8]; 5] =
            [b"{\"channel\":\"", seat.channel.as_bytes(), b"\",\"data\":\"", data, b"\"}"];
        client_frame(TEXT, &parts, out);
    }

    fn ask(&self, joins: bool, channels: &[String], out: &mut Vec<u8>) {
        let key = if joins { "join" } else { "leave" };
        client_frame(TEXT, &[serde_json::json!({ key: channels }).to_string().as_bytes()], out);
    }

    fn messages(&self, seat: &Seat, payload: &[u8], _: &mut Vec<u8>, mut take: impl FnMut(&[u8])) {
        // {"issuer":"<36>","channel":"<name>","data":"<data>": the position of the data depends only on the name.
        const BEFORE: usize = r#"{"issuer":"","channel":"","data":""#.len() + 36;
        if let Some(data) = payload.get(BEFORE + seat.channel.len()..) {
            take(data);
        }
    }
}

/// Bare frames whose payload is the data: the frames of the floor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bare;

impl Dialect for Bare {
    fn headers(&self, _: &Seat) -> String {
        String::new()
    }

    fn publish(&self, _: &Seat, _: &[u8], _: &mut Vec<u8>) {}

    fn messages(&self, _: &Seat, payload: &[u8], _: &mut Vec<u8>, mut take: impl FnMut(&[u8])) {
        take(payload);
    }
}

/// The first byte of a client's text frame.
pub const TEXT: u8 = 0x81;

/// Appends a client frame. RFC 6455 requires a masking key; one of zeros leaves the payload as it is, which costs nothing.
pub fn client_frame(first: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(first);
    match length {
        0..=125 => out.push(0x80 | length as u8),
        126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// A server's text frame of `length` bytes, header included, whose payload begins with `start`.
pub(super) fn server_frame(start: &[u8], length: usize) -> Vec<u8> {
    let mut frame = vec![TEXT];
    match length {
        0..=127 => frame.push(length.saturating_sub(2) as u8),
        128..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&((length - 4) as u16).to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&((length - 10) as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(start);
    frame.resize(length.max(frame.len()), b'x');
    frame
}

/// The kind of a frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Ping,
    Pong,
    Close,
}

/// The first frame of `bytes`: its kind, the start of its payload, and its end. `None` if it is incomplete.
pub(super) fn first_frame(bytes: &[u8]) -> Option<(Kind, usize, usize)> {
    let [first, second, rest @ ..] = bytes else { return None };
    let (start, length) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(*rest.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*rest.first_chunk()?) as usize),
        length => (2, usize::from(length)),
    };
    let end = start + length;
    let kind = match first & 0x0f {
        CONTINUATION..=BINARY => Kind::Data,
        CLOSE => Kind::Close,
        PING => Kind::Ping,
        _ => Kind::Pong,
    };
    (bytes.len() >= end).then_some((kind, start, end))
}

/// The mark in each message: its number within its group, and when it was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) number: u32,
    /// Nanoseconds since the generator started.
    pub(super) due: u64,
}

impl Mark {
    /// Hexadecimal digits of the number and of the time, which suffice for 78 hours.
    const NUMBER: usize = 8;
    const DUE: usize = 12;
    /// The length of the mark in a message.
    pub(super) const LENGTH: usize = Self::NUMBER + Self::DUE;

    pub(super) fn write(self, data: &mut [u8]) {
        let digits = |value: u64, place: &mut [u8]| {
            for (at, digit) in place.iter_mut().rev().enumerate() {
                *digit = b"0123456789abcdef"[(value >> (4 * at)) as usize & 15];
            }
        };
        let (number, rest) = data.split_at_mut(Self::NUMBER);
        digits(u64::from(self.number), number);
        digits(self.due, &mut rest[..Self::DUE]);
    }

    pub(super) fn read(data: &[u8]) -> Option<Mark> {
        let digits = |place: &[u8]| {
            place.iter().try_fold(0, |value, digit| match digit {
                b'0'..=b'9' => Some(value << 4 | u64::from(digit - b'0')),
                b'a'..=b'f' => Some(value << 4 | u64::from(digit - b'a' + 10)),
                _ => None,
            })
        };
        let number = digits(data.get(..Self::NUMBER)?)?;
        Some(Mark { number: number as u32, due: digits(data.get(Self::NUMBER..Self::LENGTH)?)? })
    }
}

/// A seat that several connections share.
pub(super) type SharedSeat = Arc<Seat>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_as_it_was() {
        let mut data = [b'x'; 64];
        for mark in [Mark { number: 0, due: 0 }, Mark { number: u32::MAX, due: (1 << 48) - 1 }] {
            mark.write(&mut data);
            assert_eq!(Mark::read(&data), Some(mark));
            assert_eq!(data[Mark::LENGTH], b'x');
        }
        assert_eq!(Mark::read(b"{\"error\":\"forbidden\"}"), None);
        assert_eq!(Mark::read(b"1234"), None);
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        for length in [30, 127, 128, 129, 65_535, 65_536, 70_000] {
            let frame = server_frame(b"start", length);
            assert_eq!(frame.len(), length);
            let mut two = frame.clone();
            two.extend_from_slice(&frame);
            let (kind, start, end) = first_frame(&two).unwrap();
            assert_eq!((kind, end), (Kind::Data, length));
            assert!(two[start..].starts_with(b"start"));
            for cut in [0, 1, 2, 3, 9, length - 1] {
                assert_eq!(first_frame(&frame[..cut]), None, "{cut} of {length}");
            }
        }
    }

    #[test]
    fn deliveries_have_their_data_where_the_parser_expects_it() {
        let seat = Seat { channel: "a channel".into(), reads: true, token: String::new() };
        let issuer = "0".repeat(36);
        let payload = format!(r#"{{"issuer":"{issuer}","channel":"a channel","data":"here","subject":"s"}}"#);
        let mut seen = Vec::new();
        Philote.messages(&seat, payload.as_bytes(), &mut Vec::new(), |data| seen.push(data[..4].to_vec()));
        assert_eq!(seen, [b"here"]);
    }
}
