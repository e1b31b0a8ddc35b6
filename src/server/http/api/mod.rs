//! HTTP for monitors and backends: health, and the API below `/api`.
//!
//! Its manual for programs is [`OPENAPI`]; a test holds it against [`ROUTES`], another against the answers.

mod disconnect;
mod page;
mod publish;
mod sight;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::credentials::Credentials;
use crate::http::{BodyError, read_body};
use crate::server::accept::pending::Waiting;
use crate::server::background::Background;
use crate::server::rejection::{Answer, Rejection, json_answer};
use crate::server::{Server, admission};
use crate::token::{ApiRight, Claims};

/// The API as OpenAPI 3.1 describes it.
const OPENAPI: &str = include_str!("openapi.json");

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Health,
    Ready,
    OpenApi,
    Info,
    Publish,
    Channels,
    Channel,
    Connections,
    Disconnect,
}

/// A route: its path, as OpenAPI writes it, its method, and what of the API a token must open for it.
struct Route(&'static str, Method, Option<ApiRight>, What);

const ROUTES: [Route; 9] = [
    Route("/health", Method::GET, None, What::Health),
    Route("/health/ready", Method::GET, None, What::Ready),
    Route("/api/openapi.json", Method::GET, None, What::OpenApi),
    Route("/api/info", Method::GET, Some(ApiRight::Info), What::Info),
    Route("/api/publish", Method::POST, Some(ApiRight::Publish), What::Publish),
    Route("/api/channels", Method::GET, Some(ApiRight::Channels), What::Channels),
    Route("/api/channels/{channel}", Method::GET, Some(ApiRight::Channels), What::Channel),
    Route("/api/connections", Method::GET, Some(ApiRight::Connections), What::Connections),
    Route("/api/disconnect", Method::POST, Some(ApiRight::Disconnect), What::Disconnect),
];

impl Route {
    /// What stands for the path's last part, still percent-encoded; empty where the path has no such part.
    ///
    /// A slash in it may have been decoded on the way, so that it is all that follows.
    fn matches<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.0.split_once('{') {
            Some((before, _)) => path.strip_prefix(before).filter(|rest| !rest.is_empty()),
            None => (self.0 == path).then_some(""),
        }
    }

    fn check_method(&self, method: &Method) -> Result<(), Rejection> {
        match self.1 {
            Method::GET if [Method::GET, Method::HEAD].contains(method) => Ok(()),
            Method::GET => Err(Rejection::Method("GET, HEAD")),
            _ if self.1 == *method => Ok(()),
            _ => Err(Rejection::Method("POST")),
        }
    }
}

/// Answers a request below `/health` or `/api`; `client` is who sent it. Its body has until `deadline` to arrive, and what
/// it asks for to be begun.
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
    let access = match route.2 {
        Some(right) => {
            let access = access(server, &request, right)?;
            waiting.known();
            access
        }
        None => Claims::nobody(),
    };
    let query = request.uri().query().unwrap_or_default().to_owned();
    match route.3 {
        What::Health => Ok(health(server, false)),
        What::Ready => Ok(health(server, true)),
        What::OpenApi => Ok(json_answer(StatusCode::OK, OPENAPI)),
        What::Info => Ok(info(server)),
        What::Publish => publish::publish(server, access, deadline, request).await,
        What::Channels => sight::channels(server, access, deadline, &query).await,
        What::Channel => sight::channel(server, access, deadline, rest, &query).await,
        What::Connections => sight::connections(server, access, deadline, &query).await,
        What::Disconnect => disconnect::disconnect(server, access, client, deadline, request).await,
    }
}

/// What the bearer of the request's token may do, where this part of the API is open to it.
fn access(server: &Server, request: &Request<Incoming>, right: ApiRight) -> Result<Claims, Rejection> {
    let access = admission::authenticate(server, &Credentials::of(request)?)?;
    match access.api {
        api if api.has(right) => Ok(access),
        api if api.is_none() => Err(Rejection::NotApi),
        _ => Err(Rejection::ApiRight(right.name())),
    }
}

/// The body of a request, at most so many bytes.
async fn body(request: Request<Incoming>, max: usize, deadline: Instant) -> Result<Vec<u8>, Rejection> {
    match timeout_at(deadline, read_body(request.into_body(), max)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(BodyError::TooLarge)) => Err(Rejection::BodyTooLarge(max)),
        Ok(Err(BodyError::Broken)) => {
            Err(Rejection::BadRequest("the body did not arrive whole, or its chunks are malformed"))
        }
        Err(_) => Err(Rejection::Timeout),
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in
                item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters")
            {
                described.insert((path.clone(), method.to_uppercase()));
                let open = operation["security"] == serde_json::json!([]);
                let route = ROUTES.iter().find(|route| route.0 == path).unwrap();
                assert_eq!(open, route.2.is_none(), "{path}: what needs a token");
                let right = route.2.map(|right| format!("Needs the right `{}`.", right.name()));
                let description = operation["description"].as_str().unwrap_or_default();
                assert!(right.is_none_or(|right| description.contains(&right)), "{path}: {description}");
            }
        }
        let routes = ROUTES.iter().map(|route| (route.0.to_owned(), route.1.to_string())).collect();
        assert_eq!(described, routes);
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn routes_are_told_apart() {
        let what = |path| ROUTES.iter().find_map(|route| Some((route.3, route.matches(path)?)));
        for route in &ROUTES {
            assert_eq!(what(route.0).unwrap().0, route.3);
        }
        assert_eq!(what("/api/channels/a%2Fb/c"), Some((What::Channel, "a%2Fb/c")));
        for path in ["/api", "/api/", "/api/channels/", "/api/info/", "/healthy", "/api/openapi"] {
            assert_eq!(what(path), None, "{path}");
        }
    }
}
