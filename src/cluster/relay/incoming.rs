//! Messages of other nodes: one subscription for each channel that has readers here.
//!
//! async-nats gives each subscription a queue of its own, so that messages to several channels would swap. They are put
//! back into the order of their node by their numbers: all queues are emptied before anything is delivered, and a message that
//! is in a queue was put there after every message that its node sent before. Within a channel the numbers always grow.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures_util::stream::{AbortHandle, Abortable, SelectAll, Stream};
use futures_util::{FutureExt, StreamExt};

use super::Relay;
use crate::cluster::sign::Sign;
use crate::cluster::wire::{self, NodeId, Received};
use crate::hub::{FlushList, Flusher, Hub};
use crate::message::ChannelName;

/// The most messages that are delivered together. With more, those of one channel may overtake those of another.
const BURST: usize = 65_536;

/// The most pairs of a node and a channel whose last number is known. A stranger with NATS credentials could invent any.
const MAX_NUMBERED: usize = 65_536;

type Messages = Pin<Box<dyn Stream<Item = (ChannelName, Bytes)> + Send>>;

struct Subscriptions {
    client: Client,
    streams: SelectAll<Messages>,
    channels: HashMap<ChannelName, AbortHandle>,
}

impl Subscriptions {
    async fn add(&mut self, channel: &ChannelName, subject: String) -> Result<(), String> {
        let subscribed = self.client.subscribe(subject).await;
        let subscriber: Subscriber =
            subscribed.map_err(|error| format!("NATS takes no subscription: {error}"))?;
        let (handle, registration) = AbortHandle::new_pair();
        let name = channel.clone();
        let messages = subscriber.map(move |message| (name.clone(), message.payload));
        self.streams.push(Box::pin(Abortable::new(messages, registration)));
        self.channels.insert(channel.clone(), handle);
        Ok(())
    }

    fn remove(&mut self, channel: &ChannelName) {
        // The stream ends, is dropped, and with it the subscription.
        if let Some(handle) = self.channels.remove(channel) {
            handle.abort();
        }
    }

    /// Waits for messages, and takes all that are there, up to [`BURST`].
    async fn next(&mut self) -> Vec<(ChannelName, Bytes)> {
        let first = loop {
            match self.streams.next().await {
                Some(first) => break first,
                // No channel has a reader.
                None => std::future::pending().await,
            }
        };
        let mut burst = vec![first];
        while burst.len() < BURST
            && let Some(Some(message)) = tokio::task::unconstrained(self.streams.next()).now_or_never()
        {
            burst.push(message);
        }
        burst
    }
}

/// Subscribes to the channels that have readers, and delivers their messages, until the link ends. Calls `gap` with channels
/// of which messages came twice or too late.
pub(super) async fn run(
    relay: &Relay,
    client: Client,
    sign: &Sign,
    hub: &Hub,
    flusher: &Arc<Flusher>,
    gap: impl Fn(Vec<String>),
) -> String {
    let mut subscriptions = Subscriptions { client, streams: SelectAll::new(), channels: HashMap::new() };
    let (_, changes) = relay.interest.take();
    let mut read = Vec::new();
    hub.each_channel(|channel, _| read.push(channel.clone()));
    read.extend(relay.interest.expected().into_iter().filter(|name| hub.readers_of(name.as_str()) == 0));
    for channel in &read {
        if let Err(reason) = subscriptions.add(channel, relay.subjects.channel(channel.as_str())).await {
            return reason;
        }
    }
    settle(relay, sign, changes).await;
    let mut numbers = Numbers::default();
    loop {
        tokio::select! {
            () = relay.interest.changed() => {
                if let Err(reason) = follow_interest(relay, sign, &mut subscriptions, hub).await {
                    return reason;
                }
            }
            burst = subscriptions.next() => {
                let mut flush_list = FlushList::new();
                let (ordered, malformed) = in_order(&relay.node, burst);
                relay.counters.dropped.fetch_add(malformed, Relaxed);
                let mut doubtful = BTreeSet::new();
                for (channel, received) in ordered {
                    if !numbers.is_later(&received.node, &channel, received.number) {
                        relay.counters.repeated.fetch_add(1, Relaxed);
                        doubtful.insert(channel.as_str().to_owned());
                        continue;
                    }
                    deliver(hub, &channel, &received, &mut flush_list);
                    relay.counters.received.fetch_add(received.frame.messages() as u64, Relaxed);
                }
                if let Some(mut writing) = flusher.flush(&mut flush_list) {
                    std::future::poll_fn(|context| writing.poll(context, flusher)).await;
                }
                if !doubtful.is_empty() {
                    gap(doubtful.into_iter().collect());
                }
            }
        }
    }
}

