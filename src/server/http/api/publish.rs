//! `POST /api/publish`.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::Serialize;
use tokio::time::Instant;

use crate::message::{ApiMessage, ReaderCount};
use crate::server::Server;
use crate::server::accept::pending::Waiting;
use crate::server::http::answer::{Answer, json_answer};
use crate::server::ops::publish::{Outcome, PublishError, Published, publish, unpublished};
use crate::server::rejection::Rejection;
use crate::token::Claims;

/// The longest body, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Publishes one message or an array of messages: all, or none if one is invalid. The batch is completed even if the
/// client disconnects.
pub(super) async fn answer(
    server: &Arc<Server>,
    waiting: &Waiting,
    claims: Claims,
    deadline: Instant,
    request: Request<Incoming>,
) -> Result<Answer, Rejection> {
    let body = super::body(request, waiting, MAX_BODY_BYTES, deadline).await?;
    let batch = {
        let server = server.clone();
        async move { publish_body(&server, &claims, &body).await }
    };
    server.background.publish(deadline, batch).await.flatten()
}

async fn publish_body(server: &Arc<Server>, claims: &Claims, body: &[u8]) -> Result<Answer, Rejection> {
    let text = std::str::from_utf8(body).map_err(|_| Rejection::BadRequest("the body must be UTF-8 text"))?;
    let channel_name_bytes = server.live().settings.limits.channel_name_bytes;
    let messages = ApiMessage::parse_many(text, channel_name_bytes)
        .map_err(|(at, error)| Rejection::BadMessage(format!("message {at}: {error}")))?;
    let published = publish(server, &messages, Some(claims)).await?;
    let entries = messages.iter().zip(&published).map(|(message, published)| entry(message, published));
    let mut body = Body { error: None, message: None, published: entries.collect() };
    let mut status = StatusCode::OK;
    if let Some(sentence) = unpublished(server, &published) {
        let is_unavailable = |published: &Published| published.outcome == Outcome::Unavailable;
        status = StatusCode::SERVICE_UNAVAILABLE;
        body.error = Some(if published.iter().any(is_unavailable) { UNAVAILABLE } else { UNANSWERED });
        body.message = Some(sentence);
    }
    let text = serde_json::to_string(&body).map_err(|_| Rejection::Internal)?;
    Ok(json_answer(status, text))
}

const UNAVAILABLE: &str = "unavailable";
const UNANSWERED: &str = "unanswered";

/// The body of an answer.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    published: Vec<Entry<'a>>,
}

/// What became of one message. A batch may have tens of thousands.
#[derive(Default, Serialize)]
struct Entry<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// In a cluster `null`, because only the readers on this node are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    readers: Option<Option<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    readers_here: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeated: Option<bool>,
}

fn entry<'a>(message: &'a ApiMessage<'_>, published: &Published) -> Entry<'a> {
    let mut entry = Entry { channel: &message.publish.channel, ..Entry::default() };
    match published.outcome {
        Outcome::Unavailable => entry.error = Some(UNAVAILABLE),
        Outcome::Unanswered => entry.error = Some(UNANSWERED),
        Outcome::Published | Outcome::Repeated => {
            (entry.readers, entry.readers_here) = match published.readers {
                ReaderCount::All(readers) => (Some(Some(readers)), None),
                ReaderCount::Here(here) => (Some(None), Some(here)),
            };
            entry.id = published.id.map(|id| id.to_string());
            entry.repeated = (published.outcome == Outcome::Repeated).then_some(true);
        }
    }
    entry
}

impl From<PublishError> for Rejection {
    fn from(error: PublishError) -> Rejection {
        match error {
            PublishError::Forbidden(channel) => Rejection::Channel(channel),
            _ => Rejection::BadMessage(error.to_string()),
        }
    }
}
