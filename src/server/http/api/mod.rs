//! The HTTP API for monitors and backends: health checks, and the backend API below `/api`.
//!
//! [`OPENAPI`] describes it. A test compares it with [`ROUTES`], another with the answers.

mod disconnect;
mod events;
mod everywhere;
mod lists;
mod page;
mod publish;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

pub(crate) use events::KEEP_ALIVE;
use hyper::body::{Body, Incoming};
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::credentials::Credentials;
use crate::http::{BodyError, read_body};
use crate::server::accept::pending::Waiting;
use crate::server::http::answer::{Answer, json_answer};
use crate::server::rejection::Rejection;
use crate::server::{Server, admission};
use crate::token::{ApiRight, Claims};

/// The description of the API in OpenAPI 3.1.
const OPENAPI: &str = include_str!("openapi.json");

/// The endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Health,
    Ready,
    OpenApi,
    Info,
    Publish,
    Channels,
    Channel,
    Connections,
    Disconnect,
    Events,
}

/// A route.
struct Route {
    /// The path, as in OpenAPI.
    path: &'static str,
    method: Method,
    /// The right that the token needs; without one, no token is needed.
    right: Option<ApiRight>,
    endpoint: Endpoint,
}

const fn route(path: &'static str, method: Method, right: Option<ApiRight>, endpoint: Endpoint) -> Route {
    Route { path, method, right, endpoint }
}

static ROUTES: [Route; 10] = [
    route("/health", Method::GET, None, Endpoint::Health),
    route("/health/ready", Method::GET, None, Endpoint::Ready),
    route("/api/openapi.json", Method::GET, None, Endpoint::OpenApi),
    route("/api/info", Method::GET, Some(ApiRight::Info), Endpoint::Info),
    route("/api/publish", Method::POST, Some(ApiRight::Publish), Endpoint::Publish),
    route("/api/channels", Method::GET, Some(ApiRight::Channels), Endpoint::Channels),
    route("/api/channels/{channel}", Method::GET, Some(ApiRight::Channels), Endpoint::Channel),
    route("/api/connections", Method::GET, Some(ApiRight::Connections), Endpoint::Connections),
    route("/api/disconnect", Method::POST, Some(ApiRight::Disconnect), Endpoint::Disconnect),
    route("/api/events", Method::GET, Some(ApiRight::Events), Endpoint::Events),
];

impl Route {
    /// Returns the part of the path that stands for `{channel}`, still percent-encoded, or an empty string if the route
    /// has no such part; `None` if the path does not match.
    ///
    /// The part may contain slashes, because a proxy may have decoded them.
    fn matches<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.path.split_once('{') {
            Some((before, _)) => path.strip_prefix(before).filter(|rest| !rest.is_empty()),
            None => (self.path == path).then_some(""),
        }
    }

    fn check_method(&self, method: &Method) -> Result<(), Rejection> {
        match self.method {
            Method::GET if [Method::GET, Method::HEAD].contains(method) => Ok(()),
            Method::GET => Err(Rejection::Method("GET, HEAD")),
            _ if self.method == *method => Ok(()),
            _ => Err(Rejection::Method("POST")),
        }
    }
}

/// Carries out a request of another node, as [`steering`](crate::server::steering) says.
pub(crate) fn carry_out(server: &Server, kind: &str, body: &[u8], room: usize) -> Option<Vec<u8>> {
    lists::carry_out(server, kind, body, room)
}

/// Answers a request to `/health` or `/api`, or below. The body must arrive and the work must start before `deadline`.
pub(crate) async fn answer(
    server: &Arc<Server>,
    waiting: &Waiting,
    client: SocketAddr,
    deadline: Instant,
    request: Request<Incoming>,
) -> Result<Answer, Rejection> {
    let path = request.uri().path().to_owned();
    let mut routes = ROUTES.iter().filter_map(|route| Some((route, route.matches(&path)?)));
    let (route, rest) = routes.next().ok_or(Rejection::NotFound)?;
    route.check_method(request.method())?;
    let claims = match route.right {
        Some(right) => {
            let claims = authorize(server, &request, right)?;
            waiting.known();
            claims
        }
        None => Claims::nobody(),
    };
    let query = request.uri().query().unwrap_or_default().to_owned();
    let answer = match route.endpoint {
        Endpoint::Health => Ok(health(server, false)),
        Endpoint::Ready => Ok(health(server, true)),
        Endpoint::OpenApi => Ok(json_answer(StatusCode::OK, OPENAPI)),
        Endpoint::Info => Ok(info(server)),
        Endpoint::Publish => publish::answer(server, waiting, claims, deadline, request).await,
        Endpoint::Channels => lists::channels(server, claims, deadline, &query).await,
        Endpoint::Channel => lists::channel(server, claims, deadline, rest, &query).await,
        Endpoint::Connections => lists::connections(server, claims, deadline, &query).await,
        Endpoint::Disconnect => disconnect::answer(server, waiting, claims, client, deadline, request).await,
        Endpoint::Events => events::answer(server, claims, deadline, &request).await,
    }?;
    // The answer to a POST is about as long as its body. It must be sent, because something was done.
    if route.method == Method::GET && route.right.is_some() {
        waiting.hold(answer.body().size_hint().exact().unwrap_or_default() as usize)?;
    }
    Ok(answer)
}

