//! Without a history: NATS passes each message on to the nodes that have readers of its channel.
//!
//! Delivery on the publishing node does not wait for NATS. What cannot be passed on is counted, and the other nodes are told
//! of it when the link is back, so that they close the readers that miss something.

mod incoming;
mod outgoing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use uuid::Uuid;

use self::outgoing::Outgoing;
use super::nodes::Lost;
use super::subject::Subjects;
use super::wire::{self, NodeId};
use crate::frame::Frame;
use crate::hub::{Flusher, Hub, Interest};

/// How long a connection that joins channels waits for NATS to know of them.
const SETTLE: Duration = Duration::from_secs(1);

/// The relay of one node.
pub(super) struct Relay {
    node: NodeId,
    /// `NAME@START`.
    name: String,
    subjects: Subjects,
    outgoing: Outgoing,
    interest: Arc<Interest>,
    /// The number of changes of interest that NATS knows, while there is a link.
    settled: watch::Sender<Option<u64>>,
    /// Messages passed on, received, and dropped.
    pub(super) counters: Counters,
}

/// The counts of a relay.
#[derive(Default)]
pub(super) struct Counters {
    /// Messages handed to NATS.
    pub(super) sent: AtomicU64,
    /// Messages that could not be.
    pub(super) lost: AtomicU64,
    /// Messages of other nodes.
    pub(super) received: AtomicU64,
    /// Payloads of other nodes that came a second time, or after a later one.
    pub(super) repeated: AtomicU64,
    /// Payloads that no node of this version can have sent.
    pub(super) dropped: AtomicU64,
}

impl Relay {
    pub(super) fn new(node: &NodeId, subjects: &Subjects, hub: &Hub) -> Relay {
        let interest = Arc::new(Interest::default());
        hub.watch_interest(interest.clone());
        Relay {
            name: node.to_string(),
            node: node.clone(),
            subjects: subjects.clone(),
            outgoing: Outgoing::default(),
            interest,
            settled: watch::Sender::new(None),
            counters: Counters::default(),
        }
    }

    /// Passes messages on to the other nodes, or counts them as lost. Does not wait. `most` is the largest payload that NATS
    /// takes.
    pub(super) fn send(&self, channel: &str, frame: &Frame, excluded: &[Uuid], most: usize) {
        let number = self.outgoing.next_number();
        let payload = wire::encode(&self.name, number, excluded, frame.payloads());
        if payload.len() <= most {
            return self.pass(channel, payload, frame.messages() as u64);
        }
        for (at, message) in frame.payloads().enumerate() {
            let number = if at == 0 { number } else { self.outgoing.next_number() };
            let payload = wire::encode(&self.name, number, excluded, std::iter::once(message));
            if payload.len() > most {
                // NATS would end the connection for it, and with it the link for all channels.
                self.outgoing.lose(channel);
                self.counters.lost.fetch_add(1, Relaxed);
            } else {
                self.pass(channel, payload, 1);
            }
        }
    }

    fn pass(&self, channel: &str, payload: Vec<u8>, messages: u64) {
        let passed =
            self.outgoing.push(channel, self.subjects.channel(channel), Bytes::from(payload), messages);
        let count = if passed { &self.counters.sent } else { &self.counters.lost };
        count.fetch_add(messages, Relaxed);
    }

    /// Waits until NATS knows the channels that have a reader now, if there is a link, and at most for [`SETTLE`].
    pub(super) async fn settled(&self) {
        let changes = self.interest.changes();
        let mut settled = self.settled.subscribe();
        let known = settled.wait_for(|settled| settled.is_none_or(|settled| settled >= changes));
        let _ = tokio::time::timeout(SETTLE, known).await;
    }

    /// Waits until NATS knows the channels that had a reader when the link began.
    pub(super) async fn settled_once(&self) {
        let _ = self.settled.subscribe().wait_for(Option::is_some).await;
    }

    /// Keeps the list of changed channels empty while there is no link to tell them to.
    pub(super) async fn ignore_interest(&self) {
        loop {
            self.interest.changed().await;
            self.interest.take();
        }
    }

    /// Begins to pass messages on.
    pub(super) fn up(&self) {
        self.outgoing.open();
    }

    /// Stops passing messages on, because the link has ended.
    pub(super) fn down(&self) {
        self.settled.send_replace(None);
        let lost = self.outgoing.close();
        self.counters.sent.fetch_sub(lost, Relaxed);
        self.counters.lost.fetch_add(lost, Relaxed);
    }

    /// Takes the channels whose messages were lost, to announce them.
    pub(super) fn take_lost(&self) -> Option<Lost> {
        self.outgoing.take_lost()
    }

    /// Begins to ask NATS whether it has what was sent so far.
    pub(super) fn ask(&self) {
        self.outgoing.ask();
    }

    /// Notes that NATS has what was sent before the last [`Relay::ask`].
    pub(super) fn confirmed(&self) {
        self.outgoing.confirmed();
    }

    /// Hands waiting messages to NATS until the link ends.
    pub(super) async fn run_outgoing(&self, client: async_nats::Client) -> String {
        self.outgoing.run(client).await
    }

    /// Delivers messages of other nodes until the link ends.
    pub(super) async fn run_incoming(
        &self,
        client: async_nats::Client,
        hub: &Hub,
        flusher: &Arc<Flusher>,
    ) -> String {
        incoming::run(self, client, hub, flusher).await
    }
}
