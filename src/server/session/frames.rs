//! Turns the bytes of a socket into messages. tungstenite checks the protocol; one context per thread serves all
//! connections that are between two messages.
//!
//! A WebSocket context costs several hundred bytes and a read buffer. Between two messages a fresh one is as good as
//! the old one, so only a connection in the middle of a message owns one. [`Boundary`] finds these moments. A compressed
//! message is a binary one to tungstenite.

use std::cell::Cell;
use std::io::{self, Read, Write};

use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

use super::boundary::{Boundary, Compressed};
use super::whole::{self, Data};
use crate::close::CloseReason;
use crate::deflate::{InflateError, inflate, longest_compressed};
use crate::frame::Frame;
use crate::outbox::Seconds;

/// The most data frames of one message.
const MAX_FRAGMENTS: u32 = 1024;

/// The sizes that a context works with, from `[websocket]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameLimits {
    /// `max_message_size`, for a message and for each of its frames, in bytes.
    pub message: usize,
    /// `read_buffer_size`: what a context takes from its feed at once, in bytes.
    pub read_buffer: usize,
    /// Whether permessage-deflate was negotiated.
    pub deflate: bool,
}

impl FrameLimits {
    /// Returns the limit on the frames of a message. A compressed one may become longer by that.
    fn frames(&self) -> usize {
        if self.deflate { longest_compressed(self.message) } else { self.message }
    }
}

impl Received<'_> {
    /// Returns the payload bytes that count against a connection's rate. A Close does not count, because it ends the
    /// connection.
    pub(crate) fn size(&self) -> Option<usize> {
        match self {
            Received::Message(message) => Some(message.bytes().len()),
            Received::Ping(pong) => Some(pong.len()),
            Received::Pong => Some(0),
            Received::Close(..) => None,
        }
    }
}

/// The stream that a context reads from and answers to. It never gives the context more than the current frame.
struct Feed<'bytes, 'reader> {
    bytes: &'bytes [u8],
    boundary: &'reader mut Boundary,
    now: Seconds,
    /// Whether permessage-deflate was negotiated.
    deflate: bool,
    replies: Vec<u8>,
}

impl Read for Feed<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.boundary.fragments > MAX_FRAGMENTS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let offered = &self.bytes[..self.bytes.len().min(buffer.len())];
        if offered.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let begins = self.deflate && self.boundary.have == 0;
        let first = if begins { self.boundary.begin_compressed(offered[0]) } else { offered[0] };
        let taken = self.boundary.advance(offered, self.now);
        buffer[..taken].copy_from_slice(&offered[..taken]);
        buffer[0] = first;
        self.bytes = &self.bytes[taken..];
        Ok(taken)
    }
}

impl Write for Feed<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.replies.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a client has sent.
#[derive(Debug)]
pub(crate) enum Received<'a> {
    /// A text or binary message.
    Message(Data<'a>),
    /// A ping; the pong that answers it.
    Ping(Frame),
    /// A pong.
    Pong,
    /// The client's Close, and the Close that answers it.
    Close(CloseReason, Frame),
}

thread_local! {
    /// The state of all connections of this thread that are between two messages.
    static SPARE: Cell<Option<Box<Partial>>> = const { Cell::new(None) };
}

/// One connection's side of the protocol.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    /// Its own state, only in the middle of a message.
    partial: Option<Box<Partial>>,
}

/// The state of the protocol in the middle of a message.
#[derive(Debug)]
struct Partial {
    boundary: Boundary,
    context: WebSocketContext,
}

impl Partial {
    fn new(read_buffer: usize) -> Partial {
        let config = WebSocketConfig::default().read_buffer_size(read_buffer).write_buffer_size(0);
        Partial { boundary: Boundary::default(), context: WebSocketContext::new(Role::Server, Some(config)) }
    }
}

