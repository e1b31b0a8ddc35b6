//! `POST /api/publish`, and the way that all goes which the daemon itself publishes.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::Background;
use crate::hub::FlushList;
use crate::message::{ApiMessage, Delivery, Publish};
use crate::server::Server;
use crate::server::flush::flush;
use crate::server::rejection::{Answer, Rejection, json_answer};
use crate::token::Claims;

/// The longest body, in bytes.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Messages of a batch that are queued before the outboxes on the flush list are written.
const MESSAGES_PER_FLUSH: usize = 256;

/// Bytes of a batch that are queued before the outboxes on the flush list are written.
const BYTES_PER_FLUSH: usize = 64 * 1024;

/// Publishes one message or an array of them: all, or none if one of them is bad, whether the client waits for that or
/// not.
pub(crate) async fn publish(
    server: &Arc<Server>,
    access: Claims,
    deadline: Instant,
    request: Request<Incoming>,
) -> Result<Answer, Rejection> {
    let body = crate::server::http::api::body(request, MAX_BODY_BYTES, deadline).await?;
    let batch = {
        let server = server.clone();
        async move { publish_all(&server, &access, &body).await }
    };
    Background::publish(server, deadline, batch).await.flatten()
}

async fn publish_all(server: &Arc<Server>, access: &Claims, body: &[u8]) -> Result<Answer, Rejection> {
    let text = std::str::from_utf8(body).map_err(|_| Rejection::BadRequest("the body must be UTF-8 text"))?;
    let live = server.live_full();
    let messages = ApiMessage::parse_many(text, live.settings.limits.channel_name_bytes)
        .map_err(|(at, error)| Rejection::BadMessage(format!("message {at}: {error}")))?;
    let max = live.settings.websocket.max_message_size;
    for (at, ApiMessage { publish, .. }) in messages.iter().enumerate() {
        if !access.may_publish(&publish.channel) {
            return Err(Rejection::Channel(publish.channel.clone().into_owned()));
        }
        if publish.data.is_some_and(|data| data.len() > max) {
            return Err(Rejection::BadMessage(format!(
                "message {at}: data is over max_message_size, {max} bytes"
            )));
        }
    }

    let subject = access.subject.as_deref().filter(|_| live.settings.websocket.show_subject);
    let each = messages.iter().map(|message| (&message.publish, message.excluded.as_slice()));
    let readers = server.publish(each, subject).await;
    let published: Vec<_> = messages
        .iter()
        .zip(readers)
        .map(|(message, readers)| json!({"channel": message.publish.channel, "readers": readers}))
        .collect();
    Ok(json_answer(StatusCode::OK, json!({"published": published}).to_string()))
}

impl Server {
    /// Publishes messages in the daemon's name, or a subject's, each to all readers but the excluded ones, and returns
    /// to how many readers each was queued.
    pub async fn publish<'a>(
        self: &Arc<Self>,
        messages: impl ExactSizeIterator<Item = (&'a Publish<'a>, &'a [Uuid])>,
        subject: Option<&str>,
    ) -> Vec<usize> {
        let mut id = [0; Hyphenated::LENGTH];
        let id = self.id().hyphenated().encode_lower(&mut id);
        let count = messages.len();
        let mut published = Vec::with_capacity(count);
        let mut flush_list = FlushList::new();
        let mut bytes = 0;
        for (message, excluded) in messages {
            let delivery = Delivery { issuer: id, channel: &message.channel, data: message.data, subject };
            let readers = if excluded.is_empty() {
                self.hub.publish(&delivery, None, &mut flush_list)
            } else {
                let excluded: Vec<_> = excluded.iter().filter_map(|id| self.hub.connection(id)).collect();
                self.hub.publish_except(&delivery, &excluded, &mut flush_list)
            };
            self.events.tell_message(&delivery, readers);
            published.push(readers);
            bytes += message.data.map_or(0, str::len);
            let at = published.len();
            if at % MESSAGES_PER_FLUSH == 0 || bytes > BYTES_PER_FLUSH || at == count {
                bytes = 0;
                match flush(self, &mut flush_list) {
                    Some(mut writing) => std::future::poll_fn(|context| writing.poll(context, self)).await,
                    // A long batch must not keep a worker from those who wait for it.
                    None => tokio::task::yield_now().await,
                }
            }
        }
        self.counters.messages_in.fetch_add(count as u64, Relaxed);
        published
    }
}
