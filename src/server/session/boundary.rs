//! Where the frames and messages of a stream begin and end.

use crate::deflate::RSV1;
use crate::outbox::Seconds;

/// The bits of a frame's first byte that tell its kind (RFC 6455 section 5.2).
const OPCODE: u8 = 0x0f;

/// The opcodes of messages with [`RSV1`].
const TEXT: u8 = RSV1 | 1;
const BINARY: u8 = RSV1 | 2;

/// Follows the frames of a stream without reading their payload (RFC 6455 section 5.2).
#[derive(Debug, Default)]
pub(super) struct Boundary {
    header: [u8; 14],
    /// Header bytes seen of the current frame; 0 between two frames.
    pub(super) have: u8,
    /// Payload bytes of the current frame that are still to come.
    remaining: u64,
    /// Data frames of the current message so far; 0 between two messages.
    pub(super) fragments: u32,
    /// When the current message began, or the frame that is about to begin one.
    began: Seconds,
    /// Whether the current message is compressed.
    pub(super) compressed: Compressed,
}

/// Whether a message is compressed, and what it contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Compressed {
    #[default]
    No,
    Text,
    Binary,
}

impl Boundary {
    /// Returns when the message in progress began, if there is one.
    pub(super) fn began(&self) -> Option<Seconds> {
        (self.have > 0 || self.fragments > 0).then_some(self.began)
    }

    /// Notes a compressed message that begins with this first byte of a frame (RFC 7692 section 6). Returns the byte that
    /// tungstenite reads in its place: to it, the compressed bytes are a binary message.
    pub(super) fn begin_compressed(&mut self, first: u8) -> u8 {
        let compressed = match first & (RSV1 | OPCODE) {
            TEXT if self.fragments == 0 => Compressed::Text,
            BINARY if self.fragments == 0 => Compressed::Binary,
            _ => return first,
        };
        self.compressed = compressed;
        first & !(RSV1 | OPCODE) | BINARY & OPCODE
    }

    /// Takes bytes up to the end of the current frame, and returns how many.
    pub(super) fn advance(&mut self, bytes: &[u8], now: Seconds) -> usize {
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
