//! Writes RFC 3339 timestamps in UTC, and durations for people.

use std::fmt::Display;
use std::time::{Duration, SystemTime};

/// The last second of the year 9999, in seconds since 1970, which is the latest time that RFC 3339 can express.
pub const MAX_DATE: u64 = 253_402_300_799;

/// Returns `seconds` since 1970, at most [`MAX_DATE`].
#[must_use]
pub fn clamp_date(seconds: u64) -> u64 {
    seconds.min(MAX_DATE)
}

/// Returns the time `seconds` after the beginning of 1970, at most [`MAX_DATE`].
#[must_use]
pub fn from_unix(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(clamp_date(seconds))
}

/// Returns an RFC 3339 timestamp (`2026-11-22T10:45:00Z`). A time outside of the years 1970 to 9999 becomes the nearest one
/// inside.
#[must_use]
pub fn rfc3339(time: SystemTime) -> impl Display {
    // A clock that was never set may be in 1969, for which the formatter fails.
    humantime::format_rfc3339_seconds(time.clamp(SystemTime::UNIX_EPOCH, from_unix(MAX_DATE)))
}

/// Returns a duration in its two largest units: `7 days`, `3 days 4 h`, `5 min 3 s`, `350 ms`.
///
/// Milliseconds are shown only below one second.
#[must_use]
pub fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    if seconds == 0 && !length.is_zero() {
        return format!("{} ms", length.as_millis().max(1));
    }
    let days = seconds / 86_400;
    let units = [
        (days, if days == 1 { "day" } else { "days" }),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(units.len() - 1);
    let shown =
        units.iter().skip(first).take(2).enumerate().filter(|(index, (count, _))| *index == 0 || *count > 0);
    shown.map(|(_, (count, unit))| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_blank_before_each_unit() {
        for (milliseconds, text) in [
            (0, "0 s"),
            (350, "350 ms"),
            (1_999, "1 s"),
            (60_000, "1 min"),
            (303_000, "5 min 3 s"),
            (3_601_000, "1 h"),
            (11_259_000, "3 h 7 min"),
            (86_400_000, "1 day"),
            (273_906_123, "3 days 4 h"),
            (7 * 86_400_000, "7 days"),
            (400 * 86_400_000, "400 days"),
        ] {
            assert_eq!(span(Duration::from_millis(milliseconds)), text);
        }
        assert_eq!(span(Duration::from_nanos(1)), "1 ms");
    }

    #[test]
    fn every_moment_can_be_written() {
        let text = |seconds| rfc3339(from_unix(seconds)).to_string();
        assert_eq!(
            (text(0), text(1_000_000_000)),
            ("1970-01-01T00:00:00Z".into(), "2001-09-09T01:46:40Z".into())
        );
        assert_eq!((text(MAX_DATE), text(u64::MAX)), ("9999-12-31T23:59:59Z".into(), text(MAX_DATE)));
        let past =
            [SystemTime::UNIX_EPOCH - Duration::from_secs(1), from_unix(MAX_DATE) + Duration::from_secs(1)];
        assert_eq!(past.map(|time| rfc3339(time).to_string()), [text(0), text(MAX_DATE)]);
    }
}
