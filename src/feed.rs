//! Events for backends: which connections open and close, and who comes to the channels that somebody selects.
//!
//! [`Following`] is one backend's stream. All streams read the same [`ring`] of the last events, each from its own position,
//! so a stream that returns continues where it was, and one that is too slow falls out of it. [`rolls`] knows who reads the
//! selected channels, and [`selection`] which channels these are. [`event`] has the lines.
//!
//! Nothing is recorded before the first stream begins. What a stream selected is recorded for [`KEPT_FOR`] after its end, so
//! that it can return.

mod event;
mod ring;
mod rolls;
mod selection;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::Notify;
use uuid::Uuid;

pub use self::event::Format;
use self::event::{Event, Line};
use self::ring::{About, Entry, Ring};
use self::rolls::Rolls;
pub use self::selection::KEPT_FOR;
use self::selection::Selections;
use crate::close::CloseReason;
use crate::message::{ChannelName, ChannelPatterns, MessageId};
use crate::sync::lock;

/// The most streams: some for each of the processes of a backend, at a cost for each event that stays small.
pub const MAX_STREAMS: usize = 32;

/// The bytes after which no further event is added to a chunk of a stream.
const CHUNK_BYTES: usize = 16 * 1024;

/// The departures that are told with the feed locked once.
const DEPARTURES_AT_ONCE: usize = 256;

/// Why a stream cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowError {
    /// There are [`MAX_STREAMS`].
    Full,
    /// The daemon stops.
    Stopping,
}

/// The events, and the streams that follow them.
#[derive(Default)]
pub struct Feed {
    /// Locked last, for a channel that is locked.
    state: Mutex<State>,
    /// Whether events are recorded.
    records: AtomicBool,
    /// The channels whose events are recorded.
    selected: ArcSwapOption<ChannelPatterns>,
    /// Held while the selected channels change, until the rolls have followed.
    selecting: Mutex<()>,
    /// Notified when a stream is gone.
    gone: Notify,
}

#[derive(Default)]
struct State {
    rolls: Rolls,
    selections: Selections,
    log: Log,
}

/// The last events, and the positions of the streams.
#[derive(Default)]
struct Log {
    ring: Option<Ring>,
    streams: Vec<Stream>,
    /// The number of the next stream.
    next: u64,
    /// The name of this node, if it is in a cluster.
    node: Option<Box<str>>,
    stopping: Option<CloseReason>,
}

struct Stream {
    number: u64,
    selected: Arc<ChannelPatterns>,
    /// The number of the next event to look at.
    position: u64,
    /// The selected events that fell out of the ring before it could read them.
    missed: u64,
    /// What it is told first.
    opening: Option<Event<'static>>,
    /// Why it ends, and the number of the event before which it does.
    end: Option<(CloseReason, u64)>,
    notify: Arc<Notify>,
}

impl Stream {
    fn selects(&self, entry: &Entry) -> bool {
        match &entry.about {
            About::Connection => true,
            About::Channel(channel) => self.selected.matches(channel.as_str()),
            About::Recording => false,
        }
    }
}

impl Log {
    fn push(&mut self, event: &Event<'_>) {
        let Some(ring) = &self.ring else { return };
        let id = ring.id(ring.next());
        let json = Line { event, id: Some(id), at: SystemTime::now(), node: self.node.as_deref() }.json();
        let about = event.channel().map_or(About::Connection, |channel| About::Channel(channel.clone()));
        self.add(Entry { about, json });
    }

    fn add(&mut self, entry: Entry) {
        let Log { ring: Some(ring), streams, .. } = self else { return };
        for stream in streams.iter().filter(|stream| stream.selects(&entry)) {
            stream.notify.notify_one();
        }
        ring.push(entry, |number, dropped| {
            for stream in streams.iter_mut().filter(|stream| stream.position <= number) {
                stream.missed += u64::from(stream.selects(dropped));
            }
        });
    }

