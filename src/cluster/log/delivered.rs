//! Delivers messages of the log to the readers on this node: consecutive messages to one channel together.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use async_nats::Message;
use uuid::Uuid;

use super::place::Stamp;
use super::{Log, wire};
use crate::frame::Frame;
use crate::hub::{FlushList, Logged};
use crate::message::ChannelName;

/// Bytes from which no more messages are delivered together. A frame is freed as a whole, so it should not be larger.
const FULL: usize = 64 * 1024;

/// The longest name of a channel, in bytes: the most that `[limits] channel_name_bytes` may be.
const LONGEST_NAME: usize = 4_096;

/// Consecutive messages of the log to one channel.
#[derive(Default)]
pub(super) struct Run {
    channel: Option<ChannelName>,
    bytes: Vec<u8>,
    messages: u32,
    first: u64,
    at: Option<Instant>,
    excluded: Vec<Uuid>,
}

impl Run {
    /// Adds a message, and delivers those before it if it does not belong to them.
    pub(super) fn add(
        &mut self,
        log: &Log,
        message: &Message,
        stamp: Stamp,
        live: bool,
        flush_list: &mut FlushList,
    ) {
        let channel = log.subjects.channel_of(&message.subject);
        let received = channel.and_then(|channel| {
            ChannelName::check(&channel, LONGEST_NAME).ok()?;
            let received = wire::decode(&message.payload, &channel)?;
            // One place in the log is one message.
            (received.frame.messages() == 1).then_some((channel, received))
        });
        let Some((channel, received)) = received else {
            log.counters.dropped.fetch_add(1, Relaxed);
            return;
        };
        if received.node.to_string() != log.name {
            log.counters.received.fetch_add(1, Relaxed);
        }
        let belongs = self.channel.as_ref().is_some_and(|name| name.as_str() == channel)
            && self.first + u64::from(self.messages) == stamp.number
            && self.excluded == received.excluded
            && self.bytes.len() < FULL;
        if !belongs {
            self.deliver(log, live, flush_list);
            self.channel = Some(ChannelName::checked(&channel));
            self.first = stamp.number;
            self.at = Some(stamp.instant(Instant::now()));
            self.excluded = received.excluded;
        }
        self.bytes.extend_from_slice(&received.frame);
        self.messages += 1;
    }

    /// Delivers what was added.
    pub(super) fn deliver(&mut self, log: &Log, live: bool, flush_list: &mut FlushList) {
        let Some(channel) = self.channel.take() else { return };
        let frame = Frame::finished(&self.bytes, self.messages);
        let excluded: Vec<_> = self.excluded.iter().filter_map(|id| log.hub.connection(id)).collect();
        log.hub.deliver_logged(
            &Logged {
                channel: &channel,
                frame: &frame,
                first: self.first,
                at: self.at.unwrap_or_else(Instant::now),
                excluded: &excluded,
                live,
            },
            flush_list,
        );
        self.bytes.clear();
        self.messages = 0;
    }
}
