//! The reasons that one outage of the link to NATS has had, so that each kind of reason is logged once.
//!
//! The link is tried some three times a second, for as long as a wrong password or a missing right in NATS lasts.

/// The most kinds of reasons that are logged in one outage. More are still shown in the status.
const MAX_KINDS: usize = 8;

/// What was logged in this outage.
#[derive(Default)]
pub(super) struct Outage {
    kinds: Vec<String>,
}

impl Outage {
    /// The link was up until now.
    pub(super) fn begin(&mut self) {
        self.kinds.clear();
    }

    /// Returns whether to log this reason: it is the first one of its kind in this outage.
    pub(super) fn is_new(&mut self, reason: &str) -> bool {
        let kind = kind(reason);
        let new = self.kinds.len() < MAX_KINDS && !self.kinds.contains(&kind);
        if new {
            self.kinds.push(kind);
        }
        new
    }
}

/// Returns the reason without what differs each time: inboxes are random, and numbers are ports and times.
fn kind(reason: &str) -> String {
    let words = reason.split_whitespace();
    let words =
        words.filter(|word| !word.contains(".inbox.") && !word.contains(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_new_once_in_an_outage_whatever_its_inbox() {
        let mut outage = Outage::default();
        let denied = |inbox: &str| {
            format!("NATS reports: Permissions Violation for Subscription to \"philote.1.inbox.{inbox}.*\"")
        };
        assert!(outage.is_new(&denied("TTcNIUAN")));
        assert!(!outage.is_new(&denied("aB3dE6gH9")));
        assert!(outage.is_new("the connection to NATS has ended"));
        assert!(!outage.is_new(&denied("x1")), "they alternate");
        outage.begin();
        assert!(outage.is_new(&denied("x2")));
    }

    #[test]
    fn the_reasons_of_an_outage_are_bounded() {
        let mut outage = Outage::default();
        let names = (b'a'..=b'z').map(char::from);
        assert_eq!(names.filter(|name| outage.is_new(&format!("no server {name}"))).count(), MAX_KINDS);
    }
}
