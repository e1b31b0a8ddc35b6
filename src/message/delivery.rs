//! What readers get: a message encoded once as a finished frame, or several in one.

use super::MessageId;
use super::encode::{SCRATCH_BYTES, encode_text, quote};
use super::reply::write_ack;
use crate::frame::Frame;

/// A message on its way to a channel's readers.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The publisher's connection id, or the daemon's own.
    pub issuer: &'a str,
    /// The channel's name.
    pub channel: &'a str,
    /// The JSON text of `data`, quotes included, carried over as it came; `None` for a bare signal.
    pub data: Option<&'a str>,
    /// The publisher's `sub`, where readers are to see it.
    pub subject: Option<&'a str>,
}

impl Delivery<'_> {
    /// The finished frame: one allocation, made at its final size.
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

/// Messages to one channel that follow one another, encoded one behind the other.
///
/// Together they are one frame: a reader's queue, its locks and its system call are paid once for all of them.
#[derive(Default)]
pub struct Batch {
    channel: String,
    bytes: Vec<u8>,
    messages: u32,
    /// What their publisher wants to hear when they are queued, as JSON texts, and of which of them, counted from 1.
    acks: Vec<(u32, Box<str>)>,
    /// How many were queued last, and the place of the last of them, where they are kept.
    queued: (u32, Option<MessageId>),
}

impl Batch {
    /// Bytes from which on no more messages are added: what is queued as one is also freed as one.
    pub(super) const FULL: usize = 64 * 1024;

    /// An empty batch.
    pub const fn new() -> Batch {
        Batch { channel: String::new(), bytes: Vec::new(), messages: 0, acks: Vec::new(), queued: (0, None) }
    }

    /// The channel of its messages.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Whether it holds no message.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Whether a message to `channel` may be added. If not, what is there has to be taken first.
    pub fn takes(&self, channel: &str) -> bool {
        self.is_empty() || (self.channel == channel && self.bytes.len() < Self::FULL)
    }

    /// Adds a message to the channel that the first one went to.
    pub fn add(&mut self, delivery: &Delivery<'_>) {
        if self.is_empty() {
            self.channel.clear();
            self.channel.push_str(delivery.channel);
        }
        Frame::append_text(&mut self.bytes, |out| delivery.write(out));
        self.messages += 1;
    }

    /// Asks for an answer when the message that was added last is queued.
    pub fn ask(&mut self, ack: &str) {
        self.acks.push((self.messages, ack.into()));
    }

    /// Whether an answer was asked for.
    pub fn is_asked(&self) -> bool {
        !self.acks.is_empty()
    }

    /// The answers that were asked for about what was queued last, as one frame; none where nobody asked.
    pub fn take_acks(&mut self, readers: usize) -> Option<Frame> {
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

    /// All of them as one frame: one allocation, made at its final size.
    pub fn encode(&self) -> Frame {
        Frame::finished(&self.bytes, self.messages)
    }

    /// Forgets them, which are queued, the last with this id, and gives back room that only large messages needed.
    pub fn clear(&mut self, last: Option<MessageId>) {
        self.queued = (self.messages, last);
        self.bytes.clear();
        self.bytes.shrink_to(SCRATCH_BYTES);
        self.messages = 0;
    }
}
