//! `POST /api/publish`.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use crate::message::ApiMessage;
use crate::server::Server;
use crate::server::http::answer::{Answer, json_answer};
use crate::server::ops::publish::{PublishError, publish};
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
    let readers = publish(server, &messages, Some(claims)).await?;
    let published: Vec<_> = messages
        .iter()
        .zip(readers)
        .map(|(message, readers)| json!({"channel": message.publish.channel, "readers": readers}))
        .collect();
    Ok(json_answer(StatusCode::OK, json!({"published": published}).to_string()))
}

impl From<PublishError> for Rejection {
    fn from(error: PublishError) -> Rejection {
        match error {
            PublishError::Forbidden(channel) => Rejection::Channel(channel),
            PublishError::TooLarge { .. } => Rejection::BadMessage(error.to_string()),
        }
    }
}
