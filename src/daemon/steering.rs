//! Actions of administrators on clients: disconnect, ban, publish.

use std::sync::Arc;

use tokio::runtime::Handle;
use uuid::Uuid;

use super::listing::matches;
use crate::admin::api::{
    Code, DisconnectRequest, Disconnected, Failure, IdPrefix, Lifted, PublishRequest, Published,
    PublishedMessage, RefusedSubject, RefusedSubjects, Timestamp,
};
use crate::message::{ChannelName, Publish};
use crate::server::{BanError, Leave, Server, unix_now};

/// Prefixes of ids in one request. Each is compared with the id of every connection.
const MAX_PREFIXES: usize = 100;

/// Disconnects, bans and publishes for administrators.
pub(super) struct Steering {
    server: Arc<Server>,
    /// The runtime of the connections; the admin thread has another.
    runtime: Handle,
}

impl Steering {
    /// Acts on `server`, whose tasks run on `runtime`.
    pub(super) fn new(server: Arc<Server>, runtime: Handle) -> Steering {
        Steering { server, runtime }
    }

    pub(super) fn disconnect(&self, request: &DisconnectRequest) -> Result<Disconnected, Failure> {
        check(request)?;
        let until = request.refuse_for.map(|seconds| unix_now().saturating_add(seconds));
        let matched = if request.dry_run {
            self.matching(request)?.len()
        } else {
            let leave = match (&request.subject, until) {
                (Some(subject), Some(until)) => Leave::Refused { subject, until },
                _ if request.reconnect => Leave::ToReconnect,
                _ => Leave::ForGood,
            };
            // Spreading closes over time takes a task.
            let _entered = self.runtime.enter();
            self.server.disconnect(&leave, || self.matching(request))?
        };
        Ok(Disconnected {
            matched: matched as u64,
            dry_run: request.dry_run,
            refused_until: until.map(Timestamp::from_unix),
        })
    }

    /// Returns the connections that match a request, except those that are closing.
    fn matching(&self, request: &DisconnectRequest) -> Result<Vec<Uuid>, Failure> {
        let (channel, subject) = (request.channel.as_deref(), request.subject.as_deref());
        let mut ids = Vec::new();
        let mut look_at = |connection: &Arc<crate::hub::Connection>| {
            let open = connection.outbox.closing().is_none();
            if open && matches(connection, channel, subject, request.address) {
                ids.push(connection.id());
            }
        };
        let hub = &self.server.hub;
        if request.ids.is_empty() {
            hub.each_connection(look_at);
            return Ok(ids);
        }
        request.ids.iter().filter_map(|id| hub.connection(&id.whole()?)).for_each(|found| look_at(&found));
        let prefixes: Vec<&IdPrefix> = request.ids.iter().filter(|id| id.whole().is_none()).collect();
        let mut found = vec![0_u32; prefixes.len()];
        if !prefixes.is_empty() {
            hub.each_connection(|connection| {
                for (prefix, count) in prefixes.iter().zip(&mut found) {
                    if prefix.matches(&connection.id()) {
                        *count += 1;
                        look_at(connection);
                    }
                }
            });
        }
        if let Some((prefix, count)) = prefixes.iter().zip(found).find(|(_, count)| *count > 1) {
            let message = format!("{count} connections have ids that begin with {prefix}");
            return Err(Failure::new(Code::Refused, message).hint("give a longer prefix"));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    pub(super) fn refused(&self) -> RefusedSubjects {
        let subject = |(subject, until): (Box<str>, u64)| RefusedSubject {
            subject: subject.into(),
            until: Timestamp::from_unix(until),
        };
        let refused = self.server.bans.list(unix_now());
        RefusedSubjects { refused: refused.into_iter().map(subject).collect() }
    }

    pub(super) fn lift(&self, subject: &str) -> Result<Lifted, Failure> {
        let lifted = self.server.bans.lift(subject, unix_now())?;
        Ok(Lifted { matched: lifted.into() })
    }

    pub(super) fn publish(&self, request: &PublishRequest) -> Result<Published, Failure> {
        let live = self.server.live_full();
        let limits = (live.settings.limits.channel_name_bytes, live.settings.websocket.max_message_size);
        let mut texts = Vec::with_capacity(request.messages.len());
        for (at, message) in request.messages.iter().enumerate() {
            let refuse = |why: String| Failure::new(Code::Refused, format!("message {at}: {why}"));
            ChannelName::check(&message.channel, limits.0).map_err(|error| refuse(error.to_string()))?;
            let text = message.data.as_ref().map(serde_json::to_string).transpose();
            let text = text.map_err(|error| refuse(error.to_string()))?;
            if text.as_ref().is_some_and(|text| text.len() > limits.1) {
                return Err(refuse(format!("data is longer than max_message_size, {} bytes", limits.1)));
            }
            texts.push(text);
        }
        let messages: Vec<Publish<'_>> = request
            .messages
            .iter()
            .zip(&texts)
            .map(|(message, data)| Publish {
                channel: message.channel.as_str().into(),
                data: data.as_deref(),
                ack: None,
            })
            .collect();
        let readers = self
            .runtime
            .block_on(self.server.publish(messages.iter().map(|message| (message, &[][..])), None));
        let published = request.messages.iter().zip(readers).map(|(message, readers)| PublishedMessage {
            channel: message.channel.clone(),
            readers: readers as u64,
        });
        Ok(Published { published: published.collect() })
    }
}

/// Checks that a request selects connections without contradicting itself.
fn check(request: &DisconnectRequest) -> Result<(), Failure> {
    let DisconnectRequest { ids, channel, subject, address, all, reconnect, refuse_for, .. } = request;
    let others = !ids.is_empty() || channel.is_some() || address.is_some();
    let wrong = match () {
        () if *all && (others || subject.is_some()) => {
            "all selects every connection: leave out the other filters"
        }
        () if !*all && !others && subject.is_none() => {
            "the request selects nobody: give ids, channel, subject, address or all"
        }
        () if refuse_for.is_some() && (others || subject.is_none()) => {
            "refuse_for bans a subject: give subject and no other filter"
        }
        () if refuse_for.is_some() && *reconnect => "refuse_for and reconnect exclude each other",
        () if *refuse_for == Some(0) => "refuse_for must be at least 1 second",
        () if ids.iter().filter(|id| id.whole().is_none()).count() > MAX_PREFIXES => {
            "at most 100 ids may be prefixes"
        }
        () => return Ok(()),
    };
    Err(Failure::new(Code::BadRequest, wrong))
}

impl From<BanError> for Failure {
    fn from(error: BanError) -> Failure {
        match error {
            BanError::TooMany => Failure::new(Code::Conflict, error.to_string())
                .hint("lift some: philotectl refused --remove SUBJECT"),
            BanError::Spreads(_) => Failure::new(Code::Conflict, error.to_string())
                .hint("nothing was done: try again when they are finished"),
            BanError::NotRemembered(error) => {
                Failure::new(Code::Internal, error.to_string()).hint("nothing was changed")
            }
        }
    }
}
