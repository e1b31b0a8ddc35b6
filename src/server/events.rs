//! Events for those who follow them. Each follower has a bounded queue; one that is too slow is told how many it
//! missed.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use futures_util::Stream;
use uuid::Uuid;

use crate::log::ClosedRecord;
use crate::message::Delivery;
use crate::sync::lock;

/// The most followers: far fewer than the admin socket has places, so that other clients still get in.
pub const MAX_FOLLOWERS: usize = 16;

/// Events that wait for one follower: some seconds of what a person can read.
const QUEUE_EVENTS: usize = 4096;

/// Bytes of messages that wait for one follower.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// An event. Clones share what is large.
#[derive(Clone, Debug)]
pub enum Event {
    /// A connection was admitted.
    Connected(Arc<Connected>),
    /// A connection was closed, or a request rejected.
    Closed(Arc<ClosedRecord>),
    /// The settings were read again.
    Reloaded(Arc<Reloaded>),
    /// The secrets changed: when, and how many are in use now.
    SecretChanged(SystemTime, usize),
    /// A message was published.
    Message(Arc<Published>),
    /// The number of events that this follower missed at this point.
    Missed(u64),
}

/// A connection that was admitted.
#[derive(Debug)]
pub struct Connected {
    /// When.
    pub at: SystemTime,
    /// Its id.
    pub connection: Uuid,
    /// The `sub` of its token.
    pub subject: Option<Box<str>>,
    /// Its address.
    pub address: SocketAddr,
}

/// The settings were read again.
#[derive(Debug)]
pub struct Reloaded {
    /// When.
    pub at: SystemTime,
    /// Keys that changed and are in use.
    pub applied: Vec<String>,
    /// Keys that changed and wait for a restart.
    pub needs_restart: Vec<String>,
    /// Why nothing was applied, if so.
    pub error: Option<String>,
}

/// A message that was published.
#[derive(Debug)]
pub struct Published {
    /// When.
    pub at: SystemTime,
    /// The publisher's connection id, or that of the daemon.
    pub issuer: Box<str>,
    /// The publisher's `sub`, if readers see it.
    pub subject: Option<Box<str>>,
    /// Its channel.
    pub channel: Box<str>,
    /// The JSON text of its `data`, if it has any.
    pub data: Option<Box<str>>,
    /// Readers that it was queued for.
    pub readers: usize,
}

impl Event {
    /// Returns the bytes of what may be large in it.
    fn weight(&self) -> usize {
        match self {
            Event::Message(message) => {
                message.data.as_ref().map_or(0, |data| data.len()) + message.channel.len()
            }
            _ => 0,
        }
    }
}

/// The messages that a follower wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Messages {
    /// No messages.
    None,
    /// The messages of one channel.
    Of(String),
    /// All messages.
    All,
}

impl Messages {
    fn include(&self, channel: &str) -> bool {
        match self {
            Messages::None => false,
            Messages::Of(wanted) => wanted == channel,
            Messages::All => true,
        }
    }
}

/// The followers of events. Without any, an event costs one relaxed load.
#[derive(Debug, Default)]
pub struct Events {
    followers: Mutex<Vec<Arc<Follower>>>,
    following: AtomicUsize,
    following_messages: AtomicUsize,
}

#[derive(Debug)]
struct Follower {
    messages: Messages,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    bytes: usize,
    /// Events left out since the last one that was queued.
    missed: u64,
    ended: bool,
    reader: Option<Waker>,
}

impl Events {
    /// Follows events from now on; `None` if there are [`MAX_FOLLOWERS`] already.
    pub fn follow(self: &Arc<Self>, messages: Messages) -> Option<Following> {
        let mut followers = lock(&self.followers);
        if followers.len() >= MAX_FOLLOWERS {
            return None;
        }
        let follower = Arc::new(Follower { messages, queue: Mutex::default() });
        followers.push(follower.clone());
        self.count(&followers);
        Some(Following { events: self.clone(), follower })
    }

    /// Sends an event other than a message to all followers.
    pub fn tell(&self, event: impl FnOnce() -> Event) {
        if self.following.load(Relaxed) == 0 {
            return;
        }
        let event = event();
        lock(&self.followers).iter().for_each(|follower| follower.push(event.clone()));
    }

    /// Returns whether anyone follows messages.
    pub(super) fn follow_messages(&self) -> bool {
        self.following_messages.load(Relaxed) > 0
    }

    /// Sends a published message to those who follow it.
    pub(super) fn tell_message(&self, delivery: &Delivery<'_>, readers: usize) {
        if self.follow_messages() {
            self.tell_message_to_followers(delivery, readers);
        }
    }

    #[cold]
    fn tell_message_to_followers(&self, delivery: &Delivery<'_>, readers: usize) {
        let followers = lock(&self.followers);
        let mut wanting =
            followers.iter().filter(|follower| follower.messages.include(delivery.channel)).peekable();
        if wanting.peek().is_none() {
            return;
        }
        let message = Arc::new(Published {
            at: SystemTime::now(),
            issuer: delivery.issuer.into(),
            subject: delivery.subject.map(Box::from),
            channel: delivery.channel.into(),
            data: delivery.data.map(Box::from),
            readers,
        });
        wanting.for_each(|follower| follower.push(Event::Message(message.clone())));
    }

