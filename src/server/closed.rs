//! Connections that have ended and requests that were refused, kept in memory for who asks why.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use crate::log::ClosedRecord;
use crate::sync::lock;

/// The longest sentence that is kept, in bytes: a refused origin may be as long as a request's head.
const MAX_SENTENCE_BYTES: usize = 256;

/// A sentence cut to what is kept.
pub(crate) fn sentence(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.len() <= MAX_SENTENCE_BYTES {
        return text;
    }
    let end = text.floor_char_boundary(MAX_SENTENCE_BYTES);
    Cow::Owned(format!("{}…", &text[..end]))
}

/// What is kept and counted of one reason.
#[derive(Debug, Default)]
struct OfReason {
    records: VecDeque<Arc<ClosedRecord>>,
    total: u64,
    closed: u64,
}

/// How many there were of one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasonCount {
    /// Its name.
    pub reason: &'static str,
    /// Since the start.
    pub total: u64,
    /// Of these, connections that were open; the others are requests that were refused.
    pub closed: u64,
    /// Of the total, the ones whose records are kept.
    pub kept: u64,
}

/// The last that ended, `[admin] closed_ring` of them.
///
/// When it is full, room is made among the records of the commonest reason: so a flood of one kind drives out its own
/// and not the rare ones, and the first and the last of each reason stay.
#[derive(Debug, Default)]
pub struct ClosedRing {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    reasons: BTreeMap<&'static str, OfReason>,
    records: usize,
}

impl ClosedRing {
    /// Adds a record and keeps `capacity` of all.
    pub(crate) fn add(&self, ended: Arc<ClosedRecord>, capacity: usize) {
        let mut kept = lock(&self.kept);
        let of_reason = kept.reasons.entry(ended.reason).or_default();
        of_reason.total += 1;
        of_reason.closed += u64::from(ended.connection.is_some());
        of_reason.records.push_back(ended);
        kept.records += 1;
        kept.shrink_to(capacity);
    }

    /// Shows every record to `visit`, those of one reason after the other, oldest first.
    ///
    /// The lock is given back between two reasons: who ends meanwhile waits for one of them at most.
    pub fn each(&self, mut visit: impl FnMut(&Arc<ClosedRecord>)) {
        for ReasonCount { reason, .. } in self.reasons() {
            if let Some(of_reason) = lock(&self.kept).reasons.get(reason) {
                of_reason.records.iter().for_each(&mut visit);
            }
        }
    }

    /// How many there were of each reason, by name.
    pub fn reasons(&self) -> Vec<ReasonCount> {
        let count = |(reason, of_reason): (&&'static str, &OfReason)| ReasonCount {
            reason,
            total: of_reason.total,
            closed: of_reason.closed,
            kept: of_reason.records.len() as u64,
        };
        lock(&self.kept).reasons.iter().map(count).collect()
    }
}

impl Kept {
    fn shrink_to(&mut self, capacity: usize) {
        while self.records > capacity {
            let Some(commonest) = self.reasons.values_mut().max_by_key(|one| one.records.len()) else {
                return;
            };
            // The second: the first of a mass stays as long as there is room for more than the last.
            match commonest.records.len() {
                0..=2 => commonest.records.pop_front(),
                _ => commonest.records.remove(1),
            };
            self.records -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn ended(reason: &'static str, code: u16) -> Arc<ClosedRecord> {
        Arc::new(ClosedRecord {
            at: SystemTime::UNIX_EPOCH,
            connection: None,
            address: ([127, 0, 0, 1], 1).into(),
            subject: None,
            verified: false,
            reason,
            code,
            sentence: Cow::Borrowed(""),
            duration: Duration::ZERO,
            messages_in: 0,
            messages_out: 0,
            bytes_in: 0,
            bytes_out: 0,
            greatest_queue: 0,
        })
    }

    fn kept(ring: &ClosedRing) -> Vec<(&'static str, u16)> {
        let mut all = Vec::new();
        ring.each(|ended| all.push((ended.reason, ended.code)));
        all
    }

    #[test]
    fn a_mass_keeps_its_first_and_last_and_drives_out_nothing_rare() {
        let ring = ClosedRing::default();
        ring.add(ended("slow_consumer", 1), 5);
        ring.add(ended("origin", 2), 5);
        for code in 100..1100 {
            ring.add(ended("bad_signature", code), 5);
        }
        let all = [
            ("bad_signature", 100),
            ("bad_signature", 1098),
            ("bad_signature", 1099),
            ("origin", 2),
            ("slow_consumer", 1),
        ];
        assert_eq!(kept(&ring), all);
        assert_eq!(
            ring.reasons()[0],
            ReasonCount { reason: "bad_signature", total: 1000, closed: 0, kept: 3 }
        );
    }

    #[test]
    fn it_never_holds_more_than_it_may() {
        let ring = ClosedRing::default();
        for (code, reason) in ["a", "b", "c", "a", "b"].into_iter().enumerate() {
            ring.add(ended(reason, code as u16), 2);
            assert!(kept(&ring).len() <= 2);
        }
        ring.add(ended("a", 9), 0);
        assert!(kept(&ring).is_empty());
        assert_eq!(ring.reasons().iter().map(|one| one.total).sum::<u64>(), 6);
    }

    #[test]
    fn a_long_sentence_is_cut_between_characters() {
        assert_eq!(sentence("ü".repeat(300).into()).len(), MAX_SENTENCE_BYTES + '…'.len_utf8());
        assert_eq!(sentence("short".into()), "short");
    }
}
