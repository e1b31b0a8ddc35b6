//! Ids of messages: their position in the channel's history.

use std::fmt;

/// `EPOCH-N`: the Nth message since the channel's history began, or the position behind it.
///
/// The epoch names the history. A history that begins again, as after a restart, has another epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId {
    /// The history.
    pub epoch: u64,
    /// The number of the message, counted from 1; 0 is the position before the first.
    pub number: u64,
}

impl MessageId {
    /// An id that no message has.
    pub const NONE: MessageId = MessageId { epoch: 0, number: 0 };

    /// Parses an id. Returns [`MessageId::NONE`] for text that is not an id.
    pub fn parse(text: &str) -> MessageId {
        let parse = || {
            let (epoch, number) = text.split_once('-')?;
            let plain = epoch.bytes().chain(number.bytes()).all(|byte| byte.is_ascii_hexdigit());
            let id = MessageId { epoch: u64::from_str_radix(epoch, 16).ok()?, number: number.parse().ok()? };
            plain.then_some(id)
        };
        parse().unwrap_or(MessageId::NONE)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.epoch, self.number)
    }
}
