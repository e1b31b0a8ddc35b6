//! Decompresses single messages, into memory that the size of a message bounds.

use std::cell::Cell;

use flate2::{Decompress, FlushDecompress, Status};

use super::with_spare;

/// The memory that a thread keeps for the next message, in bytes. More is freed after use.
const KEPT: usize = 64 * 1024;

/// The memory for the first bytes of a message.
const FIRST: usize = 4 * 1024;

/// What the sender left out of a message, and then an empty final block (RFC 7692 section 7.2.2, RFC 1951 section 3.2.4).
/// The decompressor reaches the end of that block only if the message was not cut short.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

/// Why a message cannot be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InflateError {
    /// It is no compressed data, or not all of it.
    Corrupt,
    /// It is longer than the limit.
    TooLong,
}

/// Returns how long the compressed form of a message of at most `max` bytes may be. Data that cannot be compressed becomes
/// longer, most with a compressor of little memory.
pub(crate) fn longest_compressed(max: usize) -> usize {
    max + max / 16 + 64
}

thread_local! {
    /// The decompressor of this thread, some 50 KB and its buffer.
    static INFLATER: Cell<Option<Box<Inflater>>> = const { Cell::new(None) };
}

/// Decompresses a message of at most `max` bytes and calls `take` with it.
///
/// # Errors
/// It is corrupt, or longer. Decompression stops there.
pub(crate) fn inflate<T>(
    payload: &[u8],
    max: usize,
    take: impl FnOnce(&[u8]) -> T,
) -> Result<T, InflateError> {
    with_spare(&INFLATER, Inflater::new, |inflater| {
        let result = inflater.message(payload, max).map(|()| take(&inflater.buffer[..inflater.length]));
        inflater.shrink();
        result
    })
}

/// Decompresses the first `most` bytes of a message, or all of a shorter one, and calls `take` with them. Returns `None` if it
/// is corrupt before.
pub(crate) fn inflate_beginning<T>(payload: &[u8], most: usize, take: impl FnOnce(&[u8]) -> T) -> Option<T> {
    with_spare(&INFLATER, Inflater::new, |inflater| {
        let is_known = !matches!(inflater.message(payload, most), Err(InflateError::Corrupt));
        let result = is_known.then(|| take(&inflater.buffer[..inflater.length.min(most)]));
        inflater.shrink();
        result
    })
}

struct Inflater {
    decoder: Decompress,
    /// The message, and room for more of it. What is behind `length` may be of an earlier message.
    buffer: Vec<u8>,
    length: usize,
}

impl Inflater {
    fn new() -> Inflater {
        Inflater { decoder: Decompress::new(false), buffer: Vec::new(), length: 0 }
    }

    fn message(&mut self, payload: &[u8], max: usize) -> Result<(), InflateError> {
        self.length = 0;
        let mut rest = payload;
        while !rest.is_empty() {
            self.decoder.reset(false);
            match self.run(rest, max)? {
                // Another block may follow a final one (RFC 7692 section 7.2.3.4).
                Some(after) => rest = after,
                None => {
                    return match self.run(&END, max)? {
                        Some([]) => Ok(()),
                        _ => Err(InflateError::Corrupt),
                    };
                }
            }
        }
        // An empty payload is an empty message, and one that ends with a final block is complete.
        Ok(())
    }

