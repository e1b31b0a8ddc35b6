//! Which channels the streams select, and since when their events are recorded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::message::ChannelPatterns;

/// How long after a stream's end its channels are recorded, so that it can return without a gap: a restart of its backend.
pub const KEPT_FOR: Duration = Duration::from_secs(300);

/// The most selections that are kept for streams which may return.
const MAX_KEPT: usize = 32;

/// What one or more streams select.
struct Selection {
    channels: Arc<ChannelPatterns>,
    /// The number of the event from which on all events of these channels are recorded.
    since: Option<u64>,
    /// The number of streams that select it.
    streams: usize,
    /// When the last of them ended.
    ended: Option<Instant>,
}

impl Selection {
    fn expires(&self, now: Instant) -> bool {
        self.ended.is_some_and(|ended| now.saturating_duration_since(ended) >= KEPT_FOR)
    }
}

/// All selections, each once.
#[derive(Default)]
pub(super) struct Selections(Vec<Selection>);

impl Selections {
    /// Counts one more stream that selects these channels.
    pub(super) fn begin(&mut self, channels: ChannelPatterns) -> Arc<ChannelPatterns> {
        if let Some(same) = self.0.iter_mut().find(|one| *one.channels == channels) {
            same.streams += 1;
            same.ended = None;
            return same.channels.clone();
        }
        let kept = self.0.iter().enumerate().filter_map(|(at, one)| Some((one.ended?, at)));
        if kept.clone().count() >= MAX_KEPT
            && let Some((_, oldest)) = kept.min()
        {
            self.0.swap_remove(oldest);
        }
        let channels = Arc::new(channels);
        self.0.push(Selection { channels: channels.clone(), since: None, streams: 1, ended: None });
        channels
    }

    /// Notes that the events of all selections are recorded. Returns whether those of one were not before; they are from
    /// this number on.
    pub(super) fn settle(&mut self, next: u64) -> bool {
        let mut new = false;
        for one in &mut self.0 {
            new |= one.since.is_none();
            one.since.get_or_insert(next);
        }
        new
    }

    /// Counts one stream less.
    pub(super) fn end(&mut self, channels: &Arc<ChannelPatterns>, now: Instant) {
        if let Some(one) = self.find(channels) {
            one.streams -= 1;
            one.ended = (one.streams == 0).then_some(now);
        }
    }

    fn find(&mut self, channels: &Arc<ChannelPatterns>) -> Option<&mut Selection> {
        self.0.iter_mut().find(|one| Arc::ptr_eq(&one.channels, channels))
    }

    /// Returns whether all events of these channels behind this position were recorded.
    pub(super) fn recorded(&self, channels: &ChannelPatterns, position: u64) -> bool {
        let recorded = |one: &Selection| one.since.is_some_and(|since| since <= position);
        self.0.iter().any(|one| recorded(one) && one.channels.cover(channels))
    }

    /// Returns whether one is kept long enough.
    pub(super) fn expires(&self, now: Instant) -> bool {
        self.0.iter().any(|one| one.expires(now))
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|one| !one.expires(now));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns all channels that are selected.
    pub(super) fn all(&self) -> ChannelPatterns {
        self.0.iter().flat_map(|one| one.channels.iter().cloned()).collect()
    }
}
