//! Values on the command line that several commands take.

use std::time::Duration;

/// A duration longer than zero.
pub(super) fn positive(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be more than nothing".into()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("give a duration such as 30s, 1h or 7d".into()),
    }
}
