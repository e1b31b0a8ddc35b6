//! Durations.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::raw::Raw;
use super::{ProblemKind, ValueType, invalid, out_of_range, quoted};

/// A duration, always written with its unit.
pub(in crate::config) struct Period(pub(in crate::config) RangeInclusive<Duration>);

/// Returns this duration, for constants and ranges.
pub(in crate::config) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl ValueType for Period {
    type Value = Duration;

    fn read(&self, raw: &Raw) -> Result<Duration, ProblemKind> {
        const EXPECTED: &str = "a duration such as \"10s\", \"500ms\" or \"5m\"";
        let text = raw.text(EXPECTED)?;
        let period = humantime::parse_duration(text).map_err(|_| invalid(EXPECTED, text))?;
        if self.0.contains(&period) { Ok(period) } else { Err(out_of_range(text, &self.0, period_text)) }
    }

    fn show(&self, value: &Duration) -> Option<String> {
        Some(quoted(period_text(*value)))
    }
}

fn period_text(period: Duration) -> String {
    humantime::format_duration(period).to_string()
}

/// The time over which the closes of a stop are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// A time that depends on the number of connections.
    Auto,
    /// This time.
    Fixed(Duration),
}

/// `"auto"`, or a duration.
pub(in crate::config) struct DrainPeriod(pub(in crate::config) Period);

impl ValueType for DrainPeriod {
    type Value = Drain;

    fn read(&self, raw: &Raw) -> Result<Drain, ProblemKind> {
        match raw {
            Raw::Untyped(text) | Raw::String(text) if text == "auto" => Ok(Drain::Auto),
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
