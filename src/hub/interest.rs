//! Which channels have readers here, for a cluster that sends each channel's messages only to nodes with readers.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::{Channel, Hub};
use crate::message::ChannelName;
use crate::sync::lock;

/// The channels that got their first reader or lost their last one since somebody looked: at most one entry for each
/// channel that was ever read in between.
#[derive(Debug, Default)]
pub struct Interest {
    changed: Mutex<HashSet<ChannelName>>,
    /// Channels that connections are about to join, with their number.
    expected: Mutex<HashMap<ChannelName, usize>>,
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

    /// Has messages of other nodes sent here for these channels as if they had readers, as long as the result exists.
    pub fn expect(self: &Arc<Interest>, names: Vec<ChannelName>) -> Expected {
        let mut expected = lock(&self.expected);
        names.iter().for_each(|name| *expected.entry(name.clone()).or_default() += 1);
        drop(expected);
        self.change(&names);
        Expected { interest: self.clone(), names }
    }

    /// Returns whether a connection is about to join a channel.
    pub fn expects(&self, name: &str) -> bool {
        lock(&self.expected).contains_key(name)
    }

    /// Returns the channels that connections are about to join.
    pub fn expected(&self) -> Vec<ChannelName> {
        lock(&self.expected).keys().cloned().collect()
    }

    fn change(&self, names: &[ChannelName]) {
        let mut changed = lock(&self.changed);
        changed.extend(names.iter().cloned());
        self.changes.fetch_add(names.len() as u64, Relaxed);
        drop(changed);
        self.notify.notify_one();
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

/// Channels that a connection is about to join.
#[derive(Debug)]
pub struct Expected {
    interest: Arc<Interest>,
    names: Vec<ChannelName>,
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut expected = lock(&self.interest.expected);
        for name in &self.names {
            if let Some(count) = expected.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    expected.remove(name);
                }
            }
        }
        drop(expected);
        self.interest.change(&self.names);
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
            interest.change(std::slice::from_ref(&channel.name));
        }
    }
}
