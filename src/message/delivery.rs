//! Messages to readers, encoded once as a frame, or several in one.

use super::MessageId;
use super::encode::{SCRATCH_BYTES, encode_text, quote};
use super::reply::{ReaderCount, write_ack};
use crate::frame::Frame;

/// A message on its way to a channel's readers.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The publisher's connection id, or the daemon's own.
    pub issuer: &'a str,
    /// The channel's name.
    pub channel: &'a str,
    /// The JSON text of `data` with its quotes, copied from the publisher's message; `None` for a bare signal.
    pub data: Option<&'a str>,
    /// The publisher's `sub`, if readers may see it.
    pub subject: Option<&'a str>,
}

impl Delivery<'_> {
    /// Encodes the frame with one allocation of its final size.
    pub fn encode(&self) -> Frame {
        encode_text(|out| self.write(out))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"issuer\":\"");
        out.extend_from_slice(self.issuer.as_bytes());
        out.extend_from_slice(b"\",\"channel\":");
        quote(out, self.channel);
        if let Some(data) = self.data {
            out.extend_from_slice(b",\"data\":");
            out.extend_from_slice(data.as_bytes());
        }
        if let Some(subject) = self.subject {
            out.extend_from_slice(b",\"subject\":");
            quote(out, subject);
        }
        out.push(b'}');
    }
}

/// Consecutive messages to one channel, encoded in one buffer.
///
/// They become one frame, so that a reader's queue, locks and system call are paid once for all of them.
#[derive(Default)]
pub struct Batch {
    channel: String,
    bytes: Vec<u8>,
    messages: u32,
    /// The `ack`s of the messages as JSON texts, each with the number of its message, counted from 1.
    acks: Vec<(u32, Box<str>)>,
    /// The number of messages queued last, and the id of the last of them if there is a history.
    queued: (u32, Option<MessageId>),
}

impl Batch {
    /// Bytes at which a batch takes no more messages. A frame is freed as a whole, so it should not be larger.
    pub(super) const FULL: usize = 64 * 1024;

    /// Makes an empty batch.
    pub const fn new() -> Batch {
        Batch { channel: String::new(), bytes: Vec::new(), messages: 0, acks: Vec::new(), queued: (0, None) }
    }

    /// Returns the channel of its messages.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Returns whether it has no message.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Returns whether a message to `channel` may be added. If not, the batch must be published first.
    pub fn takes(&self, channel: &str) -> bool {
        self.is_empty() || (self.channel == channel && self.bytes.len() < Self::FULL)
    }

    /// Adds a message to the same channel as the first one.
    pub fn add(&mut self, delivery: &Delivery<'_>) {
        if self.is_empty() {
            self.channel.clear();
            self.channel.push_str(delivery.channel);
        }
        Frame::append_text(&mut self.bytes, |out| delivery.write(out));
        self.messages += 1;
    }

    /// Records the `ack` of the message that was added last.
    pub fn ask(&mut self, ack: &str) {
        self.acks.push((self.messages, ack.into()));
    }

    /// Returns whether a message has an `ack`.
    pub fn is_asked(&self) -> bool {
        !self.acks.is_empty()
    }

    /// Encodes the replies to the `ack`s of the messages queued last as one frame; `None` if there are none.
    pub fn take_acks(&mut self, readers: ReaderCount) -> Option<Frame> {
        if self.acks.is_empty() {
            return None;
        }
        let (mut bytes, messages) = (Vec::new(), self.acks.len() as u32);
        let (count, last) = self.queued;
        for (number, ack) in std::mem::take(&mut self.acks) {
            let id = last.map(|last| MessageId { number: last.number - u64::from(count - number), ..last });
            Frame::append_text(&mut bytes, |out| write_ack(out, &ack, readers, id));
        }
        Some(Frame::finished(&bytes, messages))
    }

    /// Encodes all messages as one frame, with one allocation of its final size.
    pub fn encode(&self) -> Frame {
        Frame::finished(&self.bytes, self.messages)
    }

    /// Empties the batch after its messages were refused. Nothing is replied to their `ack`s: their publisher is about to be
    /// disconnected, and must not take them for published.
    pub fn refuse(&mut self) {
        self.acks.clear();
        self.clear(None);
    }

    /// Empties the batch after its messages were queued, the last with this id, and frees memory that only large messages need.
    pub fn clear(&mut self, last: Option<MessageId>) {
        self.queued = (self.messages, last);
        self.bytes.clear();
        self.bytes.shrink_to(SCRATCH_BYTES);
        self.messages = 0;
    }
}
