//! Which messages of an outbox were not written to its socket, for administrators who ask what a client has got.
//!
//! Nothing is noted while messages are delivered. What is queued is looked at when somebody asks; what is dropped or refused,
//! because the connection closes, is looked at then.

use crate::deflate::{RSV1, end_of_open, inflate_beginning};
use crate::frame::{Frame, TEXT};
use crate::message::{MessageId, delivered};

/// The most channels that are noted for one connection. Nothing is told about others.
pub const MAX_CHANNELS: usize = 16;

/// The first byte of a compressed message.
const COMPRESSED: u8 = TEXT | RSV1;

/// The most compressed messages of a queue whose channels are looked up. The beginning of each is decompressed, and a thread
/// that closes many slow connections must not be held up by their queues.
pub(crate) const MAX_INFLATED: usize = 64;

/// The bytes at the beginning of a message that have its channel: an issuer of 36 bytes, and a name of 4,096 bytes, each of
/// which JSON may write as two.
const BEGINNING: usize = 9 * 1024;

/// The first message of each channel that was not written, in the order in which the channels were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unwritten {
    /// The name of each channel as JSON text, with the id.
    channels: Vec<(Box<[u8]>, MessageId)>,
    /// Nothing is known of channels that are not noted: there were more than [`MAX_CHANNELS`] or [`MAX_INFLATED`], or a writer
    /// has panicked.
    more: bool,
    /// The compressed messages that were looked into.
    inflated: usize,
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
    /// Notes the messages of a frame of which `offset` bytes are written. It was queued after those that are noted.
    pub(super) fn note(&mut self, frame: &Frame, offset: usize) {
        let mut end = 0;
        for part in frame.parts() {
            end += part.length;
            match part.first {
                _ if end <= offset => {}
                TEXT => {
                    if let Some((channel, id)) = delivered(part.payload) {
                        self.note_first(channel, id);
                    }
                }
                COMPRESSED => self.note_compressed(part.payload),
                _ => {}
            }
        }
    }

    /// Notes a compressed message. Its id is at its end as it is, because it was not known when the rest was compressed.
    fn note_compressed(&mut self, payload: &[u8]) {
        let Some(id) = end_of_open(payload, b',') else { return };
        if self.inflated == MAX_INFLATED {
            self.more = true;
            return;
        }
        self.inflated += 1;
        let text = inflate_beginning(payload, BEGINNING, |beginning| [beginning, id].concat());
        match text.as_deref().and_then(delivered) {
            Some((channel, id)) => self.note_first(channel, id),
            None => self.more = true,
        }
    }

    fn note_first(&mut self, channel: &[u8], id: MessageId) {
        if self.channels.iter().any(|(known, _)| **known == *channel) {
            return;
        }
        // One that is not known may have been the first of any channel.
        if !self.more && self.channels.len() < MAX_CHANNELS {
            self.channels.push((channel.into(), id));
        } else {
            self.more = true;
        }
    }

    /// Returns both, of which `later` is of frames that were queued after these.
    pub(super) fn followed_by(mut self, later: Unwritten) -> Unwritten {
        self.inflated = MAX_INFLATED.min(self.inflated + later.inflated);
        later.channels.iter().for_each(|(channel, id)| self.note_first(channel, *id));
        self.more |= later.more;
        self
    }

    /// Notes that nothing is known of other channels.
    pub(super) fn note_unknown(&mut self) {
        self.more = true;
    }

    /// Returns the first message of a channel that was not written.
    pub fn first_of(&self, channel: &str) -> First {
        let is_it = |text: &[u8]| serde_json::from_slice::<String>(text).is_ok_and(|name| name == channel);
        match self.channels.iter().find(|(text, _)| is_it(text)) {
            Some((_, id)) => First::At(*id),
            None if self.more => First::Unknown,
            None => First::AllWritten,
        }
    }
}
