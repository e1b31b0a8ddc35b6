//! What a history tells administrators who ask what a client has got.

use std::sync::atomic::Ordering::Relaxed;

use super::History;

impl History {
    /// Returns the number up to which messages may have been published before this process, or in a cluster before one of its
    /// nodes left or started again.
    pub(in crate::hub) fn inherited(&self) -> u64 {
        let log = &self.keeping.log;
        if log.epoch.load(Relaxed) == self.epoch { log.unremembered.load(Relaxed) } else { self.inherited }
    }

    /// Returns the number of the channel's last message up to this number, as far as it is known. Without a log every number is
    /// that of a message.
    pub(in crate::hub) fn floor(&self, number: u64) -> u64 {
        if !(self.kept_after()..=self.complete_to()).contains(&number) {
            return number;
        }
        let entries = self.entries.partition_point(|entry| entry.first <= number);
        let last = entries.checked_sub(1).map(|at| self.entries[at].last());
        last.map_or(self.kept_after(), |last| last.min(number))
    }
}
