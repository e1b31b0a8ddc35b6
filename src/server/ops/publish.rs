//! Publishes messages of administrators and backends.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::cluster::{Appended, Waiter};
use crate::hub::{FlushList, Queued};
use crate::message::{ApiMessage, BadMessage, Delivery, MessageId, Publish, ReaderCount};
use crate::server::{Server, publishing};
use crate::token::Claims;

/// The most messages of a batch that are queued before they are written to the sockets.
const MESSAGES_PER_FLUSH: usize = 256;

/// The most bytes of a batch that are queued before they are written to the sockets.
const BYTES_PER_FLUSH: usize = 64 * 1024;

/// How long a batch waits for room in the log of a cluster, all in all. Then the rest waits there until it is given up.
const ROOM: Duration = Duration::from_secs(2);

/// Why a batch was not published.
#[derive(Debug)]
pub enum PublishError {
    /// The token does not allow publishing on this channel.
    Forbidden(String),
    /// The data of a message exceeds `[websocket] max_message_size`.
    TooLarge {
        /// The index of the message, counted from 0.
        at: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A message cannot pass between the nodes of the cluster.
    Invalid {
        /// The index of the message, counted from 0.
        at: usize,
        /// Why.
        error: BadMessage,
    },
    /// A message has a `key`, which only the log of a cluster knows.
    KeyWithoutLog {
        /// The index of the message, counted from 0.
        at: usize,
    },
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::Forbidden(channel) => {
                write!(f, "this token may not publish on channel \"{channel}\"")
            }
            PublishError::TooLarge { at, max } => {
                write!(f, "message {at}: data is longer than max_message_size, {max} bytes")
            }
            PublishError::Invalid { at, error } => write!(f, "message {at}: {error}"),
            PublishError::KeyWithoutLog { at } => {
                write!(f, "message {at}: key needs a cluster with a history")
            }
        }
    }
}

/// What became of a message.
#[derive(Debug)]
pub struct Published {
    /// The readers to which it was queued.
    pub readers: ReaderCount,
    /// Its id, if its channel has a history.
    pub id: Option<MessageId>,
    /// Whether it was published.
    pub outcome: Outcome,
}

/// Returns why messages of a batch were not published, or may not have been. `None` if all were.
pub fn unpublished(server: &Server, published: &[Published]) -> Option<String> {
    let count = |outcome| published.iter().filter(|published| published.outcome == outcome).count();
    let (unavailable, unanswered) = (count(Outcome::Unavailable), count(Outcome::Unanswered));
    match (unavailable + unanswered, &server.cluster) {
        (0, _) => None,
        (_, Some(_)) => Some(format!(
            "of {} messages the cluster could not store {unavailable}, and did not confirm {unanswered}, which may have been \
             published or not",
            published.len()
        )),
        (refused, None) => Some(format!(
            "of {} messages {refused} were not published, because this daemon stops",
            published.len()
        )),
    }
}

/// Whether a message was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was.
    Published,
    /// It was already: this is a repetition of a message with the same key.
    Repeated,
    /// It was not, because the log of the cluster cannot store it now, or because this daemon stops.
    Unavailable,
    /// The log of the cluster did not confirm it: it may have been published or not.
    Unanswered,
}

