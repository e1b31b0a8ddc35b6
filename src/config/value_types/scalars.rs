//! Simple types: flags, choices, text, addresses, paths and permission bits.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::raw::Raw;
use super::{ProblemKind, ValueType, invalid, quoted};

/// `true` or `false`; outside the file also the values that the original accepts, and yes and no.
pub(in crate::config) struct Flag;

impl ValueType for Flag {
    type Value = bool;

    fn read(&self, raw: &Raw) -> Result<bool, ProblemKind> {
        const EXPECTED: &str = "true or false";
        match raw {
            Raw::Boolean(flag) => Ok(*flag),
            Raw::Untyped(text) => match text.to_ascii_lowercase().as_str() {
                "1" | "t" | "true" | "y" | "yes" | "on" => Ok(true),
                "0" | "f" | "false" | "n" | "no" | "off" => Ok(false),
                _ => Err(invalid(EXPECTED, text)),
            },
            _ => Err(raw.wrong_type(EXPECTED)),
        }
    }

    fn show(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }
}

/// One of these words, in any case. Of several words for one value, the first is printed.
pub(in crate::config) struct Choice<T: 'static>(pub(in crate::config) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> ValueType for Choice<T> {
    type Value = T;

    fn read(&self, raw: &Raw) -> Result<T, ProblemKind> {
        let text = raw.text("a word in quotes")?;
        match self.0.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
            Some((_, value)) => Ok(*value),
            None => {
                let words: Vec<&str> = self.0.iter().map(|(word, _)| *word).collect();
                Err(invalid(format!("one of {}", words.join(", ")), text))
            }
        }
    }

    fn show(&self, value: &T) -> Option<String> {
        self.0.iter().find(|(_, known)| known == value).map(|(word, _)| quoted(word))
    }
}

/// Text that may be absent. Empty text means none, so that a later layer can remove the value of the file.
pub(in crate::config) struct OptionalText;

impl ValueType for OptionalText {
    type Value = Option<String>;

    fn read(&self, raw: &Raw) -> Result<Option<String>, ProblemKind> {
        let text = raw.text("text in quotes")?;
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    fn show(&self, value: &Option<String>) -> Option<String> {
        value.as_ref().map(quoted)
    }
}

/// An address that may be absent.
pub(in crate::config) struct OptionalAddress;

impl ValueType for OptionalAddress {
    type Value = Option<SocketAddr>;

    fn read(&self, raw: &Raw) -> Result<Option<SocketAddr>, ProblemKind> {
        const EXPECTED: &str = "an IP address with a port such as \"127.0.0.1:9424\"";
        let text = raw.text(EXPECTED)?;
        let address = text.parse().map(Some).map_err(|_| invalid(EXPECTED, text));
        if text.is_empty() { Ok(None) } else { address }
    }

    fn show(&self, value: &Option<SocketAddr>) -> Option<String> {
        value.map(quoted)
    }
}

/// A path that may be absent, relative to this directory.
pub(in crate::config) struct OptionalPath<'a>(pub(in crate::config) &'a Path);

impl ValueType for OptionalPath<'_> {
    type Value = Option<PathBuf>;

    fn read(&self, raw: &Raw) -> Result<Option<PathBuf>, ProblemKind> {
        let text = raw.text("a path in quotes")?;
        // The path becomes absolute here because a relative one would depend on the working directory later.
        let path = std::path::absolute(self.0.join(text))
            .map_err(|error| ProblemKind::Unreadable { path: text.into(), reason: error.to_string() });
        if text.is_empty() { Ok(None) } else { path.map(Some) }
    }

    fn show(&self, value: &Option<PathBuf>) -> Option<String> {
        value.as_ref().map(|path| quoted(path.display()))
    }
}

/// Permission bits in octal. The owner must be able to read and write.
pub(in crate::config) struct Mode;

impl ValueType for Mode {
    type Value = u32;

    fn read(&self, raw: &Raw) -> Result<u32, ProblemKind> {
        const EXPECTED: &str = "permission bits in quotes, \"0600\" to \"0777\", with 6 or 7 for the owner";
        let text = raw.text(EXPECTED)?;
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode & !0o777 == 0 && mode & 0o600 == 0o600 => Ok(mode),
            _ => Err(invalid(EXPECTED, text)),
        }
    }

    fn show(&self, value: &u32) -> Option<String> {
        Some(quoted(format!("{value:04o}")))
    }
}
