//! The page that a server for development (`--dev`) shows at `/`, for trying channels by hand, and the client that it
//! uses. It also causes faults, by [`fault`].

pub(crate) mod fault;

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN, UPGRADE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response};

use super::answer::{Answer, whole};
use crate::config::{AllowedOrigin, WebOrigin, names_loopback};
use crate::server::rejection::Rejection;

const PAGE: &str = include_str!("dev/page.html");
/// The build that is shipped, so that the page uses the same client as applications.
const CLIENT: &str = include_str!("../../../packaging/npm/philote.js");

/// What the page may do: run its own script and its client, and connect to this server. It shows messages of
/// strangers.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let (_, script) = PAGE.split_once("<script type=\"module\">")?;
    let (script, _) = script.split_once("</script>")?;
    let hash = BASE64.encode(digest(&SHA256, script.as_bytes()));
    let policy = format!(
        "default-src 'none'; script-src 'self' 'sha256-{hash}'; style-src 'unsafe-inline'; img-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).ok()
});

/// Rejects pages of other sites, which reach this server through the developer's browser and know its secret.
///
/// A page that was served from this machine is accepted with any port, because it is the application that is
/// developed here. So is a page of one of the `allowed_origins`. `Host` must name this machine; otherwise a foreign
/// name that resolves to it would count as the same origin (DNS rebinding). A client that sends no `Origin` is no
/// browser, or a browser that follows a link.
///
/// # Errors
/// The foreign value of one of the two headers.
pub(crate) fn check(headers: &HeaderMap, allowed: &[AllowedOrigin]) -> Result<(), Rejection> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    for host in headers.get_all(HOST).iter().map(text) {
        if !names_loopback(&host) {
            return Err(Rejection::DevHost(host));
        }
    }
    for origin in headers.get_all(ORIGIN).iter().map(text) {
        let parsed = WebOrigin::parse(&origin);
        let listed = parsed.is_some() || origin == "null";
        let may = parsed.as_ref().is_some_and(WebOrigin::is_loopback)
            || listed && allowed.iter().any(|one| one.allows(parsed.as_ref()));
        if !may {
            return Err(Rejection::Origin(origin));
        }
    }
    Ok(())
}

/// Answers a plain GET of the page or its client. `None` for every other request, including a WebSocket on these
/// paths.
pub(crate) fn answer<B>(request: &Request<B>) -> Option<Answer> {
    let (kind, text) = match request.uri().path() {
        "/" => ("text/html; charset=utf-8", PAGE),
        "/philote.js" => ("text/javascript; charset=utf-8", CLIENT),
        _ => return None,
    };
    if request.method() != Method::GET || request.headers().contains_key(UPGRADE) {
        return None;
    }
    let mut answer = Response::new(whole(text));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // The next version, and a daemon that is not for development, may be served on the same address.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(policy) = &*POLICY {
        headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::escape::INVISIBLE;

    #[test]
    fn the_page_escapes_what_the_programs_for_people_escape() {
        let ranges =
            INVISIBLE.iter().map(|range| format!("\\u{{{:x}}}-\\u{{{:x}}}", range.start(), range.end()));
        let class = format!("const INVISIBLE = /[{}]/gu;", ranges.collect::<String>());
        assert!(PAGE.contains(&class), "the page lacks {class}");
    }
}
