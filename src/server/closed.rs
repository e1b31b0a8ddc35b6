//! Remembers closed connections and rejected requests, for administrators who look for the reason.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use crate::log::ClosedRecord;
use crate::sync::lock;

/// The longest remembered sentence, in bytes. A rejected origin may be as long as the head of a request.
const MAX_SENTENCE_BYTES: usize = 256;

/// Cuts a sentence to the length that is remembered.
pub(crate) fn sentence(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.len() <= MAX_SENTENCE_BYTES {
        return text;
    }
    let end = text.floor_char_boundary(MAX_SENTENCE_BYTES);
    Cow::Owned(format!("{}…", &text[..end]))
}

/// The records and counts of one reason.
#[derive(Debug, Default)]
struct Reason {
    records: VecDeque<Arc<ClosedRecord>>,
    total: u64,
    closed: u64,
}

/// How often one reason occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasonCount {
    /// The name of the reason.
    pub reason: &'static str,
    /// How often it occurred since the start.
    pub total: u64,
    /// How many of these were open connections. The others were rejected requests.
    pub closed: u64,
    /// How many of these are remembered.
    pub kept: u64,
}

/// The last records, at most `[admin] closed_ring`.
///
/// When it is full, it drops a record of the most frequent reason. A flood with one reason therefore displaces its own
/// records and not rare ones, and the first and the last record of each reason stay.
#[derive(Debug, Default)]
pub struct ClosedRing {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    reasons: BTreeMap<&'static str, Reason>,
    records: usize,
}

impl ClosedRing {
    /// Adds a record, and drops records until at most `capacity` are left.
    pub(crate) fn add(&self, ended: Arc<ClosedRecord>, capacity: usize) {
        let mut kept = lock(&self.kept);
        let of_reason = kept.reasons.entry(ended.reason).or_default();
        of_reason.total += 1;
        of_reason.closed += u64::from(ended.connection.is_some());
        of_reason.records.push_back(ended);
        kept.records += 1;
        kept.shrink_to(capacity);
    }

    /// Calls `visit` for every record, one reason after the other, oldest first.
    ///
    /// The lock is released after each reason, so that a connection that ends meanwhile waits for one reason at most.
    pub fn each(&self, mut visit: impl FnMut(&Arc<ClosedRecord>)) {
        for ReasonCount { reason, .. } in self.reasons() {
            if let Some(of_reason) = lock(&self.kept).reasons.get(reason) {
                of_reason.records.iter().for_each(&mut visit);
            }
        }
    }

    /// Returns the counts of each reason, by name.
    pub fn reasons(&self) -> Vec<ReasonCount> {
        let count = |(reason, of_reason): (&&'static str, &Reason)| ReasonCount {
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
            let Some(most_frequent) = self.reasons.values_mut().max_by_key(|one| one.records.len()) else {
                return;
            };
            // The second one, so that the first one stays while there is room for more than the last.
            match most_frequent.records.len() {
                0..=2 => most_frequent.records.pop_front(),
                _ => most_frequent.records.remove(1),
            };
            self.records -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::rejection;

    fn ended(reason: &'static str, code: u16) -> Arc<ClosedRecord> {
        Arc::new(ClosedRecord { code, ..rejection(reason, "127.0.0.1:1") })
    }

    fn kept(ring: &ClosedRing) -> Vec<(&'static str, u16)> {
        let mut all = Vec::new();
        ring.each(|ended| all.push((ended.reason, ended.code)));
        all
    }

    #[test]
    fn a_flood_keeps_its_first_and_last_and_displaces_nothing_rare() {
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
    fn it_never_exceeds_its_capacity() {
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
