//! The kinds of value: how each is read, checked against its range, and printed.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::Situation;
use super::raw::Raw;
use super::settings::Drain;
use super::web_origin::AllowedOrigin;
use crate::escape::is_invisible;

/// How the values of a key are read, and printed so that they can be read again.
pub(super) trait Kind {
    /// What comes of it.
    type Value;

    /// The value, within its range.
    fn read(&self, raw: &Raw) -> Result<Self::Value, Situation>;

    /// As it would be written in the file; `None` where leaving the key out is the way to write it.
    fn show(&self, value: &Self::Value) -> Option<String>;
}

/// `true` or `false`; outside the file also what the original takes there, and yes and no.
pub(super) struct Flag;

impl Kind for Flag {
    type Value = bool;

    fn read(&self, raw: &Raw) -> Result<bool, Situation> {
        const EXPECTED: &str = "true or false";
        match raw {
            Raw::Boolean(flag) => Ok(*flag),
            Raw::Text(text) => match text.to_ascii_lowercase().as_str() {
                "1" | "t" | "true" | "y" | "yes" | "on" => Ok(true),
                "0" | "f" | "false" | "n" | "no" | "off" => Ok(false),
                _ => Err(not_understood(EXPECTED, text)),
            },
            _ => Err(raw.is_not(EXPECTED)),
        }
    }

    fn show(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }
}

/// A count.
pub(super) struct Number(pub(super) RangeInclusive<usize>);

impl Kind for Number {
    type Value = usize;

    fn read(&self, raw: &Raw) -> Result<usize, Situation> {
        const EXPECTED: &str = "a whole number";
        let number = match raw {
            Raw::Integer(integer) => *integer,
            Raw::Text(text) => text.parse().map_err(|_| not_understood(EXPECTED, text))?,
            _ => return Err(raw.is_not(EXPECTED)),
        };
        within(number, &self.0, |number| number.to_string())
    }

    fn show(&self, value: &usize) -> Option<String> {
        Some(value.to_string())
    }
}

/// A number of bytes: plain, or with one of [`UNITS`].
pub(super) struct Size(pub(super) RangeInclusive<usize>);

/// 1024 bytes.
pub(super) const KIB: usize = 1 << 10;
/// 1024 KiB.
pub(super) const MIB: usize = 1 << 20;
/// 1024 MiB.
pub(super) const GIB: usize = 1 << 30;
/// 1024 GiB.
pub(super) const TIB: usize = 1 << 40;

const UNITS: [(&str, usize); 5] = [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];

impl Kind for Size {
    type Value = usize;

    fn read(&self, raw: &Raw) -> Result<usize, Situation> {
        const EXPECTED: &str = "a size such as \"64KiB\", \"1MiB\" or 1024";
        let bytes = match raw {
            Raw::Integer(integer) => *integer,
            Raw::Text(text) | Raw::String(text) => {
                bytes(text).ok_or_else(|| not_understood(EXPECTED, text))?
            }
            _ => return Err(raw.is_not(EXPECTED)),
        };
        within(bytes, &self.0, size)
    }

    fn show(&self, value: &usize) -> Option<String> {
        let text = size(*value);
        Some(if text.ends_with('B') { quoted(text) } else { text })
    }
}

fn bytes(text: &str) -> Option<i128> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let unit = match unit {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    number.trim_end().parse::<i128>().ok()?.checked_mul(i128::try_from(unit).ok()?)
}

