//! Messages that wait to be handed to NATS, and which channels have lost some.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use crate::cluster::nodes::{Lost, MAX_LOST_CHANNELS};
use crate::frame::Frame;
use crate::message::ChannelName;
use crate::sync::lock;

/// Bytes that may wait for NATS. More are lost, and counted.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// Bytes that may wait before publishers wait as well, until NATS has taken some. The rest is room for those that have not
/// waited yet, so that one that is too fast costs no other's messages.
const CROWDED: usize = MAX_WAITING_BYTES / 4;

/// The bytes that waiting messages take beside their frame and their channel's name.
const OUTBOUND_BYTES: usize = 192;

#[derive(Default)]
pub(super) struct Outgoing {
    state: Mutex<State>,
    notify: Notify,
    /// More than [`CROWDED`] bytes wait.
    is_crowded: AtomicBool,
}

#[derive(Default)]
struct State {
    /// There is a link.
    open: bool,
    waiting: VecDeque<Outbound>,
    bytes: usize,
    /// Publishers that wait until fewer bytes do.
    tickets: Vec<oneshot::Sender<()>>,
    /// Channels whose messages were handed to NATS, which may not have them yet: since it was last asked, and before.
    sent: Channels,
    asked: Channels,
    /// Channels that have lost messages, which the other nodes do not know yet.
    lost: Channels,
}

/// Messages to one channel.
#[derive(Clone, Debug)]
pub(super) struct Outbound {
    pub(super) channel: ChannelName,
    pub(super) frame: Frame,
    /// The connections that must not get them.
    pub(super) excluded: Box<[Uuid]>,
}

impl Outbound {
    fn cost(&self) -> usize {
        self.channel.as_str().len() + self.frame.len() + size_of_val(&*self.excluded) + OUTBOUND_BYTES
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
    /// Adds messages. Returns false if they are lost.
    pub(super) fn push(&self, outbound: Outbound) -> bool {
        let mut state = lock(&self.state);
        if !state.open || state.bytes + outbound.cost() > MAX_WAITING_BYTES {
            state.lost.add(outbound.channel.as_str());
            return false;
        }
        state.bytes += outbound.cost();
        state.waiting.push_back(outbound);
        let first = state.waiting.len() == 1;
        if state.bytes > CROWDED {
            self.is_crowded.store(true, Relaxed);
        }
        drop(state);
        if first {
            self.notify.notify_one();
        }
        true
    }

    /// Returns a receiver that ends when NATS has taken so much that a publisher may go on, or the link has ended; `None` if
    /// it may now.
    pub(super) fn ticket(&self) -> Option<oneshot::Receiver<()>> {
        if !self.is_crowded.load(Relaxed) {
            return None;
        }
        let mut state = lock(&self.state);
        if state.bytes <= CROWDED {
            return None;
        }
        let (ticket, room) = oneshot::channel();
        state.tickets.push(ticket);
        Some(room)
    }

    /// Waits for messages, and returns the first ones, which stay here until [`Outgoing::handed_over`].
    pub(super) async fn next(&self) -> Outbound {
        loop {
            let notified = self.notify.notified();
            if let Some(first) = lock(&self.state).waiting.front() {
                return first.clone();
            }
            notified.await;
        }
    }

    /// The first messages were handed to NATS, or, if `lost`, at least one of them could not be.
    pub(super) fn handed_over(&self, lost: bool) {
        let mut state = lock(&self.state);
        let Some(outbound) = state.waiting.pop_front() else { return };
        state.bytes -= outbound.cost();
        state.sent.add(outbound.channel.as_str());
        if lost {
            state.lost.add(outbound.channel.as_str());
        }
        let tickets = self.tickets_to_end(&mut state);
        drop(state);
        drop(tickets);
    }

    /// Returns the tickets of publishers that may go on. They end when they are dropped.
    fn tickets_to_end(&self, state: &mut State) -> Vec<oneshot::Sender<()>> {
        if state.bytes > CROWDED {
            return Vec::new();
        }
        self.is_crowded.store(false, Relaxed);
        std::mem::take(&mut state.tickets)
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
        drop(self.tickets_to_end(&mut state));
        let waiting = std::mem::take(&mut state.waiting);
        let (asked, sent) = (std::mem::take(&mut state.asked), std::mem::take(&mut state.sent));
        state.lost.add_all(asked);
        state.lost.add_all(sent);
        waiting.iter().for_each(|outbound| state.lost.add(outbound.channel.as_str()));
        waiting.iter().map(|outbound| outbound.frame.messages() as u64).sum()
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
        let sent = std::mem::take(&mut state.sent);
        state.asked.add_all(sent);
    }

    pub(super) fn confirmed(&self) {
        lock(&self.state).asked = Channels::None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn push(outgoing: &Outgoing, channel: &str, bytes: usize) -> bool {
        let frame = Frame::finished(&vec![0; bytes], 1);
        outgoing.push(Outbound { channel: ChannelName::checked(channel), frame, excluded: Box::default() })
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
        for channel in ["b", "c"] {
            assert!(push(&outgoing, channel, 1));
        }
        outgoing.handed_over(false);
        outgoing.ask();
        outgoing.handed_over(false);
        outgoing.confirmed();
        assert_eq!(outgoing.close(), 0);
        assert_eq!(lost(&outgoing), Some(vec!["c".to_owned()]));
    }

    #[test]
    fn publishers_wait_while_much_waits_for_nats_and_a_link_that_ends_keeps_none() {
        let outgoing = Outgoing::default();
        outgoing.open();
        let waits = |ticket: &mut oneshot::Receiver<()>| ticket.try_recv() == Err(TryRecvError::Empty);
        for end in
            [|outgoing: &Outgoing| outgoing.handed_over(false), |outgoing: &Outgoing| _ = outgoing.close()]
        {
            assert!(outgoing.ticket().is_none());
            while outgoing.ticket().is_none() {
                assert!(push(&outgoing, "a", 64 * 1024), "nobody waits before messages are lost");
            }
            let mut tickets: Vec<_> = (0..3).map(|_| outgoing.ticket().unwrap()).collect();
            assert!(push(&outgoing, "b", 64 * 1024), "there is room for another publisher");
            outgoing.handed_over(false);
            assert!(tickets.iter_mut().all(waits));
            end(&outgoing);
            assert!(!tickets.iter_mut().any(waits));
        }
        assert_eq!(lost(&outgoing).unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_frozen_nats_costs_bounded_memory() {
        let outgoing = Outgoing::default();
        outgoing.open();
        let taken = (0..1_000).filter(|_| push(&outgoing, "a", 64 * 1024)).count();
        assert_eq!(taken, MAX_WAITING_BYTES / (64 * 1024 + OUTBOUND_BYTES + 1));
        assert_eq!(lost(&outgoing), Some(vec!["a".to_owned()]));
        for number in 0..=MAX_LOST_CHANNELS {
            push(&outgoing, &number.to_string(), 64 * 1024);
        }
        assert_eq!(lost(&outgoing), Some(vec!["all".to_owned()]));
    }
}
