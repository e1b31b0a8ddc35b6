//! HTTP for backends and monitors: health, info, publish.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use uuid::fmt::Hyphenated;

use super::flush::flush;
use super::handshake::Tokens;
use super::refusal::{Answer, json_answer};
use super::{Refusal, Server};
use crate::access_key::AccessKey;
use crate::hub::Touched;
use crate::message::{Delivery, Publish};

/// The longest body of `POST /api/publish`, in bytes.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Messages of a batch that are queued before what they touched is written.
const MESSAGES_PER_FLUSH: usize = 256;

/// Bytes of a batch that are queued before what they touched is written.
const BYTES_PER_FLUSH: usize = 64 * 1024;

/// Answers a request below `/health` or `/api`.
pub(super) async fn answer(server: &Arc<Server>, request: Request<Incoming>) -> Result<Answer, Refusal> {
    match request.uri().path() {
        "/health" => only_get(&request).map(|()| health(server, false)),
        "/health/ready" => only_get(&request).map(|()| health(server, true)),
        "/api/info" => {
            only_get(&request)?;
            api_access(server, &request)?;
            Ok(info(server))
        }
        "/api/publish" => {
            if request.method() != Method::POST {
                return Err(Refusal::Method("POST"));
            }
            let access = api_access(server, &request)?;
            publish(server, &access, request).await
        }
        _ => Err(Refusal::NotFound),
    }
}

fn only_get(request: &Request<Incoming>) -> Result<(), Refusal> {
    match *request.method() {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Refusal::Method("GET, HEAD")),
    }
}

fn api_access(server: &Server, request: &Request<Incoming>) -> Result<AccessKey, Refusal> {
    let access = Tokens::of(request)?.verify(&server.live())?;
    server.check_subject(&access)?;
    if access.api { Ok(access) } else { Err(Refusal::NotApi) }
}

/// 200 as long as the daemon serves; `strict` also asks for a free place.
fn health(server: &Server, strict: bool) -> Answer {
    let full = server.connected() >= server.live().max_connections;
    let (status, text) = match () {
        () if server.draining() => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        () if strict && full => (StatusCode::SERVICE_UNAVAILABLE, "full"),
        () => (StatusCode::OK, "ok"),
    };
    json_answer(status, json!({"status": text, "cluster": null}).to_string())
}

/// The keys of the original's `/api/info` that still mean something, and what is new.
fn info(server: &Server) -> Answer {
    let live = server.live();
    let uptime = server.started().elapsed();
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "num_cpu": std::thread::available_parallelism().map_or(1, usize::from),
        "uptime_in_seconds": uptime.as_secs(),
        "uptime_in_days": uptime.as_secs() / 86_400,
        "tcp_port": server.port().map_or_else(String::new, |port| port.to_string()),
        "pid": std::process::id(),
        "connections": server.connected(),
        "max_connections": live.max_connections,
        "read_buffer_size": live.settings.websocket.read_buffer_size,
        "write_buffer_size": live.settings.websocket.write_buffer_size,
        "check_origin": live.settings.websocket.check_origin,
        "channels": server.hub.channel_count(),
        "messages": server.counters.messages_in.load(Relaxed),
        "deliveries": server.hub.deliveries(),
    });
    json_answer(StatusCode::OK, body.to_string())
}

/// Publishes one message or an array of them: all, or none if one of them is bad.
async fn publish(
    server: &Arc<Server>,
    access: &AccessKey,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Refusal::BodyTooLarge(MAX_BODY_BYTES)
        } else {
            Refusal::BadRequest("the body did not arrive whole")
        }
    })?;
    let body = body.to_bytes();
    let text = std::str::from_utf8(&body).map_err(|_| Refusal::BadRequest("the body must be UTF-8 text"))?;
    let live = server.live_full();
    let messages = Publish::parse_many(text, live.settings.limits.channel_name_bytes)
        .map_err(|(at, error)| Refusal::BadMessage(format!("message {at}: {error}")))?;
    let max = live.settings.websocket.max_message_size;
    for (at, message) in messages.iter().enumerate() {
        if !access.may_publish(&message.channel) {
            return Err(Refusal::Channel(message.channel.clone().into_owned()));
        }
        if message.data.len() > max {
            return Err(Refusal::BadMessage(format!(
                "message {at}: data is over max_message_size, {max} bytes"
            )));
        }
    }

    let subject = access.subject.as_deref().filter(|_| live.settings.websocket.show_subject);
    let readers = server.publish(&messages, subject).await;
    let published: Vec<_> = messages
        .iter()
        .zip(readers)
        .map(|(message, readers)| json!({"channel": message.channel, "readers": readers}))
        .collect();
    Ok(json_answer(StatusCode::OK, json!({"published": published}).to_string()))
}

impl Server {
    /// Publishes messages in the daemon's name, or a subject's, and returns to how many readers each was queued.
    pub async fn publish(self: &Arc<Self>, messages: &[Publish<'_>], subject: Option<&str>) -> Vec<usize> {
        let mut id = [0; Hyphenated::LENGTH];
        let id = self.id().hyphenated().encode_lower(&mut id);
        let mut published = Vec::with_capacity(messages.len());
        let mut touched = Touched::new();
        let mut bytes = 0;
        for (at, message) in messages.iter().enumerate() {
            let delivery = Delivery { issuer: id, channel: &message.channel, data: message.data, subject };
            let readers = self.hub.publish(&delivery, None, &mut touched);
            self.events.tell_message(&delivery, readers);
            published.push(readers);
            bytes += message.data.len();
            if (at + 1) % MESSAGES_PER_FLUSH == 0 || bytes > BYTES_PER_FLUSH || at + 1 == messages.len() {
                bytes = 0;
                if let Some(tasks) = flush(self, &mut touched) {
                    tasks.join_all().await;
                }
            }
        }
        self.counters.messages_in.fetch_add(messages.len() as u64, Relaxed);
        published
    }
}
