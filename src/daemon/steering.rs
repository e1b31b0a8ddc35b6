//! What the administrator does to connections: disconnect, keep out, publish to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use uuid::Uuid;

use super::listing::is_meant;
use super::refused_file::RefusedFile;
use crate::admin::api::{
    Code, DisconnectRequest, Disconnected, Failure, IdPrefix, Lifted, PublishRequest, Published,
    PublishedMessage, RefusedSubject, RefusedSubjects, Timestamp,
};
use crate::close::CloseReason;
use crate::message::{ChannelName, Publish};
use crate::server::{MAX_REFUSED, Server, unix_now};
use crate::sync::lock;

/// Connections that are closed at once; of more, so many a second, because their clients may all come back.
const AT_ONCE: usize = 1000;

/// Ids in one request that are not whole: each is compared with every connection's.
const MAX_PREFIXES: usize = 100;

/// Closes connections and keeps subjects out.
pub(super) struct Steering {
    server: Arc<Server>,
    /// Where connections live, which the admin thread is not.
    runtime: Handle,
    refused: std::sync::Mutex<RefusedFile>,
}

impl Steering {
    /// Steers `server`, whose tasks run on `runtime`. Who is kept out is taken from `refused`.
    pub(super) fn new(server: Arc<Server>, runtime: Handle, refused: RefusedFile) -> Steering {
        Steering { server, runtime, refused: std::sync::Mutex::new(refused) }
    }

    pub(super) fn disconnect(&self, request: &DisconnectRequest) -> Result<Disconnected, Failure> {
        check(request)?;
        let ids = self.meant(request)?;
        let until = request.refuse_for.map(|seconds| unix_now().saturating_add(seconds));
        let mut answer = Disconnected {
            matched: ids.len() as u64,
            dry_run: request.dry_run,
            refused_until: until.map(Timestamp::from_unix),
        };
        if request.dry_run {
            return Ok(answer);
        }
        let reason = match (request.reconnect, &request.subject, until) {
            (true, ..) => CloseReason::Restarting,
            (false, Some(subject), Some(until)) => {
                self.change_refused(|refused| {
                    refused.retain(|(refused, _)| **refused != **subject);
                    refused.push((subject.as_str().into(), until));
                })?;
                CloseReason::SubjectRefused
            }
            _ => CloseReason::Disconnected,
        };
        // Once more for a subject that is kept out: who came in before the door was shut.
        let ids = if until.is_some() { self.meant(request)? } else { ids };
        answer.matched = self.close(ids, reason);
        Ok(answer)
    }

