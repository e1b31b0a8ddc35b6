//! What is known of one subject's ban, in a form in which nodes of a cluster can compare it.

use serde::{Deserialize, Serialize};

use crate::timestamp::clamp_date;
use crate::token::UnixSeconds;

/// The ban of one subject, or that it was lifted.
///
/// Of two records of a subject the one that was changed later holds, so that a lifted ban is not brought back by a node that
/// has not heard of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct BanRecord {
    /// When the ban ends; 0 if it was lifted.
    pub until: UnixSeconds,
    /// When it was made or lifted, in milliseconds since 1970. Later than any change that its node knew of.
    pub changed: u64,
    /// When the last of all bans of the subject would have ended. The record is kept until then.
    pub keep: UnixSeconds,
}

/// A record in the file, where a number is the end of a ban.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Until(UnixSeconds),
    Record { until: UnixSeconds, changed: u64, keep: UnixSeconds },
}

impl From<Stored> for BanRecord {
    fn from(stored: Stored) -> BanRecord {
        let (until, changed, keep) = match stored {
            Stored::Until(until) => (until, 0, until),
            Stored::Record { until, changed, keep } => (until, changed, keep),
        };
        let (until, keep) = (clamp_date(until), clamp_date(keep));
        BanRecord { until, changed, keep: keep.max(until) }
    }
}

impl BanRecord {
    /// Returns the record of a ban until this time, made at `now_ms`, after what was known before.
    pub(super) fn ban(until: UnixSeconds, now_ms: u64, before: Option<&BanRecord>) -> BanRecord {
        let until = clamp_date(until);
        let (after, keep) = before.map_or((0, 0), |before| (before.changed.saturating_add(1), before.keep));
        BanRecord { until, changed: now_ms.max(after), keep: keep.max(until) }
    }

    /// Returns the record that this ban was lifted at `now_ms`.
    pub(super) fn lifted(self, now_ms: u64) -> BanRecord {
        BanRecord { until: 0, changed: now_ms.max(self.changed.saturating_add(1)), ..self }
    }

    /// Whether the ban holds at `now`.
    pub fn holds(&self, now: UnixSeconds) -> bool {
        self.until > now
    }

    /// Returns what both records together say.
    pub(super) fn merged(self, other: BanRecord) -> BanRecord {
        // Of a ban and its lifting at the same time, which two nodes can order, the lifting holds.
        let rank = |record: &BanRecord| (record.changed, record.until == 0, record.until);
        let newer = if rank(&other) > rank(&self) { other } else { self };
        BanRecord { keep: self.keep.max(other.keep), ..newer }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_is_read_from_a_number_too() {
        let read = |text: &str| serde_json::from_str::<BanRecord>(text).unwrap();
        assert_eq!(read("7"), BanRecord { until: 7, changed: 0, keep: 7 });
        let record = BanRecord { until: 0, changed: 5, keep: 9 };
        assert_eq!(read(&serde_json::to_string(&record).unwrap()), record);
    }

    #[test]
    fn a_lifted_ban_holds_against_older_bans_and_not_against_newer_ones() {
        let old = BanRecord::ban(1000, 50, None);
        let lifted = BanRecord::ban(500, 60, None).lifted(70);
        assert_eq!(lifted.merged(old), BanRecord { until: 0, changed: 70, keep: 1000 });
        assert_eq!(old.merged(lifted), lifted.merged(old));
        let again = BanRecord::ban(2000, 80, None);
        assert_eq!(lifted.merged(again).until, 2000);
        // A clock that is behind does not undo it.
        let behind = BanRecord::ban(2000, 10, Some(&lifted));
        assert!(behind.changed > lifted.changed && lifted.merged(behind).holds(1999));
        assert_eq!(BanRecord::ban(9, u64::MAX, None).lifted(0).until, 0);
    }

    proptest! {
        #[test]
        fn nodes_agree_whatever_the_order(records in proptest::collection::vec((0u64..3, 0u64..3, 0u64..3), 1..6), seed in any::<u64>()) {
            let mut records: Vec<BanRecord> =
                records.into_iter().map(|(until, changed, keep)| BanRecord { until, changed, keep }).collect();
            let all = |records: &[BanRecord]| records.iter().copied().reduce(BanRecord::merged);
            let one = all(&records);
            let by = usize::try_from(seed % 6).unwrap() % records.len();
            records.rotate_left(by);
            records.reverse();
            prop_assert_eq!(all(&records), one);
        }
    }
}
