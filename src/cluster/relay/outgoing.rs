//! Messages that wait to be handed to NATS, and which channels have lost some.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_nats::Client;
use bytes::Bytes;
use tokio::sync::Notify;

use crate::cluster::nodes::{Lost, MAX_LOST_CHANNELS};
use crate::sync::lock;

/// Bytes that may wait for NATS. More are lost, and counted.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// The bytes that a waiting message takes beside its subject and payload.
const MESSAGE_BYTES: usize = 128;

#[derive(Default)]
pub(super) struct Outgoing {
    /// The number of the last payload.
    number: AtomicU64,
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Default)]
struct State {
    /// There is a link.
    open: bool,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Channels whose messages were handed to NATS, which may not have them yet: since it was last asked, and before.
    sent: Channels,
    asked: Channels,
    /// Channels that have lost messages, which the other nodes do not know yet.
    lost: Channels,
}

struct Waiting {
    subject: String,
    payload: Bytes,
    messages: u64,
}

impl Waiting {
    fn cost(&self) -> usize {
        self.subject.len() + self.payload.len() + MESSAGE_BYTES
    }
}

/// A bounded set of channels.
#[derive(Default)]
enum Channels {
    #[default]
    None,
    Some(HashSet<Box<str>>),
    /// Too many to name.
    All,
}

impl Channels {
    fn add(&mut self, channel: &str) {
        match self {
            Channels::None => *self = Channels::Some(HashSet::from([channel.into()])),
            Channels::Some(channels) if channels.contains(channel) => {}
            Channels::Some(channels) if channels.len() < MAX_LOST_CHANNELS => {
                _ = channels.insert(channel.into())
            }
            Channels::Some(_) => *self = Channels::All,
            Channels::All => {}
        }
    }

    fn add_all(&mut self, other: Channels) {
        match other {
            Channels::None => {}
            Channels::Some(channels) => channels.iter().for_each(|channel| self.add(channel)),
            Channels::All => *self = Channels::All,
        }
    }
}

impl Outgoing {
    pub(super) fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Relaxed) + 1
    }

    /// Adds a payload with this many messages. Returns false if they are lost.
    pub(super) fn push(&self, channel: &str, subject: String, payload: Bytes, messages: u64) -> bool {
        let waiting = Waiting { subject, payload, messages };
        let mut state = lock(&self.state);
        if !state.open || state.bytes + waiting.cost() > MAX_WAITING_BYTES {
            state.lost.add(channel);
            return false;
        }
        state.sent.add(channel);
        state.bytes += waiting.cost();
        state.waiting.push_back(waiting);
        let first = state.waiting.len() == 1;
        drop(state);
        if first {
            self.notify.notify_one();
        }
        true
    }

    /// Notes that a channel has lost a message.
    pub(super) fn lose(&self, channel: &str) {
        lock(&self.state).lost.add(channel);
    }

    pub(super) fn open(&self) {
        lock(&self.state).open = true;
    }

    /// Forgets what waits, and counts all channels as having lost messages that NATS may not have. Returns the number of
    /// messages that were never handed to it.
    pub(super) fn close(&self) -> u64 {
        let mut state = lock(&self.state);
        state.open = false;
        state.bytes = 0;
        let waiting = std::mem::take(&mut state.waiting);
        let (asked, sent) = (std::mem::take(&mut state.asked), std::mem::take(&mut state.sent));
        state.lost.add_all(asked);
        state.lost.add_all(sent);
        waiting.iter().map(|waiting| waiting.messages).sum()
    }

    pub(super) fn take_lost(&self) -> Option<Lost> {
        match std::mem::take(&mut lock(&self.state).lost) {
            Channels::None => None,
            Channels::Some(channels) => {
                Some(Lost::Channels(channels.into_iter().map(String::from).collect()))
            }
            Channels::All => Some(Lost::All),
        }
    }

    pub(super) fn ask(&self) {
        let mut state = lock(&self.state);
        // What still waits here is not confirmed by the answer, so its channels stay among those sent since.
        let sent = std::mem::take(&mut state.sent);
        if state.waiting.is_empty() {
            state.asked.add_all(sent);
        } else {
            state.sent = sent;
        }
    }

    pub(super) fn confirmed(&self) {
        lock(&self.state).asked = Channels::None;
    }

    pub(super) async fn run(&self, client: Client) -> String {
        loop {
            let notified = self.notify.notified();
            let waiting = {
                let mut state = lock(&self.state);
                state.bytes = 0;
                std::mem::take(&mut state.waiting)
            };
            if waiting.is_empty() {
                notified.await;
            }
            for Waiting { subject, payload, .. } in waiting {
                if let Err(error) = client.publish(subject, payload).await {
                    return format!("NATS takes no message: {error}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(outgoing: &Outgoing, channel: &str, bytes: usize) -> bool {
        outgoing.push(channel, String::new(), Bytes::from(vec![0; bytes]), 1)
    }

    fn lost(outgoing: &Outgoing) -> Option<Vec<String>> {
        match outgoing.take_lost()? {
            Lost::All => Some(vec!["all".to_owned()]),
            Lost::Channels(mut channels) => {
                channels.sort();
                Some(channels)
            }
        }
    }

    #[test]
    fn without_a_link_messages_are_lost_and_their_channels_are_told() {
        let outgoing = Outgoing::default();
        assert!(!push(&outgoing, "a", 1));
        outgoing.open();
        assert!(push(&outgoing, "b", 1));
        assert_eq!(lost(&outgoing), Some(vec!["a".to_owned()]));
        assert_eq!(lost(&outgoing), None);
        assert_eq!(outgoing.close(), 1);
        assert_eq!(lost(&outgoing), Some(vec!["b".to_owned()]));
    }

    #[test]
    fn what_nats_has_confirmed_is_not_lost() {
        let outgoing = Outgoing::default();
        outgoing.open();
        assert!(push(&outgoing, "a", 1));
        outgoing.ask();
        outgoing.confirmed();
        assert_eq!(outgoing.close(), 1, "it was not handed over when NATS was asked");
        assert_eq!(lost(&outgoing), Some(vec!["a".to_owned()]));
        outgoing.open();
        assert!(push(&outgoing, "b", 1));
        lock(&outgoing.state).waiting.clear();
        outgoing.ask();
        assert!(push(&outgoing, "c", 1));
        outgoing.confirmed();
        outgoing.close();
        assert_eq!(lost(&outgoing), Some(vec!["c".to_owned()]));
    }

    #[test]
    fn a_frozen_nats_costs_bounded_memory() {
        let outgoing = Outgoing::default();
        outgoing.open();
        let taken = (0..1_000).filter(|_| push(&outgoing, "a", 64 * 1024)).count();
        assert_eq!(taken, MAX_WAITING_BYTES / (64 * 1024 + MESSAGE_BYTES));
        assert_eq!(lost(&outgoing), Some(vec!["a".to_owned()]));
        for number in 0..=MAX_LOST_CHANNELS {
            push(&outgoing, &number.to_string(), 64 * 1024);
        }
        assert_eq!(lost(&outgoing), Some(vec!["all".to_owned()]));
    }
}