    /// Decompresses `input` up to its end, or to the end of a final block. Returns the bytes after the final block.
    fn run<'a>(&mut self, mut input: &'a [u8], max: usize) -> Result<Option<&'a [u8]>, InflateError> {
        loop {
            if self.length > max {
                return Err(InflateError::TooLong);
            }
            if self.length == self.buffer.len() {
                // One byte more than allowed shows that there is more.
                let room = (2 * self.length).max(FIRST).min(max + 1);
                self.buffer.resize(room, 0);
            }
            let end = self.buffer.len().min(max + 1);
            let room = &mut self.buffer[self.length..end];
            let (taken, made) = (self.decoder.total_in(), self.decoder.total_out());
            let status = self.decoder.decompress(input, room, FlushDecompress::Sync);
            let status = status.map_err(|_| InflateError::Corrupt)?;
            let (taken, made) = (self.decoder.total_in() - taken, self.decoder.total_out() - made);
            let is_full = made as usize == room.len();
            input = &input[taken as usize..];
            self.length += made as usize;
            if self.length > max {
                return Err(InflateError::TooLong);
            }
            match status {
                Status::StreamEnd => return Ok(Some(input)),
                _ if is_full => {}
                _ if input.is_empty() => return Ok(None),
                _ if taken == 0 && made == 0 => return Err(InflateError::Corrupt),
                _ => {}
            }
        }
    }

    /// Frees the memory that only a large message needs.
    fn shrink(&mut self) {
        self.buffer.truncate(KEPT);
        self.buffer.shrink_to(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::deflate::{compress, end_of_open, end_open};

    const MAX: usize = 100_000;

    fn inflated(payload: &[u8]) -> Result<Vec<u8>, InflateError> {
        inflate(payload, MAX, <[u8]>::to_vec)
    }

    /// Compresses as a client does that is not Philote.
    fn deflated(text: &[u8], level: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 * text.len() + 100);
        let mut compressor = Compress::new(Compression::new(level), false);
        compressor.compress_vec(text, &mut out, FlushCompress::Sync).unwrap();
        out.truncate(out.len() - 4);
        out
    }

    #[test]
    fn the_examples_of_rfc_7692_are_read() {
        for (what, payload) in [
            ("one block", &b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..]),
            ("a block without compression", b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"),
            ("a final block", b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00"),
            ("a final block without the byte after it", b"\xf3\x48\xcd\xc9\xc9\x07\x00"),
            ("two blocks", b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"),
        ] {
            assert_eq!(inflated(payload).as_deref(), Ok(&b"Hello"[..]), "{what}");
        }
        assert_eq!(inflated(&[0]), Ok(vec![]), "an empty block");
        assert_eq!(inflated(&[]), Ok(vec![]), "nothing at all");
        let twice = [&b"\xf3\x48\xcd\xc9\xc9\x07\x00"[..], b"\xf2\x48\xcd\xc9\xc9\x07\x00"].concat();
        assert_eq!(inflated(&twice).as_deref(), Ok(&b"HelloHello"[..]), "a block after a final one");
    }

    #[test]
    fn what_is_no_whole_message_is_corrupt() {
        let hello = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
        for (what, payload) in [
            ("plain text", b"{\"channel\":\"c\",\"data\":\"x\"}".to_vec()),
            ("a reserved kind of block", vec![0x06]),
            ("a wrong length of a block", b"\x00\x05\x00\xfa\xfe\x48\x65\x6c\x6c\x6f\x00".to_vec()),
            ("a reference to before the message", b"\xf2\x40\x04\x20\x00".to_vec()),
            ("bytes after the end", [&hello[..], b"garbage"].concat()),
            ("bytes after a final block", b"\xf3\x48\xcd\xc9\xc9\x07\x00\xffgarbage".to_vec()),
            ("the bytes that a sender must leave out", [&hello[..], &[0, 0, 0xff, 0xff]].concat()),
        ] {
            assert_eq!(inflated(&payload), Err(InflateError::Corrupt), "{what}");
        }
        let long = deflated("a text with words and more words ".repeat(50).as_bytes(), 6);
        for length in 1..long.len() {
            assert_eq!(inflated(&long[..length]), Err(InflateError::Corrupt), "cut at {length}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit_and_leaves_no_memory() {
        let bomb = deflated(&vec![b'x'; 50_000_000], 9);
        assert!(bomb.len() < 60_000, "{}", bomb.len());
        for max in [0, 1, 100, 4096, MAX, 1_000_000] {
            assert_eq!(inflate(&bomb, max, <[u8]>::len), Err(InflateError::TooLong), "{max}");
            let held = INFLATER.take().map(|inflater| (inflater.buffer.capacity(), inflater.length)).unwrap();
            assert!(held.0 <= KEPT && held.1 <= max + 1, "{held:?}");
        }
        let exact = deflated(&vec![b'x'; MAX], 9);
        assert_eq!(inflate(&exact, MAX, <[u8]>::len), Ok(MAX));
        assert_eq!(inflate(&exact, MAX - 1, <[u8]>::len), Err(InflateError::TooLong));
        assert_eq!(inflated(&deflated(b"later", 6)).as_deref(), Ok(&b"later"[..]));
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            vec(any::<u8>(), 0..600),
            vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'"')], 0..20_000),
            "(\\{\"name\":\"[a-z]{4}\",\"at\":[0-9]{1,6}\\},?){0,60}".prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_compressed_is_shorter_and_comes_back(text in text(), split in 0..40_usize) {
            let mut out = b"before".to_vec();
            if compress(&text, false, &mut out) {
                prop_assert!(out.len() - 6 < text.len());
                prop_assert_eq!(inflated(&out[6..]), Ok(text.clone()));
            } else {
                prop_assert_eq!(&out[..], b"before");
            }
            let (beginning, end) = text.split_at(text.len().saturating_sub(split));
            out.clear();
            if compress(beginning, true, &mut out) {
                end_open(end, &mut out);
                prop_assert!(out.len() < text.len());
                prop_assert_eq!(inflated(&out), Ok(text.clone()));
                let found = end_of_open(&out, end.first().copied().unwrap_or(b'a'));
                let repeats = end.iter().skip(1).any(|byte| Some(byte) == end.first());
                prop_assert!(end.is_empty() || repeats || found == Some(end));
                let beginning = inflate_beginning(&out, split, <[u8]>::to_vec);
                prop_assert_eq!(beginning.as_deref(), Some(&text[..split.min(text.len())]));
            }
        }

        #[test]
        fn others_compress_as_they_like(text in text(), level in 0..10_u32) {
            let payload = deflated(&text, level);
            prop_assert!(payload.len() <= longest_compressed(text.len()));
            prop_assert_eq!(inflated(&payload), Ok(text));
        }

        #[test]
        fn no_bytes_make_it_panic(payload in vec(any::<u8>(), 0..400), max in 0..1000_usize) {
            if let Ok(length) = inflate(&payload, max, <[u8]>::len) {
                prop_assert!(length <= max);
            }
        }
    }
}
