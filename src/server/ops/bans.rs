//! Bans of subjects: their limits, the list of them, and lifting one.

use crate::server::bans::{BanError, BanRecord};
use crate::server::{Server, unix_now};
use crate::timestamp::clamp_date;
use crate::token::{MAX_SUBJECT_BYTES, UnixSeconds};

/// Checks the length of a subject that is to be banned or disconnected. No token has a longer one.
///
/// # Errors
/// The sentence for the caller.
pub fn check_subject(subject: &str) -> Result<(), String> {
    if subject.len() <= MAX_SUBJECT_BYTES {
        return Ok(());
    }
    Err(format!("a subject has at most {MAX_SUBJECT_BYTES} bytes"))
}

/// Returns the end of a ban that starts now, at most the end of the year 9999.
pub(super) fn end_of_ban(seconds: u64) -> UnixSeconds {
    clamp_date(unix_now().saturating_add(seconds))
}

/// Returns the banned subjects, sorted by name, and when each ban ends.
pub fn list(server: &Server) -> Vec<(Box<str>, UnixSeconds)> {
    server.bans.list(unix_now())
}

/// Returns the records of bans for another node, after this subject and by subject.
pub(super) fn records_after(
    server: &Server,
    subject: Option<&str>,
    most: usize,
) -> Vec<(Box<str>, BanRecord)> {
    server.bans.records_after(subject, unix_now(), most)
}

/// Lifts the ban of a subject, and returns whether it was banned. Writes to the disk. A subject of any length can be
/// lifted.
///
/// # Errors
/// The change could not be written to the disk; nothing has changed then.
pub fn lift(server: &Server, subject: &str) -> Result<bool, BanError> {
    server.bans.lift(subject, unix_now())
}
