//! Compresses single messages.

use std::cell::Cell;

use flate2::{Compress, Compression, FlushCompress};

use super::{Window, with_spare};

/// The level of compression, of 1 to 9. 1 KiB of JSON becomes 419 bytes in 19 us, with level 1 570 bytes in 6 us, and with level
/// 9 414 bytes in 24 us. It is paid once a message, and the bytes for each reader.
const LEVEL: u32 = 6;

/// The longest message that is compressed, in bytes. A longer one would hold up the other connections of its thread for more
/// than some ten milliseconds.
const LONGEST: usize = 1024 * 1024;

/// What a flush ends with: an empty block without compression, whose last bytes a sender leaves out (RFC 7692 section
/// 7.2.1).
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];

/// The bytes that [`end_open`] adds to a short end: the header of a block without compression, and the first byte of the
/// empty block.
const OPEN_OVERHEAD: usize = 5 + 1;

thread_local! {
    /// The compressor of this thread, some 300 KB.
    static COMPRESSOR: Cell<Option<Box<Compress>>> = const { Cell::new(None) };
}

/// Appends the compressed form of a message, if it is shorter. Returns whether it did; if not, `out` is as before.
///
/// With `open` it is the form of the beginning of a message, which [`end_open`] must complete.
pub(crate) fn compress(payload: &[u8], open: bool, out: &mut Vec<u8>) -> bool {
    if payload.len() > LONGEST {
        return false;
    }
    let start = out.len();
    // Room for all of it, even if it becomes longer: zlib-rs 0.6 keeps what did not fit over a reset, and panics later.
    out.reserve(payload.len() + payload.len() / 8 + 64);
    let new = || Compress::new_with_window_bits(Compression::new(LEVEL), false, Window::OURS.bits());
    let complete = with_spare(&COMPRESSOR, new, |compressor| {
        compressor.reset();
        let done = compressor.compress_vec(payload, out, FlushCompress::Sync);
        // With room left, nothing waits in the compressor.
        let complete =
            done.is_ok() && compressor.total_in() == payload.len() as u64 && out.len() < out.capacity();
        if !complete {
            *compressor = new();
        }
        complete
    });
    let flushed = complete && out.ends_with(&FLUSHED);
    if flushed && !open {
        out.truncate(out.len() - FLUSHED.len());
    }
    let overhead = if open { OPEN_OVERHEAD } else { 0 };
    let is_shorter = flushed && out.len() - start + overhead < payload.len();
    if !is_shorter {
        out.truncate(start);
    }
    is_shorter
}

/// Appends the end of a message whose beginning [`compress`] has appended, as blocks without compression, so that no
/// compressor is needed.
pub(crate) fn end_open(end: &[u8], out: &mut Vec<u8>) {
    for block in end.chunks(usize::from(u16::MAX)) {
        let length = block.len() as u16;
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    // The empty block, without its last bytes.
    out.push(0);
}

/// Returns the end that [`end_open`] has appended to a message, if it begins with the byte `first` and has it only there.
pub(crate) fn end_of_open(payload: &[u8], first: u8) -> Option<&[u8]> {
    let block = payload.strip_suffix(&[0])?;
    let (before, end) = block.split_at(memchr::memrchr(first, block)?);
    let length = u16::try_from(end.len()).ok()?;
    let ([a, b], [c, d]) = (length.to_le_bytes(), (!length).to_le_bytes());
    before.ends_with(&[0, a, b, c, d]).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_would_take_too_long_is_not_compressed() {
        let mut out = Vec::new();
        assert!(compress(&vec![b'x'; LONGEST], false, &mut out));
        out.clear();
        assert!(!compress(&vec![b'x'; LONGEST + 1], false, &mut out));
        assert!(out.is_empty());
    }

    #[test]
    fn short_noise_does_not_fill_the_compressor() {
        let mut state = 1_u32;
        let mut noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        });
        // 64 KiB in all, after which it panicked when the output had no more room than the message is long.
        for _ in 0..1000 {
            let noise: Vec<u8> = noise.by_ref().take(256).collect();
            assert!(!compress(&noise, false, &mut Vec::new()));
        }
    }
}