impl FrameReader {
    /// Returns whether it has no state of its own.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.partial.is_none()
    }

    /// Returns when the message in progress began, if there is one.
    pub(crate) fn message_began(&self) -> Option<Seconds> {
        self.partial.as_ref()?.boundary.began()
    }

    /// Calls `take` with what is in `bytes`, until it returns false or no whole frame is left. Removes the bytes that
    /// were used.
    ///
    /// # Errors
    /// The reason to close with. Nothing after it counts.
    pub(crate) fn read(
        &mut self,
        bytes: &mut &[u8],
        limits: FrameLimits,
        now: Seconds,
        mut take: impl FnMut(Received<'_>) -> bool,
    ) -> Result<(), CloseReason> {
        if self.message_began().is_none() {
            let take = |message: Data<'_>| take(Received::Message(message));
            let goes_on = whole::read(bytes, limits.message, limits.deflate, take);
            if bytes.is_empty() || !goes_on {
                return Ok(());
            }
        }
        let partial = self.partial.take().or_else(|| SPARE.take());
        let mut partial = partial.unwrap_or_else(|| Box::new(Partial::new(limits.read_buffer)));
        let Partial { boundary, context } = &mut *partial;
        context.set_config(|config| {
            config.max_message_size = Some(limits.frames());
            config.max_frame_size = Some(limits.frames());
        });
        let mut feed = Feed { bytes, boundary, now, deflate: limits.deflate, replies: Vec::new() };
        let result = loop {
            match context.read(&mut feed) {
                Ok(Message::Ping(_)) => {
                    // The pong must be sent before another connection may use this context.
                    let _ = context.flush(&mut feed);
                    let pong = Frame::finished(&feed.replies, 1);
                    feed.replies.clear();
                    if !take(Received::Ping(pong)) {
                        break Ok(());
                    }
                }
                Ok(Message::Pong(_)) => {
                    if !take(Received::Pong) {
                        break Ok(());
                    }
                }
                // tungstenite puts 1002 in place of a code that must not be sent (RFC 6455 section 7.4.1).
                Ok(Message::Close(Some(close))) if close.code == CloseCode::Protocol => {
                    return Err(CloseReason::ProtocolError);
                }
                Ok(Message::Close(_)) => {
                    let _ = context.flush(&mut feed);
                    let answer = Frame::finished(&feed.replies, 1);
                    *bytes = feed.bytes;
                    take(Received::Close(CloseReason::ClientClosed, answer));
                    return Ok(());
                }
                Ok(Message::Text(text)) => {
                    let text = within(&limits, text.as_bytes()).map(|_| Data::Text(text.as_str()))?;
                    if !take(Received::Message(text)) {
                        break Ok(());
                    }
                }
                Ok(Message::Binary(bytes)) => {
                    let compressed = std::mem::take(&mut feed.boundary.compressed);
                    let take = |message: Data<'_>| take(Received::Message(message));
                    if !binary(&bytes, compressed, &limits, take)? {
                        break Ok(());
                    }
                }
                // It returns no single frames.
                Ok(Message::Frame(_)) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => return Err(reason(&error)),
            }
        };
        *bytes = feed.bytes;
        if boundary.began().is_none() {
            SPARE.set(Some(partial));
        } else {
            self.partial = Some(partial);
        }
        result
    }
}

/// Calls `take` with a message that tungstenite has read as a binary one. Returns what it returns.
fn binary(
    bytes: &[u8],
    compressed: Compressed,
    limits: &FrameLimits,
    take: impl FnOnce(Data<'_>) -> bool,
) -> Result<bool, CloseReason> {
    let is_binary = match compressed {
        Compressed::No => return within(limits, bytes).map(|bytes| take(Data::Binary(bytes))),
        Compressed::Text => false,
        Compressed::Binary => true,
    };
    let taken = inflate(bytes, limits.message, |payload| Data::of(is_binary, payload).map(take));
    match taken {
        Ok(taken) => taken.ok_or(CloseReason::InvalidUtf8),
        Err(InflateError::Corrupt) => Err(CloseReason::BadCompression),
        Err(InflateError::TooLong) => Err(CloseReason::MessageTooBig),
    }
}

/// Returns a message if it is within the limit on messages.
fn within<'a>(limits: &FrameLimits, message: &'a [u8]) -> Result<&'a [u8], CloseReason> {
    if message.len() <= limits.message { Ok(message) } else { Err(CloseReason::MessageTooBig) }
}

