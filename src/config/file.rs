//! The configuration file as it is written: keys, lines and values, nothing checked but that it is TOML.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::Situation;
use super::keys;
use super::raw::Raw;
use crate::regular_file::{self, FileError};

/// The shipped file has some 5 KiB.
const LARGEST: u64 = 1 << 20;

/// What stands in the file.
pub(super) enum Entry {
    /// A key with its value.
    Value {
        /// `section.key`, or `key` at the top.
        key: String,
        /// Counted from 1.
        line: usize,
        /// As written.
        value: Raw,
    },
    /// What cannot be a key with a value.
    Problem {
        /// The section, or the key.
        key: Option<String>,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        situation: Situation,
    },
}

/// Reads a file. The entries are in the order of its lines; of a file that is not TOML, the one entry says so.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, Situation> {
    // The one device that is taken: the usual way to name no file.
    if path == Path::new("/dev/null") {
        return Ok(Vec::new());
    }
    match regular_file::read(path, LARGEST) {
        Ok(content) => Ok(parse(&content.bytes).unwrap_or_else(|problem| vec![problem])),
        Err(FileError::TooLarge(maximum)) => Ok(vec![problem(1, Situation::TooLarge { maximum })]),
        Err(error) => Err(Situation::Unreadable { path: path.to_owned(), reason: error.to_string() }),
    }
}

fn problem(line: usize, situation: Situation) -> Entry {
    Entry::Problem { key: None, line, situation }
}

fn parse(bytes: &[u8]) -> Result<Vec<Entry>, Entry> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| problem(position(bytes, error.valid_up_to()).0, Situation::NotText))?;
    // The parser's own Display prints the source line, perhaps the secret's; its message and span do not.
    let table = DeTable::parse(text).map_err(|error| {
        let (line, column) = position(bytes, error.span().map_or(bytes.len(), |span| span.start));
        problem(line, Situation::Syntax { column, message: error.message().to_owned() })
    })?;
    Ok(entries(bytes, table.get_ref()))
}

fn entries(bytes: &[u8], table: &DeTable<'_>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (name, value) in table {
        let line = position(bytes, name.span().start).0;
        let name = name.get_ref().as_ref();
        let is_section = keys::is_section(name);
        let wrong = |situation| Entry::Problem { key: Some(name.to_owned()), line, situation };
        match value.get_ref() {
            DeValue::Table(section) if is_section => {
                entries.extend(section.iter().map(|(key, value)| Entry::Value {
                    key: format!("{name}.{}", key.get_ref()),
                    line: position(bytes, key.span().start).0,
                    value: Raw::from_toml(value.get_ref()),
                }));
            }
            _ if is_section => entries.push(wrong(Situation::NotASection)),
            DeValue::Table(_) if keys::find(name).is_none() => {
                entries.push(wrong(Situation::UnknownSection { nearest: keys::nearest_section(name) }));
            }
            value => entries.push(Entry::Value { key: name.to_owned(), line, value: Raw::from_toml(value) }),
        }
    }
    // The parser sorts by name; people read by line.
    entries.sort_by_key(|entry| match entry {
        Entry::Value { line, .. } | Entry::Problem { line, .. } => *line,
    });
    entries
}

/// Line and column of a byte, counted from 1; the column in characters.
fn position(bytes: &[u8], offset: usize) -> (usize, usize) {
    let before = bytes.get(..offset).unwrap_or(bytes);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let column = String::from_utf8_lossy(before.get(start..).unwrap_or_default()).chars().count() + 1;
    (line, column)
}
