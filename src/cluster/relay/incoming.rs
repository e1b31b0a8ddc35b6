//! Messages of other nodes: one subscription for each channel that has readers here.
//!
//! async-nats gives each subscription a queue of its own, so that messages to several channels would swap. They are put
//! back into the order of their node by their numbers: all queues are emptied before anything is delivered, and a message that
//! is in a queue was put there after every message that its node sent before.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use async_nats::{Client, Message, Subscriber};
use futures_util::stream::{AbortHandle, Abortable, SelectAll, Stream};
use futures_util::{FutureExt, StreamExt};

use super::Relay;
use crate::cluster::wire::{self, NodeId, Received};
use crate::hub::{FlushList, Flusher, Hub};
use crate::message::ChannelName;

/// The most messages that are delivered together.
const BURST: usize = 4_096;

/// The most nodes whose last number is known. A stranger with NATS credentials could invent any number.
const MAX_NUMBERED: usize = 4_096;

type Messages = Pin<Box<dyn Stream<Item = (ChannelName, Message)> + Send>>;

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
        let messages = subscriber.map(move |message| (name.clone(), message));
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
    async fn next(&mut self) -> Vec<(ChannelName, Message)> {
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

/// Subscribes to the channels that have readers, and delivers their messages, until the link ends.
pub(super) async fn run(relay: &Relay, client: Client, hub: &Hub, flusher: &Arc<Flusher>) -> String {
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
    if let Err(reason) = settle(relay, &subscriptions.client, changes).await {
        return reason;
    }
    let mut last = BTreeMap::new();
    loop {
        tokio::select! {
            () = relay.interest.changed() => {
                if let Err(reason) = follow_interest(relay, &mut subscriptions, hub).await {
                    return reason;
                }
            }
            burst = subscriptions.next() => {
                let mut flush_list = FlushList::new();
                for (channel, received) in in_order(relay, burst, &mut last) {
                    deliver(hub, &channel, &received, &mut flush_list);
                    relay.counters.received.fetch_add(received.frame.messages() as u64, Relaxed);
                }
                if let Some(mut writing) = flusher.flush(&mut flush_list) {
                    std::future::poll_fn(|context| writing.poll(context, flusher)).await;
                }
            }
        }
    }
}

/// Subscribes to channels that got their first reader, and unsubscribes from those that lost their last one.
async fn follow_interest(relay: &Relay, subscriptions: &mut Subscriptions, hub: &Hub) -> Result<(), String> {
    let (changed, changes) = relay.interest.take();
    for channel in &changed {
        let read = hub.readers_of(channel.as_str()) > 0 || relay.interest.expects(channel.as_str());
        if read && !subscriptions.channels.contains_key(channel) {
            subscriptions.add(channel, relay.subjects.channel(channel.as_str())).await?;
        } else if !read {
            subscriptions.remove(channel);
        }
    }
    settle(relay, &subscriptions.client, changes).await
}

/// Notes, once NATS has answered, that it knows the channels of so many changes.
async fn settle(relay: &Relay, client: &Client, changes: u64) -> Result<(), String> {
    let subject = relay.subjects.nobody();
    let _ = client.request(subject, bytes::Bytes::new()).await;
    relay.settled.send_replace(Some(changes));
    Ok(())
}

/// Decodes messages and puts those of each node into the order in which it sent them.
fn in_order(
    relay: &Relay,
    burst: Vec<(ChannelName, Message)>,
    last: &mut BTreeMap<NodeId, u64>,
) -> Vec<(ChannelName, Received)> {
    let mut ordered = Vec::with_capacity(burst.len());
    for (channel, message) in burst {
        match wire::decode(&message.payload, channel.as_str()) {
            Some(received) if received.node != relay.node => ordered.push((channel, received)),
            Some(_) => {}
            None => _ = relay.counters.dropped.fetch_add(1, Relaxed),
        }
    }
    ordered.sort_by(|(_, one), (_, other)| (&one.node, one.number).cmp(&(&other.node, other.number)));
    ordered.retain(|(_, received)| {
        if last.len() >= MAX_NUMBERED && !last.contains_key(&received.node) {
            last.clear();
        }
        let last = last.entry(received.node.clone()).or_default();
        let later = received.number > *last;
        if later {
            *last = received.number;
        } else {
            relay.counters.repeated.fetch_add(1, Relaxed);
        }
        later
    });
    ordered
}

fn deliver(hub: &Hub, channel: &ChannelName, received: &Received, flush_list: &mut FlushList) {
    let excluded: Vec<_> = received.excluded.iter().filter_map(|id| hub.connection(id)).collect();
    hub.publish_frame(channel.as_str(), &received.frame, &excluded, flush_list);
}
