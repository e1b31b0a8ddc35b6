//! Lets pages of other origins read events and publish (CORS): those that may open a WebSocket.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::{Request, Response, StatusCode};

use super::asked::Asked;
use crate::server::Live;
use crate::server::http::answer::{Answer, whole};
use crate::server::http::origin::check_origin;
use crate::server::rejection::Rejection;

/// How long a browser may remember what is allowed, in seconds: not much longer than a reload may take to be noticed.
const MAX_AGE: &str = "600";

/// The page that sends a request.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// The request is one of those that are served here.
    is_served: bool,
    /// Its origin, if it is allowed.
    origin: Option<HeaderValue>,
}

impl Page {
    /// Returns the page that sends a request.
    pub(crate) fn of<B>(request: &Request<B>, live: &Live) -> Page {
        let path = request.uri().path();
        let is_below = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if is_below("/api") || is_below("/health") || Asked::of(request).is_none() {
            return Page::default();
        }
        let headers = request.headers();
        let origin = headers.get(ORIGIN).filter(|_| check_origin(headers, live).is_ok());
        Page { is_served: true, origin: origin.cloned() }
    }

    /// Lets the page see an answer.
    pub(crate) fn allow(&self, headers: &mut HeaderMap) {
        if !self.is_served {
            return;
        }
        // An answer to another page differs.
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = &self.origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
    }
}

/// Answers a browser that asks whether a page may send a request.
///
/// # Errors
/// The page is of another origin.
pub(crate) fn preflight(headers: &HeaderMap, live: &Live) -> Result<Answer, Rejection> {
    check_origin(headers, live)?;
    let mut answer = Response::new(whole(""));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type, Last-Event-ID"),
        (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(answer)
}