/// Subscribes to channels that got their first reader, and unsubscribes from those that lost their last one.
async fn follow_interest(
    relay: &Relay,
    sign: &Sign,
    subscriptions: &mut Subscriptions,
    hub: &Hub,
) -> Result<(), String> {
    let (changed, changes) = relay.interest.take();
    for channel in &changed {
        let read = hub.readers_of(channel.as_str()) > 0 || relay.interest.expects(channel.as_str());
        if read && !subscriptions.channels.contains_key(channel) {
            subscriptions.add(channel, relay.subjects.channel(channel.as_str())).await?;
        } else if !read {
            subscriptions.remove(channel);
        }
    }
    settle(relay, sign, changes).await;
    Ok(())
}

/// Notes, once NATS has answered, that it knows the channels of so many changes.
async fn settle(relay: &Relay, sign: &Sign, changes: u64) {
    // Without a sign the link ends soon.
    let _ = sign.wait().await;
    relay.settled.send_replace(Some(changes));
}

/// Decodes messages and puts those of each node into the order in which it sent them. Returns how many no node can have sent,
/// too.
fn in_order(own: &NodeId, burst: Vec<(ChannelName, Bytes)>) -> (Vec<(ChannelName, Received)>, u64) {
    let (mut ordered, mut malformed) = (Vec::with_capacity(burst.len()), 0);
    for (channel, payload) in burst {
        match wire::decode(&payload, channel.as_str()) {
            Some(received) if received.node != *own => ordered.push((channel, received)),
            Some(_) => {}
            None => malformed += 1,
        }
    }
    ordered.sort_by(|(_, one), (_, other)| (&one.node, one.number).cmp(&(&other.node, other.number)));
    (ordered, malformed)
}

/// The last number of each node in each channel.
#[derive(Default)]
struct Numbers {
    last: BTreeMap<NodeId, HashMap<ChannelName, u64>>,
    count: usize,
}

impl Numbers {
    /// Returns whether a message is later than the one before it. If not, it came twice or too late, or a stranger has
    /// invented one of them; then the next is compared with this one, so that no invented number silences a node.
    fn is_later(&mut self, node: &NodeId, channel: &ChannelName, number: u64) -> bool {
        if let Some(last) = self.last.get_mut(node).and_then(|channels| channels.get_mut(channel)) {
            return std::mem::replace(last, number) < number;
        }
        if self.count == MAX_NUMBERED {
            *self = Numbers::default();
        }
        self.count += 1;
        self.last.entry(node.clone()).or_default().insert(channel.clone(), number);
        true
    }
}

fn deliver(hub: &Hub, channel: &ChannelName, received: &Received, flush_list: &mut FlushList) {
    let excluded: Vec<_> = received.excluded.iter().filter_map(|id| hub.connection(id)).collect();
    hub.publish_frame(channel.as_str(), &received.frame, &excluded, flush_list);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> ChannelName {
        ChannelName::checked(name)
    }

    fn node(name: &str) -> NodeId {
        NodeId::parse(&format!("{name}@0000000000000017")).unwrap()
    }

    #[test]
    fn a_message_that_its_channel_held_up_is_not_lost() {
        let mut numbers = Numbers::default();
        // A burst ends after 5, when the queue of `a` still has messages.
        for (name, number) in [("a", 1), ("a", 2), ("b", 5), ("a", 3), ("a", 4), ("b", 6)] {
            assert!(numbers.is_later(&node("n"), &channel(name), number), "{name} {number}");
        }
    }

    #[test]
    fn fault_77_an_invented_number_is_noticed_and_silences_nobody() {
        let mut numbers = Numbers::default();
        let mut later = |number| numbers.is_later(&node("n"), &channel("a"), number);
        assert!(later(7) && later(u64::MAX));
        // The true next one is the doubt, of which readers are told; then all is as before.
        assert!(!later(8));
        assert!(later(9) && !later(9) && later(10));
    }

    #[test]
    fn numbers_of_invented_nodes_and_channels_are_bounded() {
        let mut numbers = Numbers::default();
        for number in 0..=MAX_NUMBERED {
            assert!(numbers.is_later(&node(&format!("n{}", number % 300)), &channel(&number.to_string()), 1));
        }
        assert_eq!((numbers.count, numbers.last.len()), (1, 1));
    }

    #[test]
    fn a_burst_is_put_into_the_order_of_each_node() {
        let message = |name: &str, from: &str, number| {
            let json = format!(r#"{{"issuer":"{}","channel":"{name}","data":""}}"#, uuid::Uuid::nil());
            let payload =
                wire::encode(&node(from).to_string(), number, &[], std::iter::once(json.as_bytes()));
            (channel(name), Bytes::from(payload))
        };
        let mut burst = vec![message("a", "n", 1), message("a", "n", 3), message("b", "n", 2)];
        burst.extend([
            message("b", "m", 9),
            message("a", "own", 4),
            (channel("a"), Bytes::from_static(b"x")),
        ]);
        let (ordered, malformed) = in_order(&node("own"), burst);
        let numbers: Vec<u64> = ordered.iter().map(|(_, received)| received.number).collect();
        assert_eq!((numbers, malformed), (vec![9, 1, 2, 3], 1));
    }
}
