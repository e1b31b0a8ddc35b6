//! Publishes the message in the body of a request, under the rules for a message on a WebSocket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use tokio::time::Instant;
use uuid::Uuid;

use super::open::check_host;
use crate::hub::Transport;
use crate::message::{ApiMessage, FromClient, Publish, published_reply};
use crate::server::accept::pending::Waiting;
use crate::server::http::answer::{Answer, json_answer};
use crate::server::http::api;
use crate::server::http::credentials::Credentials;
use crate::server::http::origin::check_origin;
use crate::server::ops::publish::{Outcome, PublishError, publish_by};
use crate::server::rejection::{Rejected, Rejection};
use crate::server::{Server, admission};
use crate::token::Claims;

/// The most streams of its own that a client may name: as many as a browser keeps to one server, and more.
const MAX_STREAMS: usize = 16;

/// Answers a request that publishes one message.
///
/// # Errors
/// Why nothing was published, or why that is not known.
pub(crate) async fn publish(
    server: &Arc<Server>,
    waiting: &Waiting,
    address: SocketAddr,
    deadline: Instant,
    request: Request<Incoming>,
) -> Result<Answer, Rejected> {
    check_host(&request)?;
    let query = request.uri().query().unwrap_or_default();
    let streams = streams_of(query)?;
    let claims = authenticate(server, address, &request)?;
    waiting.known();
    let subject = claims.subject().map(Box::from);
    let published = async {
        let body =
            api::body(request, waiting, server.live().settings.websocket.max_message_size, deadline).await?;
        count(server, &claims, address, body.len())?;
        let batch = {
            let server = server.clone();
            async move { publish_body(&server, &claims, &streams, &body).await }
        };
        server.background.publish(deadline, batch).await.flatten()
    };
    published.await.map_err(|rejection| rejection.of(subject))
}

/// Returns the claims of the token, whose page may publish.
fn authenticate<B>(
    server: &Arc<Server>,
    address: SocketAddr,
    request: &Request<B>,
) -> Result<Claims, Rejected> {
    let live = server.live();
    let credentials = Credentials::of(request.uri().query(), request.headers())?;
    let claims = admission::authenticate(server, &credentials).map_err(|rejection| {
        // A client that guesses tokens here counts like one that tries to connect.
        let guessed = matches!(rejection, Rejection::Token(_));
        let counted = if guessed { admission::count_handshake(server, &live, address.ip()) } else { Ok(()) };
        counted.err().unwrap_or(rejection).of(credentials.claimed_subject())
    })?;
    check_origin(request.headers(), &live)
        .map_err(|rejection| rejection.of(claims.subject().map(Box::from)))?;
    Ok(claims)
}

/// Returns the connections that the query names: the client's own streams of events, which do not get the message.
fn streams_of(query: &str) -> Result<Vec<Uuid>, Rejection> {
    let named = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "connection");
    let ids: Result<Vec<Uuid>, _> = named.map(|(_, id)| Uuid::try_parse(&id)).collect();
    match ids {
        Ok(ids) if ids.len() <= MAX_STREAMS => Ok(ids),
        Ok(_) => {
            Err(Rejection::BadParameter(format!("a message may name {MAX_STREAMS} connections at most")))
        }
        Err(_) => Err(Rejection::BadRequest("connection must be the id of a connection, as in its access")),
    }
}

/// Counts a message against the rate of its subject or address.
fn count(server: &Server, claims: &Claims, address: SocketAddr, bytes: usize) -> Result<(), Rejection> {
    let limits = &server.live_owned().settings.limits;
    let subject = claims.subject();
    if server.limits.post(subject, address.ip(), bytes, limits, server.started().elapsed()) {
        return Ok(());
    }
    server.counters.rate_limited.fetch_add(1, Relaxed);
    Err(Rejection::TooFast)
}

async fn publish_body(
    server: &Arc<Server>,
    claims: &Claims,
    streams: &[Uuid],
    body: &[u8],
) -> Result<Answer, Rejection> {
    let bad = |sentence: String| {
        server.counters.bad_messages.fetch_add(1, Relaxed);
        Rejection::BadMessage(sentence)
    };
    let text = std::str::from_utf8(body).map_err(|_| bad("a message must be UTF-8 text".to_owned()))?;
    let publish = parse(text, server.live().settings.limits.channel_name_bytes).map_err(bad)?;
    let ack = publish.ack;
    // The id of a stream is known to its client alone, because a stream publishes nothing; that of a WebSocket is known to
    // all readers.
    let is_stream =
        |id: &Uuid| server.hub.connection(id).is_some_and(|one| one.transport() == Transport::Events);
    let excluded = streams.iter().copied().filter(is_stream).collect();
    let messages = [ApiMessage { publish, excluded, key: None }];
    let subject = claims.subject();
    let published = publish_by(server, &messages, subject, |channel| claims.may_write(channel)).await;
    let published = published.map_err(|error| match error {
        PublishError::Forbidden(_) => {
            server.counters.forbidden.fetch_add(1, Relaxed);
            error.into()
        }
        PublishError::Invalid { error, .. } => bad(error.to_string()),
        error => bad(error.to_string()),
    })?;
    let published = published.first().ok_or(Rejection::Internal)?;
    match published.outcome {
        Outcome::Published | Outcome::Repeated => {
            Ok(json_answer(StatusCode::OK, published_reply(ack, published.readers, published.id)))
        }
        // Without a cluster only a daemon that stops takes none.
        Outcome::Unavailable if server.cluster.is_none() => Err(Rejection::Draining),
        Outcome::Unavailable => Err(Rejection::NotStored),
        Outcome::Unanswered => Err(Rejection::NotConfirmed),
    }
}

/// Returns the message of a body, which is one as on philote.v1.
fn parse(text: &str, channel_name_bytes: usize) -> Result<Publish<'_>, String> {
    match FromClient::parse(text, channel_name_bytes, true) {
        Ok(FromClient::Publish(publish)) => Ok(publish),
        Ok(_) => {
            Err("only a message can be posted, like {\"channel\": \"...\", \"data\": \"...\"}".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}