    /// Returns the next part of a stream.
    fn take(&mut self, number: u64, format: Format) -> Taken {
        let Log { ring: Some(ring), streams, node, .. } = self else { return Taken::Nothing };
        let Some(stream) = streams.iter_mut().find(|stream| stream.number == number) else {
            return Taken::Nothing;
        };
        let line = |event: &Event<'_>, id: Option<MessageId>| {
            Line { event, id, at: SystemTime::now(), node: node.as_deref() }.json()
        };
        let until = stream.end.map_or(ring.next(), |(_, until)| until);
        let mut bytes = Vec::new();
        if let Some(opening) = stream.opening.take() {
            let id = ring.id(stream.position - 1);
            format.write(Some(id), &line(&opening, Some(id)), &mut bytes);
        }
        if stream.missed == 0 {
            // Events that it has not selected may have fallen out.
            stream.position = stream.position.max(ring.first());
            while stream.position < until && bytes.len() < CHUNK_BYTES {
                let Some(entry) = ring.get(stream.position) else { break };
                if stream.selects(entry) {
                    format.write(Some(ring.id(stream.position)), &entry.json, &mut bytes);
                }
                stream.position += 1;
            }
            if !bytes.is_empty() {
                return Taken::Some(bytes.into());
            }
        }
        let (reason, missed) = match stream.end {
            _ if stream.missed > 0 => {
                let unread = (ring.first()..ring.next()).filter_map(|number| ring.get(number));
                let unread = unread.filter(|entry| stream.selects(entry)).count() as u64;
                (CloseReason::SlowConsumer, Some(stream.missed + unread))
            }
            Some((reason, _)) => (reason, None),
            None => return Taken::Nothing,
        };
        let ended = Event::Ended { reason: reason.name(), message: reason.sentence(), missed };
        format.write(None, &line(&ended, None), &mut bytes);
        Taken::Last(bytes.into())
    }
}

/// The next part of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Lines.
    Some(Bytes),
    /// The last line.
    Last(Bytes),
    /// There is nothing new.
    Nothing,
}

impl Feed {
    /// Sets the name of this node, which each line has.
    pub fn set_node(&self, name: &str) {
        lock(&self.state).log.node = Some(name.into());
    }

    /// Returns whether the events of a channel are recorded.
    pub fn selects(&self, channel: &ChannelName) -> bool {
        self.records()
            && !channel.is_internal()
            && self.selected.load().as_ref().is_some_and(|selected| selected.matches(channel.as_str()))
    }

    /// Returns whether events are recorded.
    pub fn records(&self) -> bool {
        self.records.load(SeqCst)
    }

    /// Records that a connection was opened.
    pub fn opened(&self, connection: Uuid, subject: Option<&str>) {
        if self.records() {
            lock(&self.state).log.push(&Event::Opened { connection, subject });
        }
    }

    /// Records that a connection was closed.
    pub fn closed(&self, connection: Uuid, subject: Option<&str>, reason: &'static str, code: u16) {
        if self.records() {
            lock(&self.state).log.push(&Event::Closed { connection, subject, reason, code });
        }
    }

    /// Records that a connection has joined a selected channel, which is locked.
    #[cold]
    pub fn joined(&self, channel: &ChannelName, connection: Uuid, subject: Option<&str>) {
        let State { rolls, log, .. } = &mut *lock(&self.state);
        rolls.join(channel, connection, subject, &mut |event| log.push(event));
    }

    /// Records that a connection has left a selected channel, which is locked.
    #[cold]
    pub fn left(&self, channel: &ChannelName, connection: Uuid) {
        lock(&self.state).rolls.part(channel, connection, Instant::now());
    }

    /// Counts a reader of a selected channel, which is locked, as another subject.
    #[cold]
    pub fn renamed(&self, channel: &ChannelName, connection: Uuid, subject: Option<&str>) {
        let State { rolls, log, .. } = &mut *lock(&self.state);
        rolls.rename(channel, connection, subject, Instant::now(), &mut |event| log.push(event));
    }

    /// Counts a reader that was in a channel, which is locked, before it was selected.
    pub fn count(&self, channel: &ChannelName, connection: Uuid, subject: Option<&str>) {
        lock(&self.state).rolls.join(channel, connection, subject, &mut |_| {});
    }

    /// Forgets who reads a channel, which is locked and no longer selected.
    pub fn forget(&self, channel: &ChannelName) {
        lock(&self.state).rolls.forget(channel);
    }

    /// Records who has left, because its last connection left `grace` ago. Returns whether there may be more.
    pub fn settle(&self, now: Instant, grace: Duration) -> bool {
        if !self.records() {
            return false;
        }
        let State { rolls, log, .. } = &mut *lock(&self.state);
        rolls.settle(now, grace, DEPARTURES_AT_ONCE, &mut |event| log.push(event))
    }

