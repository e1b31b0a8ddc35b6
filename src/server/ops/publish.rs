//! Publishes messages of administrators and backends.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::hub::FlushList;
use crate::message::{ApiMessage, Delivery, Publish};
use crate::server::{Server, publishing};
use crate::token::Claims;

/// The most messages of a batch that are queued before they are written to the sockets.
const MESSAGES_PER_FLUSH: usize = 256;

/// The most bytes of a batch that are queued before they are written to the sockets.
const BYTES_PER_FLUSH: usize = 64 * 1024;

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
        }
    }
}

/// Publishes all messages, or none if one is invalid, and returns for how many readers each was queued.
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
) -> Result<Vec<usize>, PublishError> {
    let live = server.live_owned();
    let max = live.settings.websocket.max_message_size;
    for (at, ApiMessage { publish, .. }) in messages.iter().enumerate() {
        if claims.is_some_and(|claims| !claims.may_publish(&publish.channel)) {
            return Err(PublishError::Forbidden(publish.channel.clone().into_owned()));
        }
        if publish.data.is_some_and(|data| data.len() > max) {
            return Err(PublishError::TooLarge { at, max });
        }
    }
    let subject = claims.and_then(|claims| claims.subject.as_deref());
    let subject = subject.filter(|_| live.settings.websocket.show_subject);
    let batch = messages.iter().map(|message| (&message.publish, message.excluded.as_slice()));
    Ok(publish_batch(server, batch, subject).await)
}

/// Publishes checked messages with the daemon's id as issuer, each to all readers except the excluded ones. Returns for
/// how many readers each was queued.
pub(in crate::server) async fn publish_batch<'a>(
    server: &Arc<Server>,
    messages: impl ExactSizeIterator<Item = (&'a Publish<'a>, &'a [Uuid])>,
    subject: Option<&str>,
) -> Vec<usize> {
    let mut id = [0; Hyphenated::LENGTH];
    let id = server.id().hyphenated().encode_lower(&mut id);
    let count = messages.len();
    let mut published = Vec::with_capacity(count);
    let mut flush_list = FlushList::new();
    let mut bytes = 0;
    for (message, excluded) in messages {
        let delivery = Delivery { issuer: id, channel: &message.channel, data: message.data, subject };
        let readers = publishing::publish(server, &delivery, excluded, &mut flush_list);
        server.events.tell_message(&delivery, readers);
        published.push(readers);
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
        }
    }
    server.counters.messages_in.fetch_add(count as u64, Relaxed);
    published
}
