//! Timestamps in the documents of the admin API.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::timestamp::{from_unix, rfc3339};

/// A time, in JSON as RFC 3339 in UTC with a precision of one second (`2026-11-22T10:45:00Z`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub SystemTime);

impl Timestamp {
    /// Returns the time `seconds` after the start of 1970, at most the end of the year 9999.
    #[must_use]
    pub fn from_unix(seconds: u64) -> Self {
        Self(from_unix(seconds))
    }

    /// Returns the current time of the wall clock.
    #[must_use]
    pub fn now() -> Self {
        Self(SystemTime::now())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        rfc3339(self.0).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map(Self).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let time = Timestamp::from_unix(1_795_344_300);
        let text = serde_json::to_string(&time).unwrap();
        assert_eq!(text, r#""2026-11-22T10:45:00Z""#);
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), time);
        assert_eq!(Timestamp::from_unix(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
        let before_1970 = Timestamp(SystemTime::UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(before_1970.to_string(), "1970-01-01T00:00:00Z");
    }
}
