//! Subjects that an administrator keeps out until a given time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::access_key::UnixSeconds;
use crate::sync::lock;

/// The most subjects that are kept out at once.
pub const MAX_REFUSED: usize = 10_000;

/// Who is kept out, and until when.
#[derive(Debug, Default)]
pub struct RefusedSubjects {
    until: Mutex<BTreeMap<Box<str>, UnixSeconds>>,
    /// How many there are: while there is none, a handshake asks nothing else.
    count: AtomicUsize,
}

impl RefusedSubjects {
    /// Replaces all of them.
    pub fn set(&self, subjects: impl IntoIterator<Item = (Box<str>, UnixSeconds)>) {
        let mut until = lock(&self.until);
        *until = subjects.into_iter().collect();
        self.count.store(until.len(), Relaxed);
    }

    /// All that are still kept out at `now`, by name.
    pub fn list(&self, now: UnixSeconds) -> Vec<(Box<str>, UnixSeconds)> {
        let until = lock(&self.until);
        until
            .iter()
            .filter(|(_, until)| **until > now)
            .map(|(subject, until)| (subject.clone(), *until))
            .collect()
    }

    /// Until when a subject is kept out, if it is.
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

    #[test]
    fn who_is_kept_out_comes_back_in_time() {
        let refused = RefusedSubjects::default();
        assert_eq!(refused.until(Some("alice"), 0), None);
        refused.set([("alice".into(), 100), ("bob".into(), 200)]);
        assert_eq!(refused.until(Some("alice"), 99), Some(100));
        assert_eq!(refused.until(Some("alice"), 100), None);
        assert_eq!((refused.until(Some("carol"), 0), refused.until(None, 0)), (None, None));
        assert_eq!(refused.list(100), [("bob".into(), 200)]);
        refused.set([]);
        assert_eq!(refused.until(Some("bob"), 0), None);
    }
}
