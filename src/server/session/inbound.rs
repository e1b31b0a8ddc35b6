//! Does what a connection's messages ask for: publish, accept another token, or join and leave channels.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::Guard;

use super::frames::Received;
use super::guard::access_frame;
use super::state::{Auths, Joining};
use super::whole::Data;
use crate::close::CloseReason;
use crate::cluster::Waiter;
use crate::frame::Frame;
use crate::hub::{Connection, FlushList};
use crate::message::{
    Auth, BadMessage, Batch, ChannelName, Delivery, ErrorReply, FromClient, Publish, encode_left,
};
use crate::server::limits::{Seat, Verdict, rates_of};
use crate::server::rejection::Rejection;
use crate::server::{Live, Server, admission, publishing};
use crate::token::Claims;

/// Tokens that one connection may show per second. Verifying one costs as much as many messages.
const MAX_AUTHS_PER_SECOND: u32 = 100;

/// The state for handling one connection's messages.
pub(crate) struct Inbound<'a> {
    pub(crate) server: &'a Arc<Server>,
    pub(crate) connection: &'a Arc<Connection>,
    pub(crate) live: &'a Live,
    pub(crate) claims: Guard<Arc<Claims>>,
    pub(crate) auths: &'a mut Auths,
    pub(crate) seat: &'a mut Seat,
    pub(crate) id: &'a str,
    pub(crate) flush_list: &'a mut FlushList,
    /// Messages of the last channel that are not queued yet.
    pub(crate) batch: &'a mut Batch,
    /// What is queued must be written, and other tasks run, before its next message is handled: it has resumed, and what
    /// another resume may deliver depends on the room in its queue; or it has changed many channels.
    pub(crate) pause: bool,
    /// Messages wait for the other nodes of a cluster.
    pub(crate) passes_on: bool,
    /// A message that joins channels, and waits for other nodes of a cluster first. The next ones wait behind it.
    pub(crate) joining: &'a mut Option<Box<Joining>>,
    /// The message at hand has waited.
    pub(crate) has_waited: bool,
}

