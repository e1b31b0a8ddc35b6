//! Moments as people and programs are told them: RFC 3339 in UTC, to the second.

use std::fmt::Display;
use std::time::{Duration, SystemTime};

/// The last second of the year 9999 in seconds since 1970: RFC 3339 can write no later one.
pub const MAX_DATE: u64 = 253_402_300_799;

/// The moment so many seconds after the beginning of 1970, at most [`MAX_DATE`].
#[must_use]
pub fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(MAX_DATE))
}

/// A moment as RFC 3339 writes it (`2026-11-22T10:45:00Z`), of the years 1970 to 9999 the nearest.
#[must_use]
pub fn rfc3339(time: SystemTime) -> impl Display {
    // A clock that was never set may say 1969, which the formatter refuses.
    humantime::format_rfc3339_seconds(time.clamp(SystemTime::UNIX_EPOCH, moment(MAX_DATE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_can_be_written() {
        let text = |seconds| rfc3339(moment(seconds)).to_string();
        assert_eq!(
            (text(0), text(1_000_000_000)),
            ("1970-01-01T00:00:00Z".into(), "2001-09-09T01:46:40Z".into())
        );
        assert_eq!((text(MAX_DATE), text(u64::MAX)), ("9999-12-31T23:59:59Z".into(), text(MAX_DATE)));
        let past =
            [SystemTime::UNIX_EPOCH - Duration::from_secs(1), moment(MAX_DATE) + Duration::from_secs(1)];
        assert_eq!(past.map(|time| rfc3339(time).to_string()), [text(0), text(MAX_DATE)]);
    }
}