/// Returns the claims of the request's token, if they include this right.
fn authorize(server: &Server, request: &Request<Incoming>, right: ApiRight) -> Result<Claims, Rejection> {
    let claims =
        admission::authenticate(server, &Credentials::of(request.uri().query(), request.headers())?)?;
    match claims.api {
        api if api.has(right) => Ok(claims),
        api if api.is_none() => Err(Rejection::NotApi),
        _ => Err(Rejection::ApiRight(right.name())),
    }
}

/// The longest body that a route takes, in bytes.
pub(super) const LONGEST_BODY: usize = publish::MAX_BODY_BYTES;

/// Reads the body of a request, at most `max` bytes, which are held until the answer is written.
pub(crate) async fn body(
    request: Request<Incoming>,
    waiting: &Waiting,
    max: usize,
    deadline: Instant,
) -> Result<Vec<u8>, Rejection> {
    let read = read_body(request.into_body(), max, |more| waiting.hold(more));
    match timeout_at(deadline, read).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(BodyError::NoMemory(rejection))) => Err(rejection),
        Ok(Err(BodyError::TooLarge)) => Err(Rejection::BodyTooLarge(max)),
        Ok(Err(BodyError::Broken)) => {
            Err(Rejection::BadRequest("the body is incomplete, or its chunks are malformed"))
        }
        Err(_) => Err(Rejection::Timeout),
    }
}

/// Answers 200 while the daemon serves clients, and with `[cluster] required` while its link is up. With `strict`, it must
/// also have room for another connection, and its link must be up. A log that refuses messages changes nothing, because all
/// nodes have the same one.
fn health(server: &Server, strict: bool) -> Answer {
    let full = server.connected() >= server.live().max_connections;
    let cluster = server.cluster.as_ref();
    let cut_off = cluster.is_some_and(|cluster| !cluster.is_up() && (strict || cluster.is_required()));
    let (status, text) = match () {
        () if server.draining() => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        () if strict && full => (StatusCode::SERVICE_UNAVAILABLE, "full"),
        () if cut_off => (StatusCode::SERVICE_UNAVAILABLE, "cluster_down"),
        () => (StatusCode::OK, "ok"),
    };
    let cluster = cluster.map(|cluster| {
        let link = if cluster.is_up() { "up" } else { "down" };
        json!({"link": link, "nodes": cluster.status().other_nodes + 1})
    });
    json_answer(status, json!({"status": text, "cluster": cluster}).to_string())
}

/// Answers with the keys of the original's `/api/info` that still apply, and new ones.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_description_has_exactly_the_routes() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in
                item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters")
            {
                described.insert((path.clone(), method.to_uppercase()));
                let open = operation["security"] == serde_json::json!([]);
                let route = ROUTES.iter().find(|route| route.path == path).unwrap();
                assert_eq!(open, route.right.is_none(), "{path}: which routes need a token");
                let right = route.right.map(|right| format!("Needs the right `{}`.", right.name()));
                let description = operation["description"].as_str().unwrap_or_default();
                assert!(right.is_none_or(|right| description.contains(&right)), "{path}: {description}");
            }
        }
        let routes = ROUTES.iter().map(|route| (route.path.to_owned(), route.method.to_string())).collect();
        assert_eq!(described, routes);
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn a_path_matches_one_route() {
        let find = |path| ROUTES.iter().find_map(|route| Some((route.endpoint, route.matches(path)?)));
        for route in &ROUTES {
            assert_eq!(find(route.path).unwrap().0, route.endpoint);
        }
        assert_eq!(find("/api/channels/a%2Fb/c"), Some((Endpoint::Channel, "a%2Fb/c")));
        for path in ["/api", "/api/", "/api/channels/", "/api/info/", "/healthy", "/api/openapi"] {
            assert_eq!(find(path), None, "{path}");
        }
    }
}
