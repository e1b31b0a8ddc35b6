//! One channel's history, as an image has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Entry, History, Keeping, Retention};
use crate::hub::image::{ImagedChannel, ImagedEntry};
use crate::message::ChannelName;

impl History {
    /// Returns what the next process needs of it, at this time. Returns `None` for a history with holes between its numbers,
    /// as the log of a cluster makes them.
    pub(in crate::hub) fn imaged(&self, name: &ChannelName, now: Instant) -> Option<ImagedChannel> {
        let age = |at: Instant| now.saturating_duration_since(at);
        let entry = |entry: &Entry| ImagedEntry { age: age(entry.at), frame: entry.frame.clone() };
        let has_holes = self.last != self.dropped + self.messages as u64;
        (!has_holes).then(|| ImagedChannel {
            name: name.clone(),
            epoch: self.epoch,
            dropped: self.dropped,
            left: age(self.left),
            entries: self.entries.iter().map(entry).collect(),
        })
    }

    /// Goes on with the history of an image that was made `since` before `now`. Its messages are as old as if they had been
    /// here all the time.
    pub(in crate::hub) fn from_image(
        keeping: &Arc<Keeping>,
        retention: Retention,
        image: ImagedChannel,
        since: Duration,
        now: Instant,
    ) -> History {
        let mut history = History::new(keeping, retention, &image.name, now);
        (history.epoch, history.dropped, history.last) = (image.epoch, image.dropped, image.dropped);
        // The time before the clock began is not needed: what is as old as this has expired.
        let ago = |age: Duration| now.checked_sub((age + since).min(retention.ttl())).unwrap_or(now);
        history.left = ago(image.left);
        history.entries.reserve_exact(image.entries.len());
        for ImagedEntry { age, frame } in image.entries {
            let ends = frame.ends();
            let entry = Entry { first: history.last + 1, ends, at: ago(age), frame };
            history.last = entry.last();
            history.messages += entry.ends.len();
            history.held += entry.cost();
            history.entries.push_back(entry);
        }
        history.inherited = history.last;
        history.recount();
        history.trim(now);
        history
    }

    /// Returns the number of its messages.
    pub(in crate::hub) fn messages(&self) -> usize {
        self.messages
    }
}
