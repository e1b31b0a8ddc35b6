//! Turns the bytes of a socket into messages. tungstenite checks the protocol; one context per thread serves all
//! connections that are between two messages.
//!
//! A WebSocket context costs several hundred bytes and a read buffer. Between two messages a fresh one is as good as
//! the old one, so only a connection in the middle of a message owns one. [`Boundary`] finds these moments.

use std::cell::Cell;
use std::io::{self, Read, Write};

use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

use super::whole::{self, Data};
use crate::close::CloseReason;
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

/// Follows the frames of a stream without reading their payload (RFC 6455 section 5.2).
#[derive(Debug, Default)]
pub(crate) struct Boundary {
    header: [u8; 14],
    /// Header bytes seen of the current frame; 0 between two frames.
    have: u8,
    /// Payload bytes of the current frame that are still to come.
    remaining: u64,
    /// Data frames of the current message so far; 0 between two messages.
    fragments: u32,
    /// When the current message began, or the frame that is about to begin one.
    began: Seconds,
}

impl Boundary {
    /// Returns when the message in progress began, if there is one.
    pub(crate) fn began(&self) -> Option<Seconds> {
        (self.have > 0 || self.fragments > 0).then_some(self.began)
    }

    /// Takes bytes up to the end of the current frame, and returns how many.
    fn advance(&mut self, bytes: &[u8], now: Seconds) -> usize {
        let mut used = 0;
        while used < bytes.len() {
            let have = usize::from(self.have);
            let missing = self.header_length() - have;
            if missing > 0 {
                if self.began().is_none() {
                    self.began = now;
                }
                let taken = missing.min(bytes.len() - used);
                self.header[have..have + taken].copy_from_slice(&bytes[used..used + taken]);
                self.have += taken as u8;
                used += taken;
                if have + taken == self.header_length() {
                    self.begin_payload();
                }
            } else {
                let taken = self.remaining.min((bytes.len() - used) as u64);
                self.remaining -= taken;
                used += taken as usize;
            }
            if self.remaining == 0 && usize::from(self.have) == self.header_length() {
                self.end_frame();
                break;
            }
        }
        used
    }

    /// Returns the length of the current frame's header, as far as its first two bytes tell.
    fn header_length(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let length = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 != 0 { 4 } else { 0 };
        2 + length + mask
    }

    fn begin_payload(&mut self) {
        self.remaining = match self.header[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => {
                let mut length = [0; 8];
                length.copy_from_slice(&self.header[2..10]);
                u64::from_be_bytes(length)
            }
            length => u64::from(length),
        };
        if !self.is_control() {
            self.fragments += 1;
        }
    }

    fn end_frame(&mut self) {
        let is_final = self.header[0] & 0x80 != 0;
        if is_final && !self.is_control() {
            self.fragments = 0;
        }
        self.have = 0;
    }

    /// Control frames may come between the fragments of a message.
    fn is_control(&self) -> bool {
        self.header[0] & 0x08 != 0
    }
}

/// The stream that a context reads from and answers to. It never gives the context more than the current frame.
struct Feed<'bytes, 'reader> {
    bytes: &'bytes [u8],
    boundary: &'reader mut Boundary,
    now: Seconds,
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
        let taken = self.boundary.advance(offered, self.now);
        buffer[..taken].copy_from_slice(&offered[..taken]);
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
            let goes_on = whole::read(bytes, limits.message, |message| take(Received::Message(message)));
            if bytes.is_empty() || !goes_on {
                return Ok(());
            }
        }
        let partial = self.partial.take().or_else(|| SPARE.take());
        let mut partial = partial.unwrap_or_else(|| Box::new(Partial::new(limits.read_buffer)));
        let Partial { boundary, context } = &mut *partial;
        context.set_config(|config| {
            config.max_message_size = Some(limits.message);
            config.max_frame_size = Some(limits.message);
        });
        let mut feed = Feed { bytes, boundary, now, replies: Vec::new() };
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
                    if !take(Received::Message(Data::Text(text.as_str()))) {
                        break Ok(());
                    }
                }
                Ok(Message::Binary(bytes)) => {
                    if !take(Received::Message(Data::Binary(&bytes))) {
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

    const LIMITS: FrameLimits = FrameLimits { message: 300, read_buffer: 4096 };

    /// Reads a stream that arrives in pieces of this size. Returns all that was received, and the reason for the end.
    fn received(stream: &[u8], piece: usize) -> (Vec<String>, Option<CloseReason>) {
        let (mut reader, mut all) = (FrameReader::default(), Vec::new());
        for mut piece in stream.chunks(piece) {
            while !piece.is_empty() {
                let result = reader.read(&mut piece, LIMITS, 0, |received| {
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
            vec(any::<u8>(), 0..20),
            "\\PC{0,20}".prop_map(String::into_bytes)
        ]
    }

    proptest! {
        /// A stream that arrives byte by byte has no whole frames, so tungstenite reads all of it.
        #[test]
        fn whole_frames_are_read_as_those_in_pieces(frames in vec(
            (
                prop_oneof![6 => Just(0x81), 3 => Just(0x82), 1 => Just(0x01), 1 => Just(0x80), 1 => Just(0x89),
                    1 => Just(0x8a), 1 => Just(0x88), 1 => Just(0xc1), 1 => any::<u8>()],
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
