//! `POST /api/publish`.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::message::{ApiMessage, ReaderCount};
use crate::server::Server;
use crate::server::http::answer::{Answer, json_answer};
use crate::server::ops::publish::{Outcome, PublishError, Published, publish};
use crate::server::rejection::Rejection;
use crate::token::Claims;

/// The longest body, in bytes.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Publishes one message or an array of messages: all, or none if one is invalid. The batch is completed even if the
/// client disconnects.
pub(super) async fn answer(
    server: &Arc<Server>,
    claims: Claims,
    deadline: Instant,
    request: Request<Incoming>,
) -> Result<Answer, Rejection> {
    let body = super::body(request, MAX_BODY_BYTES, deadline).await?;
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
    let count = |outcome| published.iter().filter(|published| published.outcome == outcome).count();
    let (unavailable, unanswered) = (count(Outcome::Unavailable), count(Outcome::Unanswered));
    let entries: Vec<Value> = messages
        .iter()
        .zip(&published)
        .map(|(message, published)| entry(&message.publish.channel, published))
        .collect();
    if unavailable + unanswered == 0 {
        return Ok(json_answer(StatusCode::OK, json!({"published": entries}).to_string()));
    }
    let error = if unavailable > 0 { "unavailable" } else { "unanswered" };
    let message = format!(
        "of {} messages the cluster could not store {unavailable}, and did not confirm {unanswered}, which may have been \
         published or not",
        messages.len()
    );
    let body = json!({"error": error, "message": message, "published": entries}).to_string();
    Ok(json_answer(StatusCode::SERVICE_UNAVAILABLE, body))
}

/// Makes the entry of one message.
fn entry(channel: &str, published: &Published) -> Value {
    let error = match published.outcome {
        Outcome::Unavailable => "unavailable",
        Outcome::Unanswered => "unanswered",
        Outcome::Published | Outcome::Repeated => {
            let mut entry = match published.readers {
                ReaderCount::All(readers) => json!({"channel": channel, "readers": readers}),
                ReaderCount::Here(here) => json!({"channel": channel, "readers": null, "readers_here": here}),
            };
            if let Some(id) = published.id {
                entry["id"] = id.to_string().into();
            }
            if published.outcome == Outcome::Repeated {
                entry["repeated"] = true.into();
            }
            return entry;
        }
    };
    json!({"channel": channel, "error": error})
}

impl From<PublishError> for Rejection {
    fn from(error: PublishError) -> Rejection {
        match error {
            PublishError::Forbidden(channel) => Rejection::Channel(channel),
            _ => Rejection::BadMessage(error.to_string()),
        }
    }
}
