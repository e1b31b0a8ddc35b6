//! Adds ids to messages that are encoded already.

use std::io::Write;

use super::MessageId;
use crate::frame::Frame;

/// The longest id with its key, in bytes.
const ID_BYTES: usize = 48;

/// Adds `id` as the last key of each message, numbered from `first`. Returns the frame and the end of each message in it.
pub(crate) fn number(frame: &Frame, epoch: u64, first: u64) -> (Frame, Box<[u32]>) {
    let mut bytes = Vec::with_capacity(frame.len() + frame.messages() * ID_BYTES);
    let mut ends = Vec::with_capacity(frame.messages());
    for (number, payload) in (first..).zip(frame.payloads()) {
        Frame::append_text(&mut bytes, |out| {
            out.extend_from_slice(payload.strip_suffix(b"}").unwrap_or(payload));
            // Writing to a Vec can't fail.
            let _ = write!(out, ",\"id\":\"{}\"}}", MessageId { epoch, number });
        });
        ends.push(bytes.len() as u32);
    }
    let messages = ends.len() as u32;
    (Frame::finished(&bytes, messages), ends.into_boxed_slice())
}
