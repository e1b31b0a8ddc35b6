//! The header lines of a request, as hyper or as httparse presents them, so that both ways to an answer decide alike.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// Header lines.
pub(crate) trait Lines {
    /// Returns the values of all lines with this name, in their order.
    fn all<'a>(&'a self, name: &HeaderName) -> impl DoubleEndedIterator<Item = &'a [u8]>;

    /// Returns the value of the first line with this name.
    fn first<'a>(&'a self, name: &HeaderName) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// Returns whether there is a line with this name.
    fn has(&self, name: &HeaderName) -> bool {
        self.first(name).is_some()
    }

    /// Returns whether a header that is a list of words contains this one, in any case.
    fn has_word(&self, name: &HeaderName, word: &str) -> bool {
        self.words(name).any(|one| one.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// Returns whether a header that is a list of words contains this one as it is.
    fn has_exactly(&self, name: &HeaderName, word: &str) -> bool {
        self.words(name).any(|one| one == word.as_bytes())
    }

    /// Returns the words of a header that is a list.
    fn words<'a>(&'a self, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.all(name).flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }
}

impl Lines for HeaderMap {
    fn all<'a>(&'a self, name: &HeaderName) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }
}

impl Lines for [httparse::Header<'_>] {
    fn all<'a>(&'a self, name: &HeaderName) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let name = name.as_str();
        self.iter().filter(move |line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value)
    }
}

/// Returns the text of a value that has only visible ASCII, spaces and tabs.
pub(crate) fn visible(value: &[u8]) -> Option<&str> {
    // Without an early end, so that the compiler compares many bytes at once: the value may be a long token.
    let is_visible = value.iter().fold(true, |all, byte| all & matches!(byte, b'\t' | b' '..=b'~'));
    if is_visible { str::from_utf8(value).ok() } else { None }
}
