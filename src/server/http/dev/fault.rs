//! `POST /dev/fault` of a server for development: causes a fault, so that a developer sees what a client does.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{HOST, HeaderMap, ORIGIN};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::config::WebOrigin;
use crate::message::connection_id;
use crate::server::Server;
use crate::server::accept::pending::Waiting;
use crate::server::faults::{Fault, FaultError, Victim, cause};
use crate::server::http::answer::{Answer, json_answer};
use crate::server::http::api;
use crate::server::rejection::Rejection;

/// The longest body, in bytes: several times that of the longest fault.
const MAX_BODY_BYTES: usize = 1024;

/// The body of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    fault: Fault,
    /// The id of a connection, or `newest`, which is the default.
    #[serde(default)]
    connection: Option<String>,
}

/// Returns whether this is a request for a fault. A WebSocket on this path is one as on any other.
pub(crate) fn is_wanted<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && request.uri().path() == "/dev/fault"
}

/// Causes the fault of the request.
pub(crate) async fn answer(
    server: &Arc<Server>,
    waiting: &Waiting,
    deadline: Instant,
    request: Request<Incoming>,
) -> Result<Answer, Rejection> {
    check_page(request.headers())?;
    let body = api::body(request, waiting, MAX_BODY_BYTES, deadline).await?;
    let (fault, victim) = parse(&body)?;
    let ended = cause(server, fault, victim)?;
    Ok(json_answer(StatusCode::OK, json!({"fault": fault, "connections": ended}).to_string()))
}

/// Rejects every page but that of this server. An application that is developed may connect, but not cause faults.
fn check_page(headers: &HeaderMap) -> Result<(), Rejection> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let origin = String::from_utf8_lossy(origin.as_bytes());
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    match WebOrigin::parse(&origin) {
        Some(page) if page.is_of_host(host) => Ok(()),
        _ => Err(Rejection::Origin(origin.into_owned())),
    }
}

fn parse(body: &[u8]) -> Result<(Fault, Victim), Rejection> {
    let Body { fault, connection } = serde_json::from_slice(body)
        .map_err(|error| Rejection::BadParameter(format!("the body is invalid: {error}")))?;
    let victim = match connection.as_deref() {
        None => Victim::Newest,
        Some(_) if !fault.is_for_one() => {
            return Err(Rejection::BadRequest("this fault is for all connections: leave out connection"));
        }
        Some("newest") => Victim::Newest,
        Some(id) => Victim::Id(
            connection_id(id)
                .ok_or(Rejection::BadRequest("connection must be \"newest\" or the id of a connection"))?,
        ),
    };
    Ok((fault, victim))
}

impl From<FaultError> for Rejection {
    fn from(error: FaultError) -> Rejection {
        Rejection::BadParameter(error.to_string())
    }
}
