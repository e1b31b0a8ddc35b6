//! What a client is told on its own connection: what it did wrong, what it may do, what became of a message.

use super::BadMessage;
use super::encode::{encode_text, quote};
use crate::frame::Frame;

/// An answer to what a client did wrong, on a connection that stays open.
#[derive(Debug)]
pub enum ErrorReply<'a> {
    /// The frame was no message.
    BadMessage(BadMessage),
    /// The token does not let its bearer write to this channel.
    Forbidden {
        /// The channel that was asked for.
        channel: &'a str,
    },
}

impl ErrorReply<'_> {
    /// The finished frame: `{"error": CODE, "channel": NAME, "message": SENTENCE}`.
    pub fn encode(&self) -> Frame {
        let (code, channel, sentence) = match self {
            ErrorReply::BadMessage(error) => ("bad_message", None, error.to_string()),
            ErrorReply::Forbidden { channel } => {
                ("forbidden", Some(*channel), format!("this token may not write to channel \"{channel}\""))
            }
        };
        encode_text(|out| {
            out.extend_from_slice(b"{\"error\":");
            quote(out, code);
            if let Some(channel) = channel {
                out.extend_from_slice(b",\"channel\":");
                quote(out, channel);
            }
            out.extend_from_slice(b",\"message\":");
            quote(out, &sentence);
            out.push(b'}');
        })
    }
}
