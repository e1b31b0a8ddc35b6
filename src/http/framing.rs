//! Checks how a request marks the end of its body. Only one way is accepted, so that no proxy in front sees another end.

use hyper::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use memchr::memchr;

const BOTH: &str = "Transfer-Encoding and Content-Length exclude each other: send one of them";
const CODING: &str = "the only Transfer-Encoding taken here is chunked";

/// Returns whether a body is chunked. `hidden` is what [`Turn::begin`](crate::http::Turn::begin) returned.
///
/// # Errors
/// The sentence for a request whose body another server might end elsewhere.
pub(crate) fn check_framing(headers: &HeaderMap, hidden: usize) -> Result<bool, &'static str> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(false) };
    if hidden > 0 || headers.contains_key(CONTENT_LENGTH) {
        return Err(BOTH);
    }
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(CODING);
    }
    Ok(true)
}

/// Counts the lines of a stream that begin with `Content-Length:`.
///
/// hyper silently drops that header if `Transfer-Encoding` is there, too. A line of a body may be counted as well, which
/// can cause a refusal but never prevent one.
#[derive(Debug, Default)]
pub(super) struct LengthLines {
    /// The number of bytes of [`LengthLines::LINE`] at the end of the stream.
    matched: usize,
    count: usize,
    /// The value of a line, as far as it was read, while it is read.
    value: Option<u64>,
    /// A value was beyond what hyper counts. hyper then reports a head that is too large.
    endless: bool,
}

/// The first length that hyper does not count.
const ENDLESS: u64 = u64::MAX - 1;

impl LengthLines {
    const LINE: &[u8] = b"\ncontent-length:";

    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            if let Some(value) = self.value {
                match first {
                    b'0'..=b'9' => {
                        self.value = Some(value.saturating_mul(10).saturating_add(u64::from(first - b'0')));
                        bytes = rest;
                    }
                    b' ' | b'\t' if value == 0 => bytes = rest,
                    _ => {
                        self.endless |= value >= ENDLESS;
                        self.value = None;
                    }
                }
            } else if self.matched == 0 {
                let Some(newline) = memchr(b'\n', bytes) else { return };
                bytes = &bytes[newline + 1..];
                self.matched = 1;
            } else if first.to_ascii_lowercase() == Self::LINE[self.matched] {
                self.matched += 1;
                bytes = rest;
                if self.matched == Self::LINE.len() {
                    self.matched = 0;
                    self.count += 1;
                    self.value = Some(0);
                }
            } else {
                // Check this byte again, because a newline may begin the line.
                self.matched = 0;
            }
        }
    }

    /// Subtracts the lines that hyper showed in a request. Returns the rest, of this request or of one after it.
    pub(super) fn shown(&mut self, headers: &HeaderMap) -> usize {
        self.count = self.count.saturating_sub(headers.get_all(CONTENT_LENGTH).iter().count());
        self.count
    }

    /// Returns whether a line has promised more bytes than hyper counts.
    pub(super) fn is_endless(&self) -> bool {
        self.endless
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn lines_are_counted_however_the_stream_is_cut() {
        let stream = b"POST / HTTP/1.1\r\nContent-Length: 1\n\ncONTENT-lENGTH:2\r\nX-Content-Length: 3\r\n\
            Content-Length : 4\r\nContent-\nContent-Length:5\r\n\r\n";
        for size in 1..stream.len() {
            let mut lines = LengthLines::default();
            stream.chunks(size).for_each(|piece| lines.read(piece));
            assert_eq!((lines.count, lines.endless), (3, false), "in pieces of {size}");
        }
    }

    #[test]
    fn a_length_beyond_what_hyper_counts_is_found_however_the_stream_is_cut() {
        for (value, endless) in [
            ("18446744073709551613", false),
            ("18446744073709551614", true),
            (" \t18446744073709551615 ", true),
            ("99999999999999999999999", true),
            ("1844674407370955161 5", false),
            ("x18446744073709551615", false),
        ] {
            let stream = format!("POST / HTTP/1.1\r\nContent-Length:{value}\nContent-Length: 1\r\n\r\n");
            for size in 1..stream.len() {
                let mut lines = LengthLines::default();
                stream.as_bytes().chunks(size).for_each(|piece| lines.read(piece));
                assert_eq!((lines.count, lines.is_endless()), (2, endless), "{value} in pieces of {size}");
            }
        }
    }

    #[test]
    fn length_lines_that_hyper_showed_are_not_hidden() {
        let mut lines = LengthLines::default();
        lines.read(b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(lines.shown(&headers(&[("content-length", "1")])), 0);
        lines.read(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n");
        assert_eq!(lines.shown(&headers(&[("transfer-encoding", "chunked")])), 1);
    }

    #[test]
    fn one_length_and_one_coding() {
        let check = |lines: &[_], hidden| check_framing(&headers(lines), hidden);
        assert_eq!(check(&[("content-length", "1")], 0), Ok(false));
        assert_eq!(check(&[], 1), Ok(false), "of the next request");
        assert_eq!(check(&[("transfer-encoding", "Chunked")], 0), Ok(true));
        assert_eq!(check(&[("transfer-encoding", "chunked")], 1), Err(BOTH));
        for wrong in ["gzip, chunked", "chunked, chunked", "chunked;q=1", "identity", "", "chunked,"] {
            assert_eq!(check(&[("transfer-encoding", wrong)], 0), Err(CODING), "{wrong}");
        }
        let twice = [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(check(&twice, 0), Err(CODING));
    }
}