/// Returns the close reason of a protocol error.
fn reason(error: &Error) -> CloseReason {
    match error {
        Error::Io(_) => CloseReason::TooManyFragments,
        Error::Capacity(_) => CloseReason::MessageTooBig,
        Error::Utf8(_) => CloseReason::InvalidUtf8,
        _ => CloseReason::ProtocolError,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const LIMITS: FrameLimits = FrameLimits { message: 300, read_buffer: 4096, deflate: true };

    /// Reads a stream that arrives in pieces of this size. Returns all that was received, and the reason for the end.
    fn received(stream: &[u8], piece: usize) -> (Vec<String>, Option<CloseReason>) {
        received_within(LIMITS, stream, piece)
    }

    fn received_within(
        limits: FrameLimits,
        stream: &[u8],
        piece: usize,
    ) -> (Vec<String>, Option<CloseReason>) {
        let (mut reader, mut all) = (FrameReader::default(), Vec::new());
        for mut piece in stream.chunks(piece) {
            while !piece.is_empty() {
                let result = reader.read(&mut piece, limits, 0, |received| {
                    all.push(format!("{received:?}"));
                    // It goes on with the next call, as after a flush.
                    !all.len().is_multiple_of(3)
                });
                if let Err(reason) = result {
                    return (all, Some(reason));
                }
                if all.last().is_some_and(|last| last.starts_with("Close")) {
                    return (all, None);
                }
            }
        }
        (all, None)
    }

    fn frame(first: u8, second: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match u16::try_from(payload.len()).unwrap() {
            short @ 0..126 => frame.push(second | short as u8),
            long => {
                frame.push(second | 126);
                frame.extend_from_slice(&long.to_be_bytes());
            }
        }
        let mask = [1, 77, 200, 255];
        if second & 0x80 != 0 {
            frame.extend_from_slice(&mask);
        }
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn payload() -> impl Strategy<Value = Vec<u8>> {
        let text = |range| vec(prop_oneof![8 => Just(b'a'), 1 => Just(b'\\')], range);
        // Around the lengths at which the header grows and the limit is reached.
        prop_oneof![
            text(0..40),
            text(120..131),
            text(295..305),
            text(0..400).prop_map(|text| deflated(&text)),
            vec(any::<u8>(), 0..20),
            "\\PC{0,20}".prop_map(String::into_bytes)
        ]
    }

    /// The compressed form of a message.
    fn deflated(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 * text.len() + 100);
        let mut compressor = flate2::Compress::new(flate2::Compression::default(), false);
        compressor.compress_vec(text, &mut out, flate2::FlushCompress::Sync).unwrap();
        out.truncate(out.len() - 4);
        out
    }

    #[test]
    fn a_compressed_message_in_fragments_is_one_message() {
        let payload = deflated("schön ".repeat(40).as_bytes());
        for (first, kind) in [(0x41, "Text"), (0x42, "Binary")] {
            for cut in 0..=payload.len() {
                let (one, two) = payload.split_at(cut);
                let pong = frame(0x8a, 0x80, b"");
                let stream =
                    [frame(first, 0x80, one), pong, frame(0, 0x80, b""), frame(0x80, 0x80, two)].concat();
                // The next message is not compressed.
                let stream = [stream, frame(0x81, 0x80, b"plain")].concat();
                let (all, end) = received(&stream, 11);
                assert_eq!(end, None);
                assert!(all[0] == "Pong" && all[1].starts_with(&format!("Message({kind}(")), "{all:?}");
                assert_eq!(all[2..], ["Message(Text(\"plain\"))"]);
            }
        }
    }

    #[test]
    fn compression_has_its_own_close_reasons() {
        let (long, text) = (deflated(&[b'x'; 301]), deflated(b"text"));
        let not_utf8 = deflated(b"\xff");
        for (what, stream, reason) in [
            ("too long", frame(0xc1, 0x80, &long), CloseReason::MessageTooBig),
            ("corrupt", frame(0xc1, 0x80, b"text"), CloseReason::BadCompression),
            ("cut short", frame(0xc1, 0x80, &text[..3]), CloseReason::BadCompression),
            ("no text", frame(0xc1, 0x80, &not_utf8), CloseReason::InvalidUtf8),
            ("a control frame", frame(0xc9, 0x80, &text), CloseReason::ProtocolError),
            (
                "a continuation",
                [frame(0x41, 0x80, &text), frame(0xc0, 0x80, b"")].concat(),
                CloseReason::ProtocolError,
            ),
            ("another reserved bit", frame(0xe1, 0x80, &text), CloseReason::ProtocolError),
            ("an unknown opcode", frame(0xc3, 0x80, &text), CloseReason::ProtocolError),
            ("an unmasked frame", frame(0xc1, 0, &text), CloseReason::ProtocolError),
            ("a long message as it is", frame(0x82, 0x80, &[b'x'; 301]), CloseReason::MessageTooBig),
        ] {
            for piece in [1, 1000] {
                assert_eq!(received(&stream, piece), (vec![], Some(reason)), "{what}, {piece} bytes at once");
            }
        }
        assert_eq!(received(&frame(0xc2, 0x80, &not_utf8), 1).1, None, "binary messages may be anything");
        let off = FrameLimits { deflate: false, ..LIMITS };
        for piece in [1, 1000] {
            let ended = received_within(off, &frame(0xc1, 0x80, &text), piece);
            assert_eq!(ended, (vec![], Some(CloseReason::ProtocolError)), "it was not negotiated");
        }
    }

    proptest! {
        /// A stream that arrives byte by byte has no whole frames, so tungstenite reads all of it.
        #[test]
        fn whole_frames_are_read_as_those_in_pieces(frames in vec(
            (
                prop_oneof![6 => Just(0x81), 3 => Just(0x82), 1 => Just(0x01), 1 => Just(0x80), 1 => Just(0x89),
                    1 => Just(0x8a), 1 => Just(0x88), 3 => Just(0xc1), 1 => Just(0xc2), 1 => Just(0x41),
                    1 => any::<u8>()],
                prop_oneof![30 => Just(0x80), 1 => Just(0)],
                payload(),
            ),
            1..8,
        ), cut in 0..9_usize) {
            let mut stream: Vec<u8> =
                frames.iter().flat_map(|(first, second, payload)| frame(*first, *second, payload)).collect();
            stream.truncate(stream.len() - cut.min(stream.len()));
            let pieces = received(&stream, 1);
            for size in [stream.len().max(1), 7, 100] {
                prop_assert_eq!(&received(&stream, size), &pieces, "pieces of {} bytes", size);
            }
        }
    }
}
