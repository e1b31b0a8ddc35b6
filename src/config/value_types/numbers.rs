//! Counts and sizes.

use std::ops::RangeInclusive;

use super::raw::Raw;
use super::{ProblemKind, ValueType, invalid, out_of_range, quoted};

/// A count.
pub(in crate::config) struct Number(pub(in crate::config) RangeInclusive<usize>);

impl ValueType for Number {
    type Value = usize;

    fn read(&self, raw: &Raw) -> Result<usize, ProblemKind> {
        const EXPECTED: &str = "a whole number";
        let number = match raw {
            Raw::Integer(integer) => *integer,
            Raw::Untyped(text) => text.parse().map_err(|_| invalid(EXPECTED, text))?,
            _ => return Err(raw.wrong_type(EXPECTED)),
        };
        within(number, &self.0, |number| number.to_string())
    }

    fn show(&self, value: &usize) -> Option<String> {
        Some(value.to_string())
    }
}

/// A number of bytes, plain or with one of [`UNITS`].
pub(in crate::config) struct Size(pub(in crate::config) RangeInclusive<usize>);

/// 1024 bytes.
pub(in crate::config) const KIB: usize = 1 << 10;
/// 1024 KiB.
pub(in crate::config) const MIB: usize = 1 << 20;
/// 1024 MiB.
pub(in crate::config) const GIB: usize = 1 << 30;
/// 1024 GiB.
pub(in crate::config) const TIB: usize = 1 << 40;

const UNITS: [(&str, usize); 5] = [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];

impl ValueType for Size {
    type Value = usize;

    fn read(&self, raw: &Raw) -> Result<usize, ProblemKind> {
        const EXPECTED: &str = "a size such as \"64KiB\", \"1MiB\" or 1024";
        let bytes = match raw {
            Raw::Integer(integer) => *integer,
            Raw::Untyped(text) | Raw::String(text) => bytes(text).ok_or_else(|| invalid(EXPECTED, text))?,
            _ => return Err(raw.wrong_type(EXPECTED)),
        };
        within(bytes, &self.0, size)
    }

    fn show(&self, value: &usize) -> Option<String> {
        let text = size(*value);
        Some(if text.ends_with('B') { quoted(text) } else { text })
    }
}

/// A number of bytes, or `off`.
pub(in crate::config) struct SizeOrOff(pub(in crate::config) RangeInclusive<usize>);

impl ValueType for SizeOrOff {
    type Value = Option<usize>;

    fn read(&self, raw: &Raw) -> Result<Option<usize>, ProblemKind> {
        const EXPECTED: &str = "\"off\", or a size such as \"256B\" or 1024";
        let bytes = match raw {
            Raw::Untyped(text) | Raw::String(text) if text.eq_ignore_ascii_case("off") => return Ok(None),
            Raw::Integer(integer) => *integer,
            Raw::Untyped(text) | Raw::String(text) => bytes(text).ok_or_else(|| invalid(EXPECTED, text))?,
            _ => return Err(raw.wrong_type(EXPECTED)),
        };
        within(bytes, &self.0, size).map(Some)
    }

    fn show(&self, value: &Option<usize>) -> Option<String> {
        value.map_or_else(|| Some(quoted("off")), |bytes| Size(self.0.clone()).show(&bytes))
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

/// Returns a size in the largest unit that expresses it exactly, else in plain bytes.
pub(in crate::config) fn size(bytes: usize) -> String {
    match UNITS.iter().find(|(_, unit)| *unit > 1 && bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

fn within(
    number: i128,
    range: &RangeInclusive<usize>,
    show: fn(usize) -> String,
) -> Result<usize, ProblemKind> {
    match usize::try_from(number) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(out_of_range(number, range, show)),
    }
}
