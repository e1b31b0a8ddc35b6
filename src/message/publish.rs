//! A message to publish, as its parsers return it.

use std::borrow::Cow;

/// The longest `ack`, in bytes after unescaping.
pub const MAX_ACK_BYTES: usize = 64;

/// A message to publish, borrowed from its frame.
#[derive(Debug)]
pub struct Publish<'a> {
    /// A valid channel name.
    pub channel: Cow<'a, str>,
    /// The JSON text of `data` with its quotes, a string that every JSON parser accepts. `None` if it is absent or null:
    /// a bare signal, which a browser sends if it publishes undefined or null.
    pub data: Option<&'a str>,
    /// The JSON text of `ack` with its quotes, which the reply repeats when the message is queued. Only on philote.v1.
    pub ack: Option<&'a str>,
}