    /// Ends all following, because the daemon stops.
    pub fn end(&self) {
        for follower in &*lock(&self.followers) {
            let mut queue = lock(&follower.queue);
            queue.ended = true;
            queue.wake();
        }
    }

    fn count(&self, followers: &[Arc<Follower>]) {
        let of_messages = followers.iter().filter(|follower| follower.messages != Messages::None).count();
        self.following.store(followers.len(), Relaxed);
        self.following_messages.store(of_messages, Relaxed);
    }
}

impl Follower {
    fn push(&self, event: Event) {
        let mut queue = lock(&self.queue);
        let weight = event.weight();
        if queue.events.len() >= QUEUE_EVENTS || queue.bytes + weight > QUEUE_BYTES {
            queue.missed += 1;
            return;
        }
        // The count of missed events is sent at the position where they are missing.
        if let missed @ 1.. = std::mem::take(&mut queue.missed) {
            queue.events.push_back(Event::Missed(missed));
        }
        queue.bytes += weight;
        queue.events.push_back(event);
        queue.wake();
    }
}

impl Queue {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// One follower's events. It stops following when dropped.
#[derive(Debug)]
pub struct Following {
    events: Arc<Events>,
    follower: Arc<Follower>,
}

impl Stream for Following {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut queue = lock(&self.follower.queue);
        if let Some(event) = queue.events.pop_front() {
            queue.bytes -= event.weight();
            return Poll::Ready(Some(event));
        }
        if let missed @ 1.. = std::mem::take(&mut queue.missed) {
            return Poll::Ready(Some(Event::Missed(missed)));
        }
        if queue.ended {
            return Poll::Ready(None);
        }
        queue.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut followers = lock(&self.events.followers);
        followers.retain(|follower| !Arc::ptr_eq(follower, &self.follower));
        self.events.count(&followers);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn delivery<'a>(channel: &'a str, data: &'a str) -> Delivery<'a> {
        Delivery { issuer: "i", channel, data: Some(data), subject: None }
    }

    /// What waits, as far as a follower has been told.
    fn told(following: &mut Following) -> Vec<Event> {
        let mut context = Context::from_waker(Waker::noop());
        std::iter::from_fn(|| match Pin::new(&mut *following).poll_next(&mut context) {
            Poll::Ready(event) => event,
            Poll::Pending => None,
        })
        .collect()
    }

    #[test]
    fn a_slow_follower_is_told_how_many_events_it_missed_and_where() {
        let events = Arc::new(Events::default());
        let (mut slow, mut quick) =
            (events.follow(Messages::None).unwrap(), events.follow(Messages::Of("chat".into())).unwrap());
        for number in 0..QUEUE_EVENTS + 7 {
            events.tell(|| Event::SecretChanged(SystemTime::UNIX_EPOCH, number));
            assert_eq!(told(&mut quick).len(), 1);
        }
        let all = told(&mut slow);
        assert_eq!(all.len(), QUEUE_EVENTS + 1);
        assert!(matches!(all[QUEUE_EVENTS], Event::Missed(7)));
        events.tell(|| Event::SecretChanged(SystemTime::UNIX_EPOCH, 0));
        assert!(matches!(told(&mut slow)[..], [Event::SecretChanged(..)]), "and it goes on");
    }

    #[test]
    fn followers_get_the_messages_they_select_within_a_limit_of_bytes() {
        let events = Arc::new(Events::default());
        let (mut none, mut chat, mut all) = (
            events.follow(Messages::None).unwrap(),
            events.follow(Messages::Of("chat".into())).unwrap(),
            events.follow(Messages::All).unwrap(),
        );
        events.tell_message(&delivery("chat", "\"1\""), 3);
        events.tell_message(&delivery("news", "\"2\""), 0);
        assert_eq!((told(&mut none).len(), told(&mut chat).len(), told(&mut all).len()), (0, 1, 2));
        let large = "x".repeat(QUEUE_BYTES / 2 - 4);
        for _ in 0..5 {
            events.tell_message(&delivery("chat", &large), 0);
        }
        let told = told(&mut chat);
        assert!(
            matches!(told[..], [Event::Message(_), Event::Message(_), Event::Missed(3)]),
            "{}",
            told.len()
        );
    }

    #[test]
    fn there_is_an_end_to_followers_and_to_following() {
        let events = Arc::new(Events::default());
        let mut all: Vec<Following> =
            (0..MAX_FOLLOWERS).map(|_| events.follow(Messages::All).unwrap()).collect();
        assert!(events.follow(Messages::None).is_none());
        all.pop();
        let mut last = events.follow(Messages::None).unwrap();
        events.end();
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(Pin::new(&mut last).poll_next(&mut context), Poll::Ready(None)));
        drop((all, last));
        assert_eq!((events.following.load(Relaxed), events.following_messages.load(Relaxed)), (0, 0));
    }
}