/// Publishes all messages as [`publish_by`] does.
///
/// The holder of `claims` needs the right to publish on each channel, and readers see its subject if `[websocket]
/// show_subject` is set. An administrator has no claims and may publish on every channel.
///
/// # Errors
/// The first invalid message. Nothing was published.
pub async fn publish(
    server: &Arc<Server>,
    messages: &[ApiMessage<'_>],
    claims: Option<&Claims>,
) -> Result<Vec<Published>, PublishError> {
    let subject = claims.and_then(|claims| claims.subject());
    publish_by(server, messages, subject, |channel| claims.is_none_or(|claims| claims.may_publish(channel)))
        .await
}

/// Publishes all messages, or none if one is invalid, and returns what became of each. `may` tells on which channels the
/// publisher may publish.
///
/// # Errors
/// The first invalid message. Nothing was published.
pub(crate) async fn publish_by(
    server: &Arc<Server>,
    messages: &[ApiMessage<'_>],
    subject: Option<&str>,
    may: impl Fn(&str) -> bool,
) -> Result<Vec<Published>, PublishError> {
    let live = server.live_owned();
    let max = live.settings.websocket.max_message_size;
    let has_log = publishing::has_log(server);
    let subject = subject.filter(|_| live.settings.websocket.show_subject);
    let mut id = [0; Hyphenated::LENGTH];
    let issuer = &*server.id().hyphenated().encode_lower(&mut id);
    for (at, ApiMessage { publish, key, excluded }) in messages.iter().enumerate() {
        if !may(&publish.channel) {
            return Err(PublishError::Forbidden(publish.channel.clone().into_owned()));
        }
        if publish.data.is_some_and(|data| data.len() > max) {
            return Err(PublishError::TooLarge { at, max });
        }
        let invalid = |error| PublishError::Invalid { at, error };
        let delivery = Delivery { issuer, channel: &publish.channel, data: publish.data, subject };
        publishing::check_length(server, &delivery, excluded.len(), key.as_deref()).map_err(invalid)?;
        if key.is_some() && !has_log {
            return Err(PublishError::KeyWithoutLog { at });
        }
    }
    if has_log {
        return Ok(append_batch(server, messages, subject).await);
    }
    let batch = messages.iter().map(|message| (&message.publish, message.excluded.as_slice()));
    let queued = publish_batch(server, batch, subject).await;
    let published = |queued: Queued| Published {
        readers: publishing::count(server, queued.readers),
        id: queued.last,
        outcome: if queued.refused { Outcome::Unavailable } else { Outcome::Published },
    };
    Ok(queued.into_iter().map(published).collect())
}

/// Publishes checked messages by the log of the cluster, and waits until it has stored each or given it up.
async fn append_batch(
    server: &Arc<Server>,
    messages: &[ApiMessage<'_>],
    subject: Option<&str>,
) -> Vec<Published> {
    let mut id = [0; Hyphenated::LENGTH];
    let issuer = &*server.id().hyphenated().encode_lower(&mut id);
    let mut outcomes = Vec::with_capacity(messages.len());
    let deadline = Instant::now() + ROOM;
    for ApiMessage { publish, excluded, key } in messages {
        let (sender, outcome) = oneshot::channel();
        let delivery = Delivery { issuer, channel: &publish.channel, data: publish.data, subject };
        publishing::append(server, &delivery, excluded, key.as_deref(), Waiter::Caller(sender));
        outcomes.push(outcome);
        if outcomes.len() % MESSAGES_PER_FLUSH == 0 {
            let _ = timeout_at(deadline, room(server)).await;
        }
    }
    server.counters.messages_in.fetch_add(messages.len() as u64, Relaxed);
    let mut published = Vec::with_capacity(messages.len());
    for (message, outcome) in messages.iter().zip(outcomes) {
        // Every waiter is told, at the latest when the message is overdue.
        let appended = outcome.await.unwrap_or(Appended::Unanswered);
        let readers = ReaderCount::Here(server.hub.readers_of(&message.publish.channel));
        let (id, outcome) = match appended {
            Appended::Stored { number, repeated } => {
                let outcome = if repeated { Outcome::Repeated } else { Outcome::Published };
                (number.and_then(|number| server.hub.log_id(&message.publish.channel, number)), outcome)
            }
            Appended::Unavailable => (None, Outcome::Unavailable),
            Appended::Unanswered => (None, Outcome::Unanswered),
        };
        published.push(Published { readers, id, outcome });
    }
    published
}

/// Publishes checked messages with the daemon's id as issuer, each to all readers except the excluded ones. Returns for
/// how many readers each was queued, and its id.
async fn publish_batch<'a>(
    server: &Arc<Server>,
    messages: impl ExactSizeIterator<Item = (&'a Publish<'a>, &'a [Uuid])>,
    subject: Option<&str>,
) -> Vec<Queued> {
    let mut id = [0; Hyphenated::LENGTH];
    let id = server.id().hyphenated().encode_lower(&mut id);
    let count = messages.len();
    let mut published = Vec::with_capacity(count);
    let mut flush_list = FlushList::new();
    let mut bytes = 0;
    for (message, excluded) in messages {
        let delivery = Delivery { issuer: id, channel: &message.channel, data: message.data, subject };
        let queued = publishing::publish(server, &delivery, excluded, &mut flush_list);
        if !queued.refused {
            server.events.tell_message(&delivery, queued.readers);
        }
        published.push(queued);
        bytes += message.data.map_or(0, str::len);
        let at = published.len();
        if at % MESSAGES_PER_FLUSH == 0 || bytes > BYTES_PER_FLUSH || at == count {
            bytes = 0;
            match server.flusher.flush(&mut flush_list) {
                Some(mut writing) => {
                    std::future::poll_fn(|context| writing.poll(context, &server.flusher)).await
                }
                // A long batch must not keep other tasks from this worker.
                None => tokio::task::yield_now().await,
            }
            room(server).await;
        }
    }
    server.counters.messages_in.fetch_add(count as u64, Relaxed);
    published
}

/// Waits until the cluster has room for more, if there is one.
async fn room(server: &Server) {
    if let Some(ticket) = server.cluster.as_ref().and_then(|cluster| cluster.ticket()) {
        let _ = ticket.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides, load};
    use crate::hub::Boot;

    #[tokio::test]
    async fn nothing_is_published_after_the_histories_were_handed_over() {
        let variables =
            [("SECRET", "a secret of more than thirty-two characters"), ("PHILOTE_HISTORY_MESSAGES", "5")];
        let settings = load(&Overrides::default(), &Environment::new(variables)).unwrap().settings;
        let server = Server::new(settings, 1024);
        let messages =
            ApiMessage::parse_many(r#"[{"channel": "a"}, {"channel": "b", "data": "x"}]"#, 255).unwrap();
        let published = publish(&server, &messages, None).await.unwrap();
        assert!(published.iter().all(|one| one.outcome == Outcome::Published && one.id.is_some()));
        assert_eq!(unpublished(&server, &published), None);
        let handed = server.hub.hand_over(Vec::new(), &Boot { id: None, ends_with_it: true }).unwrap();
        assert_eq!((handed.channels, handed.messages), (2, 2));
        let published = publish(&server, &messages, None).await.unwrap();
        assert!(published.iter().all(|one| one.outcome == Outcome::Unavailable && one.id.is_none()));
        let sentence = "of 2 messages 2 were not published, because this daemon stops";
        assert_eq!(unpublished(&server, &published).as_deref(), Some(sentence));
    }
}
