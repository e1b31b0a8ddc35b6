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
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use self::outgoing::{Outbound, Outgoing};
use super::nodes::Lost;
use super::sign::Sign;
use super::subject::Subjects;
use super::wire::{self, NodeId};
use crate::frame::Frame;
use crate::hub::{Expected, Flusher, Hub, Interest};
use crate::message::ChannelName;

/// How long a connection that joins channels waits for NATS to know of them.
const SETTLE: Duration = Duration::from_secs(1);

/// Bytes that are handed to NATS before it must give a sign that it has them. async-nats keeps what the connection does not take
/// yet, and the next sign waits behind it.
const UNSIGNED_BYTES: usize = 1024 * 1024;

/// The relay of one node.
pub(super) struct Relay {
    node: NodeId,
    /// `NAME@START`.
    name: String,
    subjects: Subjects,
    outgoing: Outgoing,
    /// The number of the last payload.
    number: AtomicU64,
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
            number: AtomicU64::new(0),
            interest,
            settled: watch::Sender::new(None),
            counters: Counters::default(),
        }
    }

    /// Passes messages on to the other nodes, or counts them as lost. Does not wait.
    pub(super) fn send(&self, channel: &str, frame: &Frame, excluded: &[Uuid]) {
        let outbound = Outbound {
            channel: ChannelName::checked(channel),
            frame: frame.clone(),
            excluded: excluded.into(),
        };
        if !self.outgoing.push(outbound) {
            self.counters.lost.fetch_add(frame.messages() as u64, Relaxed);
        }
    }

    /// Returns a receiver that ends when a publisher may go on; `None` if it may now.
    pub(super) fn ticket(&self) -> Option<oneshot::Receiver<()>> {
        self.outgoing.ticket()
    }

    /// Waits until NATS knows the channels that have a reader now, if there is a link, and at most for [`SETTLE`].
    pub(super) async fn settled(&self) {
        let changes = self.interest.changes();
        let mut settled = self.settled.subscribe();
        let known = settled.wait_for(|settled| settled.is_none_or(|settled| settled >= changes));
        let _ = tokio::time::timeout(SETTLE, known).await;
    }

    /// Asks NATS for the messages of channels that a connection is about to join. Returns `None` if it knows them already, or
    /// there is no link.
    pub(super) fn expect(&self, hub: &Hub, names: &[ChannelName]) -> Option<Expected> {
        let settled = (*self.settled.borrow())?;
        let new: Vec<ChannelName> =
            names.iter().filter(|name| hub.readers_of(name.as_str()) == 0).cloned().collect();
        let is_known = new.is_empty() && (names.is_empty() || settled >= self.interest.changes());
        (!is_known).then(|| self.interest.expect(new))
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
        self.counters.lost.fetch_add(self.outgoing.close(), Relaxed);
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

    /// Hands waiting messages to NATS until the link ends. `most` is the largest payload that NATS takes.
    pub(super) async fn run_outgoing(&self, client: async_nats::Client, sign: &Sign, most: usize) -> String {
        let mut unsigned = 0;
        loop {
            if unsigned >= UNSIGNED_BYTES {
                if let Err(reason) = sign.wait().await {
                    return reason;
                }
                unsigned = 0;
            }
            // They are taken out only when NATS has them, so that none is forgotten if the link ends meanwhile.
            let outbound = self.outgoing.next().await;
            let payload = self.encode(&outbound, outbound.frame.payloads());
            let mut lost = 0;
            unsigned += payload.len();
            if payload.len() <= most {
                if let Err(reason) = self.publish(&client, &outbound.channel, payload).await {
                    return reason;
                }
            } else {
                for message in outbound.frame.payloads() {
                    let payload = self.encode(&outbound, std::iter::once(message));
                    if payload.len() > most {
                        // NATS would end the connection for it, and with it the link for all channels.
                        lost += 1;
                    } else if let Err(reason) = self.publish(&client, &outbound.channel, payload).await {
                        return reason;
                    }
                }
            }
            self.outgoing.handed_over(lost > 0);
            self.counters.lost.fetch_add(lost, Relaxed);
            self.counters.sent.fetch_add(outbound.frame.messages() as u64 - lost, Relaxed);
        }
    }

    /// Encodes messages under the next number of this node. Only one task does, so that the numbers are in the order of the
    /// messages.
    fn encode<'a>(&self, outbound: &Outbound, messages: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        let number = self.number.fetch_add(1, Relaxed) + 1;
        wire::encode(&self.name, number, &outbound.excluded, messages)
    }

    async fn publish(
        &self,
        client: &async_nats::Client,
        channel: &ChannelName,
        payload: Vec<u8>,
    ) -> Result<(), String> {
        let published = client.publish(self.subjects.channel(channel.as_str()), Bytes::from(payload)).await;
        published.map_err(|error| format!("NATS takes no message: {error}"))
    }

    /// Delivers messages of other nodes until the link ends. Calls `gap` with channels whose readers may have missed some.
    pub(super) async fn run_incoming(
        &self,
        client: async_nats::Client,
        sign: &Sign,
        hub: &Hub,
        flusher: &Arc<Flusher>,
        gap: impl Fn(Vec<String>),
    ) -> String {
        incoming::run(self, client, sign, hub, flusher, gap).await
    }
}
