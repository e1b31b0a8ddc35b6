//! The configuration file: reads TOML into keys, lines and values, without checking the values.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::super::error::ProblemKind;
use super::super::value_types::Raw;
use super::super::{keys, unknown_keys};
use crate::regular_file::{self, FileError};

/// Bytes; the shipped file has about 5 KiB.
const LARGEST: u64 = 1 << 20;
/// There are about a hundred keys. For each one the file is searched for its line, and each unknown name is compared with
/// all of them.
const MOST_KEYS: usize = 1_000;

/// A key or a section in the file.
pub(super) enum Entry {
    /// A key with its value.
    Value {
        /// `section.key`, or `key` at the top.
        key: String,
        /// Counted from 1.
        line: usize,
        /// The unchecked value.
        value: Raw,
    },
    /// A line that is not a key with a value.
    Problem {
        /// The section or the key, if there is one.
        key: Option<String>,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        kind: ProblemKind,
    },
}

/// Reads a file. The entries are in the order of its lines. For a file that is not TOML there is one entry, the problem.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, ProblemKind> {
    // The only device that is accepted, because it is the usual way to name no file.
    if path == Path::new("/dev/null") {
        return Ok(Vec::new());
    }
    match regular_file::read(path, LARGEST) {
        Ok(content) => Ok(parse(&content.bytes).unwrap_or_else(|problem| vec![problem])),
        Err(FileError::TooLarge(maximum)) => Ok(vec![problem(1, ProblemKind::TooLarge { maximum })]),
        Err(error) => Err(ProblemKind::Unreadable { path: path.to_owned(), reason: error.to_string() }),
    }
}

fn problem(line: usize, kind: ProblemKind) -> Entry {
    Entry::Problem { key: None, line, kind }
}

fn parse(bytes: &[u8]) -> Result<Vec<Entry>, Entry> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| problem(position(bytes, error.valid_up_to()).0, ProblemKind::NotText))?;
    // The parser's Display prints the source line, which may be that of the secret. Its message and span do not.
    let table = DeTable::parse(text).map_err(|error| {
        let (line, column) = position(bytes, error.span().map_or(bytes.len(), |span| span.start));
        problem(line, ProblemKind::Syntax { column, message: error.message().to_owned() })
    })?;
    if count(table.get_ref()) > MOST_KEYS {
        return Err(problem(1, ProblemKind::TooManyKeys { maximum: MOST_KEYS }));
    }
    Ok(entries(bytes, table.get_ref()))
}

/// Returns the number of names in a table and in the tables in it.
fn count(table: &DeTable<'_>) -> usize {
    table.values().map(|value| 1 + value.get_ref().as_table().map_or(0, count)).sum()
}

fn entries(bytes: &[u8], table: &DeTable<'_>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (name, value) in table {
        let line = position(bytes, name.span().start).0;
        let name = name.get_ref().as_ref();
        let is_section = unknown_keys::is_section(name);
        let wrong = |kind| Entry::Problem { key: Some(name.to_owned()), line, kind };
        match value.get_ref() {
            DeValue::Table(section) if is_section => add_section(bytes, name, section, &mut entries),
            _ if is_section => entries.push(wrong(ProblemKind::NotASection)),
            DeValue::Table(_) if keys::find(name).is_none() => {
                entries.push(wrong(ProblemKind::UnknownSection {
                    nearest: unknown_keys::nearest_section(name),
                }));
            }
            value => entries.push(Entry::Value { key: name.to_owned(), line, value: Raw::from_toml(value) }),
        }
    }
    // The parser sorts by name.
    entries.sort_by_key(|entry| match entry {
        Entry::Value { line, .. } | Entry::Problem { line, .. } => *line,
    });
    entries
}

/// Adds the keys of a section, and those of sections in it such as `[cluster.tls]`.
fn add_section(bytes: &[u8], section: &str, table: &DeTable<'_>, entries: &mut Vec<Entry>) {
    for (name, value) in table {
        let line = position(bytes, name.span().start).0;
        let key = format!("{section}.{}", name.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) if unknown_keys::is_section(&key) => {
                add_section(bytes, &key, inner, entries);
            }
            _ if unknown_keys::is_section(&key) => {
                entries.push(Entry::Problem { key: Some(key), line, kind: ProblemKind::NotASection });
            }
            value => entries.push(Entry::Value { key, line, value: Raw::from_toml(value) }),
        }
    }
}

/// Returns line and column of a byte, counted from 1. The column counts characters.
fn position(bytes: &[u8], offset: usize) -> (usize, usize) {
    let before = bytes.get(..offset).unwrap_or(bytes);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let column = String::from_utf8_lossy(before.get(start..).unwrap_or_default()).chars().count() + 1;
    (line, column)
}