    /// The connections that a request means, except those that are on their way out.
    fn meant(&self, request: &DisconnectRequest) -> Result<Vec<Uuid>, Failure> {
        let (channel, subject) = (request.channel.as_deref(), request.subject.as_deref());
        let mut ids = Vec::new();
        let mut look_at = |connection: &Arc<crate::hub::Connection>| {
            let open = connection.outbox.closing().is_none();
            if open && is_meant(connection, channel, subject, request.address) {
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
            let message = format!("the ids of {count} connections begin with {prefix}");
            return Err(Failure::new(Code::Refused, message).hint("give more of the id"));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Closes connections, a few at once and many by and by; returns how many.
    fn close(&self, ids: Vec<Uuid>, reason: CloseReason) -> u64 {
        if ids.len() > AT_ONCE {
            let count = ids.len() as u64;
            let spread = Duration::from_secs(count / AT_ONCE as u64);
            let server = self.server.clone();
            self.runtime.spawn(async move { server.close_spread(ids, reason, spread).await });
            return count;
        }
        let connections = ids.iter().filter_map(|id| self.server.hub.connection(id));
        connections.filter(|connection| connection.outbox.close(reason)).count() as u64
    }

    pub(super) fn refused(&self) -> RefusedSubjects {
        let subject = |(subject, until): (Box<str>, u64)| RefusedSubject {
            subject: subject.into(),
            until: Timestamp::from_unix(until),
        };
        let refused = self.server.refused_subjects.list(unix_now());
        RefusedSubjects { refused: refused.into_iter().map(subject).collect() }
    }

    pub(super) fn lift(&self, subject: &str) -> Result<Lifted, Failure> {
        let mut matched = 0;
        self.change_refused(|refused| {
            let before = refused.len();
            refused.retain(|(refused, _)| **refused != *subject);
            matched = (before - refused.len()) as u64;
        })?;
        Ok(Lifted { matched })
    }

    /// Changes who is kept out: on the disk first, so that what was promised to hold does.
    fn change_refused(&self, change: impl FnOnce(&mut Vec<(Box<str>, u64)>)) -> Result<(), Failure> {
        let file = lock(&self.refused);
        let before = self.server.refused_subjects.list(unix_now());
        let mut refused = before.clone();
        change(&mut refused);
        if refused == before {
            return Ok(());
        }
        if refused.len() > MAX_REFUSED {
            let message = format!("{MAX_REFUSED} subjects are refused already");
            return Err(
                Failure::new(Code::Conflict, message).hint("lift some: philotectl refused --remove SUBJECT")
            );
        }
        file.save(&refused)
            .map_err(|error| Failure::new(Code::Internal, error.to_string()).hint("nothing was changed"))?;
        self.server.refused_subjects.set(refused);
        Ok(())
    }

    pub(super) fn publish(&self, request: &PublishRequest) -> Result<Published, Failure> {
        let live = self.server.live_full();
        let limits = (live.settings.limits.channel_name_bytes, live.settings.websocket.max_message_size);
        let mut texts = Vec::with_capacity(request.messages.len());
        for (at, message) in request.messages.iter().enumerate() {
            let refuse = |why: String| Failure::new(Code::Refused, format!("message {at}: {why}"));
            ChannelName::check(&message.channel, limits.0).map_err(|error| refuse(error.to_string()))?;
            let text = serde_json::to_string(&message.data).map_err(|error| refuse(error.to_string()))?;
            if text.len() > limits.1 {
                return Err(refuse(format!("data is over max_message_size, {} bytes", limits.1)));
            }
            texts.push(text);
        }
        let messages: Vec<Publish<'_>> = request
            .messages
            .iter()
            .zip(&texts)
            .map(|(message, data)| Publish { channel: message.channel.as_str().into(), data, ack: None })
            .collect();
        let readers = self.runtime.block_on(self.server.publish(&messages, None));
        let published = request.messages.iter().zip(readers).map(|(message, readers)| PublishedMessage {
            channel: message.channel.clone(),
            readers: readers as u64,
        });
        Ok(Published { published: published.collect() })
    }
}

/// Whether a request says whom it means, and nothing that contradicts it.
fn check(request: &DisconnectRequest) -> Result<(), Failure> {
    let DisconnectRequest { ids, channel, subject, address, all, reconnect, refuse_for, .. } = request;
    let others = !ids.is_empty() || channel.is_some() || address.is_some();
    let wrong = match () {
        () if *all && (others || subject.is_some()) => "all means everybody: give nothing beside it",
        () if !*all && !others && subject.is_none() => "say whom: ids, channel, subject, address or all",
        () if refuse_for.is_some() && (others || subject.is_none()) => {
            "refuse_for keeps a subject out: give a subject and nothing beside it"
        }
        () if refuse_for.is_some() && *reconnect => "who is refused can't be asked to reconnect",
        () if *refuse_for == Some(0) => "refuse_for must be a second at least",
        () if ids.iter().filter(|id| id.whole().is_none()).count() > MAX_PREFIXES => {
            "at most 100 ids may be cut short"
        }
        () => return Ok(()),
    };
    Err(Failure::new(Code::BadRequest, wrong))
}

/// Where it is remembered who is kept out.
pub(super) fn refused_file(state_directory: Option<PathBuf>) -> RefusedFile {
    RefusedFile::new(state_directory.map(|directory| directory.join("refused.json")))
}
