//! Banned subjects: they are rejected until a given time, also across restarts.

pub(super) mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use self::file::{BanFile, BanFileError};
use crate::sync::lock;
use crate::timestamp::clamp_date;
use crate::token::UnixSeconds;

/// The most subjects that are banned at once.
pub const MAX_BANS: usize = 10_000;

/// The banned subjects, and until when.
#[derive(Debug, Default)]
pub struct Bans {
    until: Mutex<BTreeMap<Box<str>, UnixSeconds>>,
    /// Their number. While it is 0, a handshake looks at nothing else.
    count: AtomicUsize,
    /// Locked while bans change; handshakes do not wait for the disk.
    file: Mutex<BanFile>,
}

/// Why a subject could not be banned, or its ban not be lifted. Nothing has changed then.
#[derive(Debug)]
pub enum BanError {
    /// [`MAX_BANS`] subjects are banned already.
    TooMany,
    /// The ban cannot be written to the disk.
    NotRemembered(BanFileError),
}

impl fmt::Display for BanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BanError::TooMany => write!(f, "{MAX_BANS} subjects are refused already"),
            BanError::NotRemembered(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BanError {}

impl Bans {
    /// Loads the bans from a file, each until the end of the year 9999 at most, and writes changes there.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn remember_in(&self, file: BanFile) -> Result<(), BanFileError> {
        let mut subjects = file.load()?;
        subjects.values_mut().for_each(|until| *until = clamp_date(*until));
        self.set(subjects);
        *lock(&self.file) = file;
        Ok(())
    }

    fn set(&self, subjects: BTreeMap<Box<str>, UnixSeconds>) {
        let mut until = lock(&self.until);
        self.count.store(subjects.len(), Relaxed);
        *until = subjects;
    }

    /// Bans a subject until this time, at most the end of the year 9999. Writes to the disk.
    ///
    /// # Errors
    /// There are too many bans, or the disk cannot be written.
    pub fn refuse(&self, subject: &str, until: UnixSeconds, now: UnixSeconds) -> Result<(), BanError> {
        self.change(now, |refused| refused.insert(subject.into(), clamp_date(until)))
    }

    /// Lifts a ban, and returns whether there was one. Writes to the disk.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn lift(&self, subject: &str, now: UnixSeconds) -> Result<bool, BanError> {
        let mut lifted = false;
        self.change(now, |refused| lifted = refused.remove(subject).is_some())?;
        Ok(lifted)
    }

    /// Changes the bans on the disk first, so that a ban that was confirmed holds.
    fn change<T>(
        &self,
        now: UnixSeconds,
        change: impl FnOnce(&mut BTreeMap<Box<str>, UnixSeconds>) -> T,
    ) -> Result<(), BanError> {
        let file = lock(&self.file);
        let before: BTreeMap<_, _> = self.list(now).into_iter().collect();
        let mut refused = before.clone();
        change(&mut refused);
        if refused == before {
            return Ok(());
        }
        if refused.len() > MAX_BANS {
            return Err(BanError::TooMany);
        }
        file.save(&refused).map_err(BanError::NotRemembered)?;
        self.set(refused);
        Ok(())
    }

    /// Returns the bans that hold at `now`, by subject.
    pub fn list(&self, now: UnixSeconds) -> Vec<(Box<str>, UnixSeconds)> {
        let until = lock(&self.until);
        until
            .iter()
            .filter(|(_, until)| **until > now)
            .map(|(subject, until)| (subject.clone(), *until))
            .collect()
    }

    /// Returns until when a subject is banned, if it is.
    pub fn until(&self, subject: Option<&str>, now: UnixSeconds) -> Option<UnixSeconds> {
        if self.count.load(Relaxed) == 0 {
            return None;
        }
        lock(&self.until).get(subject?).copied().filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::MAX_DATE;

    #[test]
    fn a_ban_ends_at_its_time() {
        let refused = Bans::default();
        assert_eq!(refused.until(Some("alice"), 0), None);
        refused.set([("alice".into(), 100), ("bob".into(), 200)].into());
        assert_eq!(refused.until(Some("alice"), 99), Some(100));
        assert_eq!(refused.until(Some("alice"), 100), None);
        assert_eq!((refused.until(Some("carol"), 0), refused.until(None, 0)), (None, None));
        assert_eq!(refused.list(100), [("bob".into(), 200)]);
        refused.set(BTreeMap::new());
        assert_eq!(refused.until(Some("bob"), 0), None);
    }

    #[test]
    fn a_ban_that_cannot_be_saved_is_not_made() {
        let refused = Bans::default();
        assert!(matches!(refused.refuse("alice", 10, 0), Err(BanError::NotRemembered(_))));
        assert_eq!(refused.until(Some("alice"), 0), None);
        assert!(!refused.lift("alice", 0).unwrap(), "nothing to change is no trouble");

        let scratch = tempfile::tempdir().unwrap();
        let file = || BanFile::new(Some(scratch.path().join("refused.json")));
        refused.remember_in(file()).unwrap();
        refused.refuse("alice", u64::MAX, 0).unwrap();
        let next = Bans::default();
        next.remember_in(file()).unwrap();
        assert_eq!(next.until(Some("alice"), 0), Some(MAX_DATE), "what RFC 3339 can write");
        assert!(next.lift("alice", 0).unwrap());
        std::fs::write(scratch.path().join("refused.json"), format!("{{\"eve\": {}}}", u64::MAX)).unwrap();
        next.remember_in(file()).unwrap();
        assert_eq!(next.until(Some("eve"), 0), Some(MAX_DATE), "whoever wrote it");
        next.set((0..MAX_BANS as u64).map(|n| (n.to_string().into(), 10)).collect());
        assert!(matches!(next.refuse("one more", 10, 0), Err(BanError::TooMany)));
        next.refuse("7", 11, 0).unwrap();
        next.refuse("one more", 20, 10).unwrap();
    }
}
