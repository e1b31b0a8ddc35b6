//! Which messages of an outbox were not written to its socket, for administrators who ask what a client has got.
//!
//! Nothing is noted while messages are delivered. What is queued is looked at when somebody asks; what is dropped or refused,
//! because the connection closes, is looked at then.

use crate::frame::Frame;
use crate::message::{MessageId, delivered};

/// The most channels that are noted for one connection. Nothing is told about others.
pub const MAX_CHANNELS: usize = 16;

/// The bit of a frame's first byte that says that its message is compressed (RFC 7692 section 6). Its channel is not looked up.
const COMPRESSED: u8 = 0x40;

/// The first message of each channel that was not written, in the order in which the channels were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unwritten {
    /// The name of each channel as JSON text, with the id.
    channels: Vec<(Box<[u8]>, MessageId)>,
    /// Nothing is known of channels that are not noted: there were more than [`MAX_CHANNELS`], or a writer has panicked.
    more: bool,
    /// A message was compressed, which may have been the first one of any channel.
    compressed: bool,
}

/// The first message of a channel that was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// There is none.
    AllWritten,
    /// The one with this id.
    At(MessageId),
    /// Nothing is known of this channel.
    Unknown,
}

impl Unwritten {
    /// Notes the messages of a frame of which `offset` bytes are written.
    pub(super) fn note(&mut self, frame: &Frame, offset: usize) {
        let mut looked_at = 0;
        for (payload, end) in frame.texts() {
            looked_at = end;
            if end <= offset {
                continue;
            }
            let Some((channel, id)) = delivered(payload) else { continue };
            match self.channels.iter().position(|(known, _)| **known == *channel) {
                Some(at) => {
                    let first = &mut self.channels[at].1;
                    // What was queued before may be noted after it, when its writer gives it back.
                    if first.epoch == id.epoch {
                        first.number = first.number.min(id.number);
                    }
                }
                None if self.channels.len() < MAX_CHANNELS => self.channels.push((channel.into(), id)),
                None => self.more = true,
            }
        }
        if frame.get(looked_at).is_some_and(|first| first & COMPRESSED != 0) {
            self.compressed = true;
        }
    }

    /// Notes that nothing is known of other channels.
    pub(super) fn note_unknown(&mut self) {
        self.more = true;
    }

    /// Returns the first message of a channel that was not written.
    pub fn first_of(&self, channel: &str) -> First {
        let is_it = |text: &[u8]| serde_json::from_slice::<String>(text).is_ok_and(|name| name == channel);
        match self.channels.iter().find(|(text, _)| is_it(text)) {
            _ if self.compressed => First::Unknown,
            Some((_, id)) => First::At(*id),
            None if self.more => First::Unknown,
            None => First::AllWritten,
        }
    }
}