impl Inbound<'_> {
    /// Returns the longest message that is read, in bytes. A message over `max_message_size` must bring a token.
    pub(crate) fn longest_message(&self) -> usize {
        let auth = self.claims.longest_auth(&self.live.policy);
        self.live.settings.websocket.max_message_size.max(auth)
    }

    /// Does what a message asks for, or answers why not. Returns false if the connection is closed because the
    /// message is too long.
    pub(crate) fn take(&mut self, message: Data<'_>) -> bool {
        if cfg!(feature = "echo") {
            let is_binary = matches!(message, Data::Binary(_));
            self.answer(Frame::echo(message.bytes(), is_binary, self.connection.outbox.window));
            return true;
        }
        let text = message.text().ok_or(BadMessage::NotUtf8);
        let names = self.live.settings.limits.channel_name_bytes;
        match text.and_then(|text| FromClient::parse(text, names, self.connection.speaks_v1())) {
            Ok(FromClient::Auth(auth)) => self.authenticate(&auth, message),
            _ if message.bytes().len() > self.live.settings.websocket.max_message_size => {
                self.send();
                self.connection.outbox.close(CloseReason::MessageTooBig);
                return false;
            }
            Ok(FromClient::Publish(publish)) => self.publish(&publish),
            Ok(FromClient::Join(join)) => self.join(&join, message),
            Ok(FromClient::Leave(channels)) => self.leave(&channels),
            Ok(FromClient::Presence(presence)) => self.presence(&presence),
            Err(error) => {
                self.server.counters.bad_messages.fetch_add(1, Relaxed);
                let ack = message.text().filter(|_| self.connection.speaks_v1()).and_then(FromClient::ack_of);
                self.answer(ErrorReply::BadMessage { error, ack }.encode());
            }
        }
        true
    }

    fn publish(&mut self, publish: &Publish<'_>) {
        if !self.claims.may_write(&publish.channel) {
            self.server.counters.forbidden.fetch_add(1, Relaxed);
            let reply = ErrorReply::Forbidden { channel: &publish.channel, ack: publish.ack };
            return self.answer(reply.encode());
        }
        let shown = self.live.settings.websocket.show_subject;
        let delivery = Delivery {
            issuer: self.id,
            channel: &publish.channel,
            data: publish.data,
            subject: self.claims.subject().filter(|_| shown),
        };
        if self.server.cluster.is_some() {
            if let Err(error) = publishing::check_length(self.server, &delivery, 1, None) {
                self.server.counters.bad_messages.fetch_add(1, Relaxed);
                return self.answer(ErrorReply::BadMessage { error, ack: publish.ack }.encode());
            }
            self.passes_on = true;
        }
        if publishing::has_log(self.server) {
            let waiter =
                Waiter::Client { connection: self.connection.clone(), ack: publish.ack.map(Into::into) };
            return publishing::append(self.server, &delivery, &[self.connection.id()], None, waiter);
        }
        // Followers are told how many readers each message had, so each message is then queued by itself.
        let followed = self.server.events.follow_messages();
        if followed || !self.batch.takes(&publish.channel) {
            queue(self.server, self.connection, self.batch, self.flush_list);
        }
        self.batch.add(&delivery);
        if let Some(ack) = publish.ack {
            self.batch.ask(ack);
        }
        if followed {
            let readers = queue(self.server, self.connection, self.batch, self.flush_list);
            self.server.events.tell_message(&delivery, readers);
        }
    }

    /// Closes a connection that reads nothing any more at once: what it asks for here has no true answer. It would have been
    /// closed a little later.
    pub(super) fn close_detached(&self) -> bool {
        let detached = self.connection.is_detached();
        if detached {
            self.connection.outbox.close(CloseReason::ClusterGap);
        }
        detached
    }

    /// Replaces the claims by those of another token. Earlier messages are published with the old token, later ones
    /// with the new.
    #[cold]
    fn authenticate(&mut self, auth: &Auth<'_>, message: Data<'_>) {
        self.send();
        self.auths.count += u32::from(!self.has_waited);
        if self.auths.count > MAX_AUTHS_PER_SECOND {
            return self.answer(ErrorReply::TooManyAuths(MAX_AUTHS_PER_SECOND).encode());
        }
        if self.server.cluster.is_some()
            && !self.has_waited
            // Whether it is valid is checked again below, and answered there.
            && let Ok(claims) = admission::verify(self.live, &auth.token)
            && let read = claims.read().iter().map(ChannelName::checked).collect::<Vec<_>>()
            && self.waits(message, &read, &auth.since)
        {
            return;
        }
        let claims = match admission::renew(self.server, self.live, self.seat, &auth.token) {
            Ok(claims) => claims,
            Err(Rejection::Subject { .. }) => {
                self.connection.outbox.close(CloseReason::SubjectRefused);
                return;
            }
            Err(rejection) => {
                return self.answer(ErrorReply::Unauthorized(&rejection.to_string()).encode());
            }
        };
        self.end_waiting();
        let before = self.claims.expires();
        let (connection, flush_list, live) = (self.connection, &mut *self.flush_list, self.live);
        let max = live.policy.channels;
        self.server.hub.replace_claims(connection, Arc::new(claims), &auth.since, max, |positions, left| {
            if !left.is_empty() {
                answer(connection, encode_left(left), flush_list);
            }
            answer(connection, access_frame(connection, positions, live), flush_list);
        });
        self.close_detached();
        self.pause |= !auth.since.is_empty();
        self.server.heartbeats.refile(connection, before);
        self.claims = connection.claims();
        // A reload or a ban that began meanwhile has looked at the old token.
        if let Some(reason) = admission::revoked(self.server, &self.claims) {
            connection.outbox.close(reason);
        }
    }

    /// Answers that something was over the rate and not handled. Returns false if the excess lasted too long.
    ///
    /// On philote.v1 every message that expects an answer gets this one. Otherwise the client could not tell what to
    /// send again.
    #[cold]
    pub(crate) fn over_rate(&mut self, verdict: Verdict, received: &Received<'_>) -> bool {
        self.server.counters.rate_limited.fetch_add(1, Relaxed);
        match verdict {
            Verdict::Refused { answer } => {
                let message = if let Received::Message(message) = received { message.text() } else { None };
                let text = message.filter(|_| self.connection.speaks_v1());
                let ack = text.and_then(FromClient::ack_of);
                if answer || ack.is_some() || text.is_some_and(FromClient::is_request) {
                    let rates = rates_of(&self.live.settings.limits);
                    self.answer(ErrorReply::RateLimited { ack, rates }.encode());
                }
            }
            Verdict::Close => {
                // Earlier messages are published.
                self.send();
                self.connection.outbox.close(CloseReason::RateLimited);
            }
            Verdict::Taken => {}
        }
        verdict != Verdict::Close
    }

    /// Queues the gathered messages to their readers.
    pub(crate) fn send(&mut self) {
        queue(self.server, self.connection, self.batch, self.flush_list);
    }

    /// Sends a frame to the client, in order with its other messages.
    pub(crate) fn answer(&mut self, frame: Frame) {
        if self.batch.is_asked() {
            self.send();
        }
        answer(self.connection, frame, self.flush_list);
    }
}

/// Queues the gathered messages to their readers, and to the publisher the answers that it asked for.
fn queue(
    server: &Server,
    publisher: &Arc<Connection>,
    batch: &mut Batch,
    flush_list: &mut FlushList,
) -> usize {
    let readers = publishing::publish_batch(server, publisher, batch, flush_list);
    if let Some(acks) = batch.take_acks(publishing::count(server, readers)) {
        answer(publisher, acks, flush_list);
    }
    readers
}

pub(super) fn answer(connection: &Arc<Connection>, frame: Frame, flush_list: &mut FlushList) {
    // A connection that closes gets no answer.
    let _ = flush_list.push(connection, &frame);
}
