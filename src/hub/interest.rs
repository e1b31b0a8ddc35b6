//! Which channels have readers here, for a cluster that sends each channel's messages only to nodes with readers.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

use super::{Channel, Hub};
use crate::message::ChannelName;
use crate::sync::lock;

/// The channels that got their first reader or lost their last one since somebody looked: at most one entry for each
/// channel that was ever read in between.
#[derive(Debug, Default)]
pub struct Interest {
    changed: Mutex<HashSet<ChannelName>>,
    /// The number of changes so far.
    changes: AtomicU64,
    notify: Notify,
}

impl Interest {
    /// Takes the changed channels, and the number of changes up to which they are.
    pub fn take(&self) -> (HashSet<ChannelName>, u64) {
        let mut changed = lock(&self.changed);
        (std::mem::take(&mut changed), self.changes.load(Relaxed))
    }

    /// Waits until a channel has changed.
    pub async fn changed(&self) {
        loop {
            let notified = self.notify.notified();
            if !lock(&self.changed).is_empty() {
                return;
            }
            notified.await;
        }
    }

    /// Returns the number of changes so far.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }
}

impl Hub {
    /// Notes in `interest`, from now on, which channels get their first reader or lose their last one.
    pub fn watch_interest(&self, interest: std::sync::Arc<Interest>) {
        let _ = self.interest.set(interest);
    }

    /// Notes that a channel got its first reader or lost its last one. The channel is locked.
    pub(super) fn interest_changed(&self, channel: &Channel) {
        if let Some(interest) = self.interest.get()
            && !channel.name.is_internal()
        {
            let mut changed = lock(&interest.changed);
            changed.insert(channel.name.clone());
            interest.changes.fetch_add(1, Relaxed);
            drop(changed);
            interest.notify.notify_one();
        }
    }
}
