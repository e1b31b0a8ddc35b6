//! Banned subjects: they are rejected until a given time, also across restarts.

pub(super) mod file;
mod record;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::SystemTime;

use self::file::{BanFile, BanFileError};
pub use self::record::BanRecord;
use crate::sync::lock;
use crate::token::UnixSeconds;

/// The most subjects that are banned at once.
pub const MAX_BANS: usize = 10_000;

/// The most lifted bans that are remembered, so that another node of a cluster cannot bring them back.
const MAX_LIFTED: usize = 10_000;

/// What is known of each subject.
type Records = BTreeMap<Box<str>, BanRecord>;

/// The banned subjects, and until when.
#[derive(Debug, Default)]
pub struct Bans {
    records: Mutex<Records>,
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
        self.set(file.load()?);
        *lock(&self.file) = file;
        Ok(())
    }

    fn set(&self, new: Records) {
        let mut records = lock(&self.records);
        self.count.store(new.len(), Relaxed);
        *records = new;
    }

    /// Bans a subject until this time, at most the end of the year 9999. Writes to the disk.
    ///
    /// # Errors
    /// There are too many bans, or the disk cannot be written.
    pub fn refuse(&self, subject: &str, until: UnixSeconds, now: UnixSeconds) -> Result<(), BanError> {
        self.change(now, |records| {
            let record = BanRecord::ban(until, now_ms(), records.get(subject));
            records.insert(subject.into(), record);
        })
    }

    /// Lifts a ban, and returns whether there was one. Writes to the disk.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn lift(&self, subject: &str, now: UnixSeconds) -> Result<bool, BanError> {
        let mut lifted = false;
        self.change(now, |records| {
            if let Some(record) = records.get_mut(subject).filter(|record| record.holds(now)) {
                *record = record.lifted(now_ms());
                lifted = true;
            }
        })?;
        Ok(lifted)
    }

    /// Adds what another node knows, and returns the subjects that are banned only now. Writes to the disk.
    ///
    /// # Errors
    /// There are too many bans, or the disk cannot be written.
    pub fn merge(
        &self,
        others: impl IntoIterator<Item = (Box<str>, BanRecord)>,
        now: UnixSeconds,
    ) -> Result<Vec<Box<str>>, BanError> {
        let mut banned = Vec::new();
        self.change(now, |records| {
            for (subject, other) in others {
                let known = records.get(&subject).copied();
                let merged = known.map_or(other, |known| known.merged(other));
                if merged.holds(now) && !known.is_some_and(|known| known.holds(now)) {
                    banned.push(subject.clone());
                }
                records.insert(subject, merged);
            }
        })?;
        Ok(banned)
    }

    /// Changes the bans on the disk first, so that a ban that was confirmed holds.
    fn change(&self, now: UnixSeconds, change: impl FnOnce(&mut Records)) -> Result<(), BanError> {
        let file = lock(&self.file);
        let before = lock(&self.records).clone();
        let mut records = before.clone();
        change(&mut records);
        if records == before {
            return Ok(());
        }
        records.retain(|_, record| record.keep > now);
        forget_oldest_lifted(&mut records, now);
        if records.values().filter(|record| record.holds(now)).count() > MAX_BANS {
            return Err(BanError::TooMany);
        }
        file.save(&records).map_err(BanError::NotRemembered)?;
        self.set(records);
        Ok(())
    }

    /// Returns the bans that hold at `now`, by subject.
    pub fn list(&self, now: UnixSeconds) -> Vec<(Box<str>, UnixSeconds)> {
        let records = lock(&self.records);
        let holding = records.iter().filter(|(_, record)| record.holds(now));
        holding.map(|(subject, record)| (subject.clone(), record.until)).collect()
    }

    /// Returns the records for other nodes whose subjects come after this one, by subject, lifted bans included.
    pub fn records_after(
        &self,
        subject: Option<&str>,
        now: UnixSeconds,
        most: usize,
    ) -> Vec<(Box<str>, BanRecord)> {
        let after = subject.map_or(Bound::Unbounded, Bound::Excluded);
        let records = lock(&self.records);
        let after = records.range::<str, _>((after, Bound::Unbounded));
        let kept = after.filter(|(_, record)| record.keep > now).take(most);
        kept.map(|(subject, record)| (subject.clone(), *record)).collect()
    }

    /// Returns until when a subject is banned, if it is.
    pub fn until(&self, subject: Option<&str>, now: UnixSeconds) -> Option<UnixSeconds> {
        if self.count.load(Relaxed) == 0 {
            return None;
        }
        let records = lock(&self.records);
        records.get(subject?).filter(|record| record.holds(now)).map(|record| record.until)
    }
}