/// The largest unit that says it exactly, else plain bytes.
pub(super) fn size(bytes: usize) -> String {
    match UNITS.iter().find(|(_, unit)| *unit > 1 && bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// A length of time, always with its unit.
pub(super) struct Period(pub(super) RangeInclusive<Duration>);

/// A length of time in a range's definition.
pub(super) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Kind for Period {
    type Value = Duration;

    fn read(&self, raw: &Raw) -> Result<Duration, Situation> {
        const EXPECTED: &str = "a duration such as \"10s\", \"500ms\" or \"5m\"";
        let text = raw.text(EXPECTED)?;
        let period = humantime::parse_duration(text).map_err(|_| not_understood(EXPECTED, text))?;
        if self.0.contains(&period) { Ok(period) } else { Err(out_of_range(text, &self.0, period_text)) }
    }

    fn show(&self, value: &Duration) -> Option<String> {
        Some(quoted(period_text(*value)))
    }
}

fn period_text(period: Duration) -> String {
    humantime::format_duration(period).to_string()
}

/// `"auto"`, or a length of time.
pub(super) struct DrainPeriod(pub(super) Period);

impl Kind for DrainPeriod {
    type Value = Drain;

    fn read(&self, raw: &Raw) -> Result<Drain, Situation> {
        match raw {
            Raw::Text(text) | Raw::String(text) if text == "auto" => Ok(Drain::Auto),
            _ => self.0.read(raw).map(Drain::Fixed),
        }
    }

    fn show(&self, value: &Drain) -> Option<String> {
        match value {
            Drain::Auto => Some(quoted("auto")),
            Drain::Fixed(period) => self.0.show(period),
        }
    }
}

/// One of these words, in any case. Where several mean the same, the first is printed.
pub(super) struct Word<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Kind for Word<T> {
    type Value = T;

    fn read(&self, raw: &Raw) -> Result<T, Situation> {
        let text = raw.text("a word in quotes")?;
        match self.0.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
            Some((_, value)) => Ok(*value),
            None => {
                let words: Vec<&str> = self.0.iter().map(|(word, _)| *word).collect();
                Err(not_understood(format!("one of {}", words.join(", ")), text))
            }
        }
    }

    fn show(&self, value: &T) -> Option<String> {
        self.0.iter().find(|(_, known)| known == value).map(|(word, _)| quoted(word))
    }
}

/// Text that may be absent; empty text is none, so that the environment can take away what the file says.
pub(super) struct OptionalText;

impl Kind for OptionalText {
    type Value = Option<String>;

    fn read(&self, raw: &Raw) -> Result<Option<String>, Situation> {
        let text = raw.text("text in quotes")?;
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    fn show(&self, value: &Option<String>) -> Option<String> {
        value.as_ref().map(quoted)
    }
}

/// An address that may be absent.
pub(super) struct OptionalAddress;

impl Kind for OptionalAddress {
    type Value = Option<SocketAddr>;

    fn read(&self, raw: &Raw) -> Result<Option<SocketAddr>, Situation> {
        const EXPECTED: &str = "an IP address with a port such as \"127.0.0.1:9424\"";
        let text = raw.text(EXPECTED)?;
        let address = text.parse().map(Some).map_err(|_| not_understood(EXPECTED, text));
        if text.is_empty() { Ok(None) } else { address }
    }

    fn show(&self, value: &Option<SocketAddr>) -> Option<String> {
        value.map(quoted)
    }
}

/// A path that may be absent, relative to this directory.
pub(super) struct OptionalPath<'a>(pub(super) &'a Path);

impl Kind for OptionalPath<'_> {
    type Value = Option<PathBuf>;

    fn read(&self, raw: &Raw) -> Result<Option<PathBuf>, Situation> {
        let text = raw.text("a path in quotes")?;
        // Made absolute here, because a relative one would change its meaning with the working directory.
        let path = std::path::absolute(self.0.join(text))
            .map_err(|error| Situation::Unreadable { path: text.into(), reason: error.to_string() });
        if text.is_empty() { Ok(None) } else { path.map(Some) }
    }

    fn show(&self, value: &Option<PathBuf>) -> Option<String> {
        value.as_ref().map(|path| quoted(path.display()))
    }
}

/// Permission bits in octal: the owner may read and write, whoever else may.
pub(super) struct Mode;

impl Kind for Mode {
    type Value = u32;

    fn read(&self, raw: &Raw) -> Result<u32, Situation> {
        const EXPECTED: &str = "permission bits in quotes, \"0600\" to \"0777\", with 6 or 7 for the owner";
        let text = raw.text(EXPECTED)?;
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode & !0o777 == 0 && mode & 0o600 == 0o600 => Ok(mode),
            _ => Err(not_understood(EXPECTED, text)),
        }
    }

    fn show(&self, value: &u32) -> Option<String> {
        Some(quoted(format!("{value:04o}")))
    }
}

/// Origins of web pages that may connect.
pub(super) struct WebOrigins;

impl Kind for WebOrigins {
    type Value = Vec<AllowedOrigin>;

    fn read(&self, raw: &Raw) -> Result<Vec<AllowedOrigin>, Situation> {
        const EXPECTED: &str =
            "a list of origins such as [\"https://app.example.org\", \"https://*.example.org\"]";
        let read = |item: Raw| {
            let text = item.text(EXPECTED)?;
            AllowedOrigin::parse(text).map_err(|expected| not_understood(expected, text))
        };
        raw.list(EXPECTED)?.into_iter().map(read).collect()
    }

    fn show(&self, value: &Vec<AllowedOrigin>) -> Option<String> {
        Some(quoted_list(value))
    }
}

/// A TOML string, in which characters that a person can't see stand as TOML's own escapes.
pub(super) fn quoted(text: impl Display) -> String {
    let text = text.to_string();
    if !text.contains(is_invisible) {
        return toml::Value::String(text).to_string();
    }
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if is_invisible(character) => quoted += &format!("\\U{:08x}", u32::from(character)),
            _ => quoted.push(character),
        }
    }
    quoted + "\""
}

/// A TOML list of strings.
pub(super) fn quoted_list(items: impl IntoIterator<Item = impl Display>) -> String {
    let items: Vec<String> = items.into_iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

/// The problem with a value that cannot be read.
pub(super) fn not_understood(expected: impl Into<String>, found: &str) -> Situation {
    Situation::NotUnderstood { expected: expected.into(), found: found.to_owned() }
}

fn within(
    number: i128,
    range: &RangeInclusive<usize>,
    show: fn(usize) -> String,
) -> Result<usize, Situation> {
    match usize::try_from(number) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(out_of_range(number, range, show)),
    }
}

fn out_of_range<T: Copy>(found: impl Display, range: &RangeInclusive<T>, show: fn(T) -> String) -> Situation {
    let (minimum, maximum) = (show(*range.start()), show(*range.end()));
    Situation::OutOfRange { minimum, maximum, found: found.to_string() }
}
