//! Joins and leaves channels as a client asks, and tells who reads them.

use std::sync::atomic::Ordering::Relaxed;

use super::inbound::{Inbound, answer};
use super::state::Joining;
use super::whole::Data;
use crate::hub::EnterError;
use crate::message::{ChannelName, Denial, ErrorReply, Join, JoinedReply, Presence, Since, encode_left};
use crate::server::presence::{peers, presence_limits};

impl Inbound<'_> {
    /// Joins all of these channels, or none of them. Messages that the client published before are published first.
    #[cold]
    pub(super) fn join(&mut self, join: &Join<'_>, message: Data<'_>) {
        self.send();
        let max = self.live.policy.channels;
        let may_join = join.channels.len() <= max
            && join.channels.iter().all(|name| self.claims.may_join(name.as_str()));
        if may_join && self.waits(message, &join.channels, &join.since) {
            return;
        }
        let (connection, flush_list) = (self.connection, &mut *self.flush_list);
        let joined =
            self.server.hub.enter_channels(connection, &join.channels, &join.since, max, |positions| {
                let reply = JoinedReply {
                    channels: &join.channels,
                    recovered: &positions.recovered,
                    ids: &positions.ids,
                };
                answer(connection, reply.encode(), flush_list);
            });
        if self.close_detached() {
            return;
        }
        match joined {
            Ok(()) => self.pause |= !join.since.is_empty() || join.channels.len() > CHANNELS_PER_TURN,
            Err(EnterError::Forbidden(channel)) => self.deny(channel, Denial::Join),
            Err(EnterError::TooMany(channel)) => self.deny(channel, Denial::TooMany(max)),
        }
    }

    /// Returns whether a message that joins channels must wait, so that nothing is missing once it is answered: until NATS
    /// sends what other nodes publish there, or this node has the messages that the client has got from another one.
    pub(super) fn waits(&mut self, message: Data<'_>, names: &[ChannelName], since: &[Since<'_>]) -> bool {
        if self.has_waited {
            return false;
        }
        let before = self.server.cluster.as_ref().and_then(|cluster| cluster.before_join(names, since));
        let (Some(before), Some(text)) = (before, message.text()) else { return false };
        *self.joining = Some(Box::new(Joining { message: text.into(), before }));
        self.pause = true;
        true
    }

    /// Leaves all of these channels, or none of them.
    #[cold]
    pub(super) fn leave(&mut self, channels: &[ChannelName]) {
        self.send();
        self.end_waiting();
        match self.server.hub.leave_channels(self.connection, channels) {
            Ok(()) => {
                self.answer(encode_left(channels));
                self.pause |= channels.len() > CHANNELS_PER_TURN;
            }
            Err(channel) => self.deny(channel, Denial::Leave),
        }
    }

    /// Tells who reads these channels: all of them, or none.
    #[cold]
    pub(super) fn presence(&mut self, presence: &Presence) {
        self.send();
        self.auths.presences += presence.channels.len() as u32;
        if self.auths.presences > MAX_PRESENCE_PER_SECOND {
            return self.answer(ErrorReply::TooManyPresences(MAX_PRESENCE_PER_SECOND).encode());
        }
        let denial = |name: &&ChannelName| {
            !self.claims.may_see_presence(name.as_str()) || !self.connection.reads(name.as_str())
        };
        let denied = presence.channels.iter().find(denial);
        if self.close_detached() {
            return;
        }
        if let Some(channel) = denied {
            let may = self.claims.may_see_presence(channel.as_str());
            return self.deny(channel, if may { Denial::Unread } else { Denial::Presence });
        }
        let (limits, peers) = (presence_limits(self.live), peers(self.server));
        for name in &presence.channels {
            let (connection, flush_list) = (self.connection, &mut *self.flush_list);
            let hub = &self.server.hub;
            hub.look_at_presence(connection, name, presence.follow, (limits, &peers), |frame| {
                answer(connection, frame, flush_list);
            });
        }
        self.pause = true;
    }

    /// Answers requests for presence that wait for other nodes of a cluster, before the client may see less.
    pub(super) fn end_waiting(&mut self) {
        if self.server.cluster.is_some() {
            let hub = &self.server.hub;
            hub.answer_presence_now(self.connection, &peers(self.server), self.flush_list);
        }
    }

    fn deny(&mut self, channel: &ChannelName, denial: Denial) {
        self.server.counters.forbidden.fetch_add(1, Relaxed);
        self.answer(ErrorReply::Denied(channel, denial).encode());
    }
}

/// Channels of which one connection may ask in a second who reads them. In a large channel an answer takes milliseconds.
const MAX_PRESENCE_PER_SECOND: u32 = 100;

/// Channels that a client joins or leaves at once before other tasks run. Each takes about as long as a message.
const CHANNELS_PER_TURN: usize = 32;
