//! One log record, which owns its data so that another thread can write it.

use std::fmt::{self, Write};
use std::time::SystemTime;

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata};

use crate::escape::is_invisible;

/// The longest text in one field of a record, in bytes. Longer text is cut and ends in `…`. With this limit, the limit
/// on the number of records also limits memory.
pub const MAX_TEXT_BYTES: usize = 1024;

/// A field's value with its type, so that numbers are numbers in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum FieldValue {
    Text(String),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Flag(bool),
}

impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldValue::Text(text) => f.write_str(text),
            FieldValue::Unsigned(number) => number.fmt(f),
            FieldValue::Signed(number) => number.fmt(f),
            FieldValue::Float(number) => number.fmt(f),
            FieldValue::Flag(flag) => flag.fmt(f),
        }
    }
}

/// A record: the values, the time, and the metadata.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) time: SystemTime,
    pub(super) metadata: &'static Metadata<'static>,
    /// One entry for each field of `metadata`, in the same order; the message is one of them.
    pub(super) values: Vec<Option<FieldValue>>,
}

impl Record {
    pub(super) fn new(event: &Event<'_>) -> Record {
        let metadata = event.metadata();
        let mut values = Values(vec![None; metadata.fields().len()]);
        event.record(&mut values);
        Record { time: SystemTime::now(), metadata, values: values.0 }
    }

    /// Returns the message, or an empty string if there is none.
    pub(super) fn message(&self) -> String {
        let mut named = self.named();
        named.find(|(name, _)| *name == "message").map(|(_, value)| value.to_string()).unwrap_or_default()
    }

    /// Returns the fields that have a value, without the message.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, &FieldValue)> {
        self.named().filter(|(name, _)| *name != "message")
    }

    fn named(&self) -> impl Iterator<Item = (&'static str, &FieldValue)> {
        let names = self.metadata.fields().iter().map(|field| field.name());
        names.zip(&self.values).filter_map(|(name, value)| Some((name, value.as_ref()?)))
    }
}

struct Values(Vec<Option<FieldValue>>);

impl Values {
    fn set(&mut self, field: &Field, value: FieldValue) {
        if let Some(place) = self.0.get_mut(field.index()) {
            *place = Some(value);
        }
    }
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, FieldValue::Text(printable(format_args!("{value:?}"), MAX_TEXT_BYTES)));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, FieldValue::Text(printable(value, MAX_TEXT_BYTES)));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, FieldValue::Unsigned(value));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, FieldValue::Signed(value));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, FieldValue::Float(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, FieldValue::Flag(value));
    }
}

/// Formats `text` for a log line: escapes invisible characters (`\n`, `\u{1b}`) and cuts text over `max_bytes`, which
/// then ends in `…`. A client's text cannot forge a line. Escaping a second time changes nothing.
pub(super) fn printable(text: impl fmt::Display, max_bytes: usize) -> String {
    let mut cleaner = Cleaner { text: String::new(), max_bytes };
    if write!(cleaner, "{text}").is_err() {
        cleaner.text.push('…');
    }
    cleaner.text
}

/// Fails at the limit, so that an endless `Display` stops there.
struct Cleaner {
    text: String,
    max_bytes: usize,
}

impl Write for Cleaner {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        for character in piece.chars() {
            let escaped = character.escape_default();
            let invisible = is_invisible(character);
            let length = if invisible { escaped.len() } else { character.len_utf8() };
            if self.text.len() + length > self.max_bytes {
                return Err(fmt::Error);
            }
            if invisible { self.text.extend(escaped) } else { self.text.push(character) }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_escaped_and_plain_text_is_not() {
        assert_eq!(printable("a\nINFO forged\r\x1b[31m\u{9b}", 100), "a\\nINFO forged\\r\\u{1b}[31m\\u{9b}");
        assert_eq!(printable("\u{202e}\u{2028}\u{2066}\0", 100), "\\u{202e}\\u{2028}\\u{2066}\\u{0}");
        for plain in [r#"channel "x\n" of 'y'"#, "日本語 Grüße 🚀 नमस्ते", ""] {
            assert_eq!(printable(plain, 100), plain);
        }
        assert_eq!(printable(printable("\t\n", 100), 100), "\\t\\n");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(printable("abc", 3), "abc");
        assert_eq!(printable("abcd", 3), "abc…");
        assert_eq!(printable("ééé", 3), "é…");
        assert_eq!(printable("ab\n", 3), "ab…", "an escape sequence is never cut");
        let endless = std::fmt::from_fn(|f| {
            loop {
                f.write_str("endless ")?;
            }
        });
        assert_eq!(printable(endless, 10), "endless en…");
    }
}
