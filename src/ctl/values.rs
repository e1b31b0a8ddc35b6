//! Values of the command line that several commands use.

use std::time::Duration;

/// Parses a duration longer than zero.
pub(super) fn positive(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than zero".into()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("give a duration such as 30s, 1h or 7d".into()),
    }
}
