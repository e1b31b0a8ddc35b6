//! Messages on their way to the other nodes, as the server hands them over.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Cluster, Passing, Waiter};
use crate::frame::Frame;
use crate::hub::Expected;
use crate::message::{ChannelName, Delivery, Since};

/// The bytes of a payload besides names, data and excluded connections: its header, its issuer, and the names of its keys.
const PAYLOAD_BYTES: usize = 256;

/// The most bytes that a byte of a name becomes in JSON, as `\u0000`.
const ESCAPED_BYTE: usize = 6;

/// The most bytes that a byte of a name becomes in a subject, as `=00`.
const ENCODED_BYTE: usize = 3;

/// The bytes of a header with the id of a repetition besides the channel and the key: `NATS/1.0`, the name of the header, line
/// ends, and the subject up to the channel.
const KEY_HEADER_BYTES: usize = 128;

/// The bytes of a connection's id and a comma.
const ID_BYTES: usize = 37;

/// What a connection that joins channels waits for.
pub type BeforeJoin = Pin<Box<dyn Future<Output = Option<Expected>> + Send>>;

impl Cluster {
    /// Returns whether messages are delivered from the log, on this node too: then [`Cluster::append`] publishes them, and
    /// otherwise [`Cluster::relay`].
    pub fn has_log(&self) -> bool {
        matches!(self.passing, Passing::Log(_))
    }

    /// Passes messages on that were delivered on this node. Does not wait.
    pub fn relay(&self, channel: &str, frame: &Frame, excluded: &[Uuid]) {
        if let Passing::Relay(relay) = &self.passing {
            relay.send(channel, frame, excluded);
        }
    }

    /// Publishes one message to the log, and has `waiter` told what became of it. A repetition with the same `key` is stored
    /// once in its channel. Does not wait.
    pub fn append(&self, channel: &str, frame: &Frame, excluded: &[Uuid], key: Option<&str>, waiter: Waiter) {
        if let Passing::Log(log) = &self.passing {
            log.append(channel, frame, excluded, key, waiter);
        }
    }

    /// Returns a receiver that ends when a publisher may go on, so that one that is faster than NATS keeps no other's messages
    /// from it; `None` if it may now. With a log that is when all messages for it that wait now were handed to NATS or given
    /// up; otherwise when few wait, or the link has ended.
    pub fn ticket(&self) -> Option<oneshot::Receiver<()>> {
        match &self.passing {
            Passing::Relay(relay) => relay.ticket(),
            Passing::Log(log) => log.ticket(),
        }
    }

    /// Returns the largest payload that NATS takes if it may not take this message.
    pub fn too_long(&self, delivery: &Delivery<'_>, excluded: usize, key: Option<&str>) -> Option<usize> {
        let names = delivery.channel.len() + delivery.subject.map_or(0, str::len);
        let data = delivery.data.map_or(0, str::len);
        let header =
            key.map_or(0, |key| KEY_HEADER_BYTES + key.len() + delivery.channel.len() * ENCODED_BYTE);
        let bytes = header + PAYLOAD_BYTES + data + names * ESCAPED_BYTE + excluded * ID_BYTES;
        let max = self.max_payload.load(Relaxed);
        (bytes > max).then_some(max)
    }

    /// Waits until the other nodes send the messages of all channels that have a reader now, if there is a link.
    pub async fn settled(&self) {
        if let Passing::Relay(relay) = &self.passing {
            relay.settled().await;
        }
    }

    /// Returns what to wait for before a connection joins these channels from these places, so that it misses nothing that
    /// other nodes have sent or send from then on. It ends within a bound, and its result must exist until the channels are
    /// joined. Returns `None` if there is nothing to wait for.
    pub fn before_join(self: &Arc<Self>, names: &[ChannelName], since: &[Since<'_>]) -> Option<BeforeJoin> {
        let cluster = self.clone();
        match &self.passing {
            Passing::Relay(relay) => {
                let expected = relay.expect(&self.hub, names)?;
                Some(Box::pin(async move {
                    cluster.settled().await;
                    Some(expected)
                }))
            }
            Passing::Log(log) => {
                // A client may come from a node that is a little ahead.
                let ids = since.iter().filter_map(|(_, id)| *id).filter(|id| log.is_behind(*id));
                let last = ids.max_by_key(|id| id.number)?;
                Some(Box::pin(async move {
                    if let Passing::Log(log) = &cluster.passing {
                        log.reached(last).await;
                    }
                    None
                }))
            }
        }
    }
}