/// Removes the lifted bans beyond [`MAX_LIFTED`] that were lifted first.
fn forget_oldest_lifted(records: &mut Records, now: UnixSeconds) {
    let lifted = |record: &BanRecord| !record.holds(now);
    let mut changes: Vec<u64> =
        records.values().filter(|record| lifted(record)).map(|record| record.changed).collect();
    if changes.len() > MAX_LIFTED {
        changes.sort_unstable_by_key(|changed| Reverse(*changed));
        let oldest = changes[MAX_LIFTED - 1];
        records.retain(|_, record| !lifted(record) || record.changed > oldest);
    }
}

/// Returns the time in milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::MAX_DATE;

    #[test]
    fn a_ban_ends_at_its_time() {
        let refused = Bans::default();
        assert_eq!(refused.until(Some("alice"), 0), None);
        let ban = |until| BanRecord { until, changed: 0, keep: until };
        refused.set([("alice".into(), ban(100)), ("bob".into(), ban(200))].into());
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
        let ban = BanRecord { until: 10, changed: 0, keep: 10 };
        next.set((0..MAX_BANS as u64).map(|n| (n.to_string().into(), ban)).collect());
        assert!(matches!(next.refuse("one more", 10, 0), Err(BanError::TooMany)));
        next.refuse("7", 11, 0).unwrap();
        next.refuse("one more", 20, 10).unwrap();
    }

    fn bans() -> (tempfile::TempDir, Bans) {
        let scratch = tempfile::tempdir().unwrap();
        let bans = Bans::default();
        bans.remember_in(BanFile::new(Some(scratch.path().join("refused.json")))).unwrap();
        (scratch, bans)
    }

    #[test]
    fn a_node_that_missed_a_lifted_ban_does_not_bring_it_back() {
        let ((_a, a), (_b, b), (_c, c)) = (bans(), bans(), bans());
        a.refuse("alice", 1000, 0).unwrap();
        assert_eq!(b.merge(a.records_after(None, 0, 10), 0).unwrap(), ["alice".into()]);
        assert_eq!(b.merge(a.records_after(None, 0, 10), 0).unwrap(), [], "it is banned already");
        assert!(b.lift("alice", 0).unwrap());
        // c joins, and hears first of the one and then of the other.
        for node in [&a, &b, &a] {
            c.merge(node.records_after(None, 0, 10), 0).unwrap();
        }
        assert_eq!(c.until(Some("alice"), 0), None);
        a.merge(c.records_after(None, 0, 10), 0).unwrap();
        assert_eq!(a.until(Some("alice"), 0), None);
        // When the ban would have ended, nothing of it is left.
        assert_eq!(c.records_after(None, 1000, 10), []);
        assert!(!c.lift("alice", 0).unwrap(), "it is lifted already");
    }

    #[test]
    fn lifted_bans_outlive_a_restart_and_are_bounded() {
        let (scratch, bans) = bans();
        bans.refuse("alice", 1000, 0).unwrap();
        bans.lift("alice", 0).unwrap();
        let again = Bans::default();
        again.remember_in(BanFile::new(Some(scratch.path().join("refused.json")))).unwrap();
        let records = again.records_after(None, 0, 10);
        assert_eq!((records.len(), records[0].1.until, records[0].1.keep), (1, 0, 1000));

        let lifted = |n: u64| (n.to_string().into(), BanRecord { until: 0, changed: n, keep: 1000 });
        bans.merge((0..=MAX_LIFTED as u64).map(lifted), 0).unwrap();
        let records = bans.records_after(None, 0, usize::MAX);
        assert!(records.len() <= MAX_LIFTED, "{}", records.len());
        assert!(records.iter().any(|(subject, _)| &**subject == "alice"), "the newest stay");
        assert!(!records.iter().any(|(subject, _)| &**subject == "0"), "the oldest go");
        let pages = bans.records_after(Some("9998"), 0, 2);
        assert_eq!(pages.iter().map(|(subject, _)| &**subject).collect::<Vec<_>>(), ["9999", "alice"]);
    }
}
