//! Encodes JSON into frames and allocates nothing but the frame.

use std::cell::RefCell;
use std::io::Write;

use super::plain::needs_no_escapes;
use crate::frame::Frame;

/// Appends text as a JSON string.
pub(super) fn quote(out: &mut Vec<u8>, text: &str) {
    if needs_no_escapes(text) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    // Writing to a Vec can't fail, and neither can a string's serialisation.
    let _ = serde_json::to_writer(out.by_ref(), text);
}

/// The largest encoding buffer that a thread keeps, in bytes; a larger one is freed after use.
pub(super) const SCRATCH_BYTES: usize = 16 * 1024;

/// Encodes a text frame through a buffer of this thread, so that only the frame itself is allocated.
pub(super) fn encode_text(write: impl FnOnce(&mut Vec<u8>)) -> Frame {
    thread_local!(static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    SCRATCH.with_borrow_mut(|scratch| {
        Frame::append_text(scratch, write);
        let frame = Frame::finished(scratch, 1);
        scratch.clear();
        scratch.shrink_to(SCRATCH_BYTES);
        frame
    })
}
