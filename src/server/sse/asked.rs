//! What a request at a path of clients asks for, if it is not for a WebSocket.

use hyper::header::{
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, HeaderMap, ORIGIN, SEC_WEBSOCKET_KEY, UPGRADE,
};
use hyper::{Method, Request};

use crate::server::http::visit::prefers;

/// The media type of Server-Sent Events.
pub(super) const MEDIA_TYPE: &str = "text/event-stream";

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A stream of events.
    Events,
    /// To publish its body.
    Publish,
    /// Whether a page of another origin may send one of these.
    Preflight,
}

impl Asked {
    /// Returns what the request asks for; `None` if it is for a WebSocket or for something that is not served.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Asked> {
        let headers = request.headers();
        if headers.contains_key(UPGRADE) || headers.contains_key(SEC_WEBSOCKET_KEY) {
            return None;
        }
        match *request.method() {
            Method::GET if wants_events(headers) => Some(Asked::Events),
            Method::POST if has_token(request) => Some(Asked::Publish),
            Method::OPTIONS
                if headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) =>
            {
                Some(Asked::Preflight)
            }
            _ => None,
        }
    }
}

/// Returns whether a request shows a token. One that does not is none of a client.
fn has_token<B>(request: &Request<B>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.headers().contains_key(AUTHORIZATION)
        || form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "auth")
}

/// Returns whether a request names the media type of events. A range such as `*/*` does not: every program sends it.
fn wants_events(headers: &HeaderMap) -> bool {
    prefers(headers, MEDIA_TYPE, "text/html")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, headers: &[(&str, &str)]) -> Option<Asked> {
        let request = headers
            .iter()
            .fold(Request::builder().method(method), |request, (name, value)| request.header(*name, *value));
        Asked::of(&request.body(()).unwrap())
    }

    #[test]
    fn only_a_request_that_names_events_gets_them() {
        let accept = |value| asked("GET", &[("Accept", value)]);
        assert_eq!(accept("text/event-stream"), Some(Asked::Events));
        assert_eq!(accept("text/html;q=0.5, Text/Event-Stream"), Some(Asked::Events));
        for other in ["*/*", "text/html, */*;q=0.8", "application/json", "text/event-stream;q=0"] {
            assert_eq!(accept(other), None, "{other}");
        }
        assert_eq!(asked("GET", &[]), None);
        assert_eq!(asked("GET", &[("Accept", MEDIA_TYPE), ("Upgrade", "websocket")]), None);
        assert_eq!(asked("HEAD", &[("Accept", MEDIA_TYPE)]), None);
    }

    #[test]
    fn a_post_publishes_and_a_preflight_is_one_of_a_page() {
        assert_eq!(asked("POST", &[("Authorization", "Bearer x")]), Some(Asked::Publish));
        let by_query = Request::builder().method("POST").uri("/?a=b&auth=x").body(()).unwrap();
        assert_eq!(Asked::of(&by_query), Some(Asked::Publish));
        assert_eq!(asked("POST", &[]), None);
        assert_eq!(asked("PUT", &[]), None);
        let method = ("Access-Control-Request-Method", "POST");
        assert_eq!(asked("OPTIONS", &[("Origin", "https://a.test"), method]), Some(Asked::Preflight));
        assert_eq!(asked("OPTIONS", &[method]), None);
        assert_eq!(asked("OPTIONS", &[]), None);
    }
}