    /// Begins a stream, after the event `last` if all that it selects was recorded since. Calls `select` to have the rolls
    /// follow the selected channels.
    ///
    /// # Errors
    /// There are [`MAX_STREAMS`], or the daemon stops.
    pub fn follow(
        self: &Arc<Self>,
        selected: ChannelPatterns,
        last: Option<MessageId>,
        select: impl FnOnce(),
    ) -> Result<Arc<Following>, FollowError> {
        let _selecting = lock(&self.selecting);
        let following = {
            let State { selections, log, .. } = &mut *lock(&self.state);
            if log.stopping.is_some() {
                return Err(FollowError::Stopping);
            }
            if log.streams.len() >= MAX_STREAMS {
                return Err(FollowError::Full);
            }
            let position = log.ring.get_or_insert_with(Ring::new).next();
            let selected = selections.begin(selected);
            let (number, notify) = (log.next, Arc::new(Notify::new()));
            log.next += 1;
            log.streams.push(Stream {
                number,
                selected,
                position,
                missed: 0,
                opening: None,
                end: None,
                notify: notify.clone(),
            });
            Arc::new(Following { feed: self.clone(), number, notify })
        };
        self.select(select);
        let State { rolls, selections, log } = &mut *lock(&self.state);
        if let Some(number) = log.ring.as_ref().map(Ring::next)
            && selections.settle(number)
        {
            log.add(Entry { about: About::Recording, json: Box::default() });
        }
        let stream = log.streams.iter_mut().find(|stream| stream.number == following.number);
        if let (Some(ring), Some(stream)) = (&log.ring, stream) {
            let resumes =
                |last: &MessageId| ring.reaches(*last) && selections.recorded(&stream.selected, last.number);
            (stream.position, stream.opening) = match last {
                None => (ring.next(), Some(Event::Alive)),
                Some(last) if resumes(&last) => (last.number + 1, None),
                Some(_) => (ring.next(), Some(Event::LOST)),
            };
            if stream.opening.is_some() {
                rolls.tell_returns();
            }
        }
        Ok(following)
    }

    /// Forgets what was selected by streams that ended [`KEPT_FOR`] ago. Calls `select` as [`Feed::follow`] does.
    pub fn expire(&self, now: Instant, select: impl FnOnce()) {
        let _selecting = lock(&self.selecting);
        {
            let State { selections, log, .. } = &mut *lock(&self.state);
            selections.expire(now);
            if selections.is_empty() {
                log.ring = None;
            }
        }
        self.select(select);
    }

    /// Returns whether [`Feed::expire`] has something to forget.
    pub fn expires(&self, now: Instant) -> bool {
        self.records() && lock(&self.state).selections.expires(now)
    }

    /// Publishes what is selected now, and has the rolls follow if it has changed.
    fn select(&self, select: impl FnOnce()) {
        let (selected, records) = {
            let state = lock(&self.state);
            (state.selections.all(), state.log.ring.is_some())
        };
        self.records.store(records, SeqCst);
        if self.selected.load().as_deref().unwrap_or(&ChannelPatterns::default()) == &selected {
            return;
        }
        self.selected.store(Some(Arc::new(selected.clone())));
        select();
        // Of channels without readers, in which somebody was until recently.
        lock(&self.state).rolls.retain(|channel| selected.matches(channel.as_str()));
    }

    /// Ends all streams, because the daemon stops, and waits until they have ended.
    pub async fn end(&self, reason: CloseReason) {
        {
            let log = &mut lock(&self.state).log;
            log.stopping = Some(reason);
            let until = log.ring.as_ref().map_or(0, Ring::next);
            for stream in &mut log.streams {
                stream.end.get_or_insert((reason, until));
                stream.notify.notify_one();
            }
        }
        loop {
            let gone = self.gone.notified();
            if lock(&self.state).log.streams.is_empty() {
                return;
            }
            gone.await;
        }
    }

    /// Returns how often a roll was changed.
    #[cfg(test)]
    pub(crate) fn roll_changes(&self) -> u64 {
        lock(&self.state).rolls.changes()
    }
}

/// A stream of events. It ends when this is dropped.
pub struct Following {
    feed: Arc<Feed>,
    number: u64,
    notify: Arc<Notify>,
}

impl Following {
    /// Returns what it has not been told.
    pub fn take(&self, format: Format) -> Taken {
        lock(&self.feed.state).log.take(self.number, format)
    }

    /// Waits until there may be more to take.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }

    /// Returns the same, behind a line that keeps an idle stream open and has its position in the events.
    pub fn alive(&self, format: Format) -> Taken {
        self.with_stream(|stream, _| stream.opening = Some(Event::Alive));
        self.take(format)
    }

    /// Ends it behind the events so far.
    pub fn end(&self, reason: CloseReason) {
        self.with_stream(|stream, next| {
            stream.end.get_or_insert((reason, next));
        });
    }

    fn with_stream(&self, change: impl FnOnce(&mut Stream, u64)) {
        let Log { ring, streams, .. } = &mut lock(&self.feed.state).log;
        let stream = streams.iter_mut().find(|stream| stream.number == self.number);
        if let (Some(ring), Some(stream)) = (ring, stream) {
            change(stream, ring.next());
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let State { selections, log, .. } = &mut *lock(&self.feed.state);
        if let Some(at) = log.streams.iter().position(|stream| stream.number == self.number) {
            selections.end(&log.streams.swap_remove(at).selected, Instant::now());
        }
        self.feed.gone.notify_one();
    }
}

#[cfg(test)]
mod tests;
