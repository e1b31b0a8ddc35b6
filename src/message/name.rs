//! The names of channels.

use std::fmt;
use std::sync::Arc;

/// The name of a channel: text of 1 to `[limits] channel_name_bytes` bytes without control characters.
///
/// Names are compared byte for byte and no character in them is special. Cloning shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// Makes a name from valid text.
    pub fn new(name: &str, max_bytes: usize) -> Result<ChannelName, ChannelNameError> {
        ChannelName::check(name, max_bytes)?;
        Ok(ChannelName(Arc::from(name)))
    }

    /// Makes a name from text that was checked already, such as that of a parsed message.
    pub(crate) fn checked(name: &str) -> ChannelName {
        ChannelName(Arc::from(name))
    }

    /// Checks a name in a token or a message. This is the only rule for names of channels.
    pub fn check(name: &str, max_bytes: usize) -> Result<(), ChannelNameError> {
        if name.is_empty() {
            Err(ChannelNameError::Empty)
        } else if name.len() > max_bytes {
            Err(ChannelNameError::TooLong { bytes: name.len(), max: max_bytes })
        } else if !name.bytes().all(|byte| (b' '..0x7f).contains(&byte)) && name.chars().any(char::is_control)
        {
            Err(ChannelNameError::ControlCharacter)
        } else {
            Ok(())
        }
    }

    /// Makes a name for the daemon's own use, which no token and no message can contain.
    pub(crate) fn internal(name: &str) -> ChannelName {
        ChannelName(Arc::from(format!("\0{name}")))
    }

    /// Returns whether it is one of the daemon's own.
    pub(crate) fn is_internal(&self) -> bool {
        ChannelName::is_internal_text(&self.0)
    }

    /// Returns whether this is the text of one of the daemon's own.
    pub(crate) fn is_internal_text(name: &str) -> bool {
        name.starts_with('\0')
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a valid channel name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelNameError {
    /// The text is empty.
    Empty,
    /// It has more bytes than `[limits] channel_name_bytes`.
    TooLong {
        /// The name's length in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// It has a character of Unicode's category Cc, such as a newline.
    ControlCharacter,
}

impl fmt::Display for ChannelNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelNameError::Empty => f.write_str("a channel's name must not be empty"),
            ChannelNameError::TooLong { bytes, max } => {
                write!(f, "a channel's name may have {max} bytes at most; this one has {bytes}")
            }
            ChannelNameError::ControlCharacter => {
                f.write_str("a channel's name must not contain control characters")
            }
        }
    }
}

impl std::error::Error for ChannelNameError {}
