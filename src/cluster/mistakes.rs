//! Mistakes in the settings of the nodes, as announcements show them. Messages pass all the same, so nothing else would tell
//! the administrator.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// A mistake counts as mended when no announcement has shown it for this long.
const QUIET: Duration = Duration::from_secs(60);

/// What is wrong. Each kind is one state, whatever the number of nodes, because a stranger can invent any number of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The secrets of two nodes differ, or only one has a secret.
    Secret,
    /// Another node has the name of this one.
    OwnName,
    /// Two other nodes have one name.
    OtherName,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Secret, Kind::OwnName, Kind::OtherName];

    fn remedy(self) -> &'static str {
        match self {
            Kind::Secret => "give all nodes the same [cluster] secret_file",
            Kind::OwnName | Kind::OtherName => "give each node its own [cluster] name",
        }
    }
}

/// A mistake that was seen lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong, with the name of the last node that showed it.
    pub found: String,
    /// What to do.
    pub remedy: &'static str,
    /// Whether a node of this cluster has shown it. Otherwise it may be a stranger.
    pub is_proven: bool,
}

/// The mistakes that were seen lately.
#[derive(Default)]
pub(super) struct Mistakes {
    seen: Mutex<[Option<(Mistake, Instant)>; Kind::ALL.len()]>,
}

impl Mistakes {
    /// Notes a mistake that an announcement has shown, and logs it when it is new.
    pub(super) fn note(&self, kind: Kind, found: String, now: Instant) {
        let mut seen = lock(&self.seen);
        let place = &mut seen[kind as usize];
        let remedy = kind.remedy();
        if !place.as_ref().is_some_and(|(_, last)| is_recent(*last, now)) {
            tracing::warn!("cluster: {found}: {remedy}");
        }
        *place = Some((Mistake { found, remedy, is_proven: kind != Kind::Secret }, now));
    }

    /// Returns the mistakes that were seen lately.
    pub(super) fn list(&self, now: Instant) -> Vec<Mistake> {
        let seen = lock(&self.seen);
        let recent = seen.iter().flatten().filter(|(_, last)| is_recent(*last, now));
        recent.map(|(mistake, _)| mistake.clone()).collect()
    }
}

fn is_recent(last: Instant, now: Instant) -> bool {
    now.saturating_duration_since(last) < QUIET
}

#[cfg(test)]
mod tests {
    use tracing::level_filters::LevelFilter;

    use super::*;
    use crate::log::tests::records;

    #[test]
    fn a_mistake_is_logged_once_until_it_was_not_seen_for_a_minute() {
        let (mistakes, began) = (Mistakes::default(), Instant::now());
        let lines = records(LevelFilter::INFO, || {
            for second in 0..100 {
                let found = format!("node n{second} signs otherwise");
                mistakes.note(Kind::Secret, found, began + Duration::from_secs(second));
            }
            let mended = began + Duration::from_secs(99) + QUIET;
            assert_eq!(mistakes.list(began + Duration::from_secs(99))[0].found, "node n99 signs otherwise");
            assert_eq!(mistakes.list(mended), []);
            mistakes.note(Kind::Secret, "again".to_owned(), mended);
        });
        let texts: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
        let remedy = Kind::Secret.remedy();
        let expected =
            ["node n0 signs otherwise", "again"].map(|found| format!("cluster: {found}: {remedy}"));
        assert_eq!(texts, expected);
    }
}
