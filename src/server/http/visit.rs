//! The page for a person who opens the server's address in a browser, in place of the JSON that programs get.

use hyper::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue,
    X_CONTENT_TYPE_OPTIONS,
};

use super::answer::{Answer, whole};
use crate::server::rejection::Rejection;

/// It shows nothing of the request, and does not tell a stranger the version.
const PAGE: &str = include_str!("visit.html");

/// Returns the answer to a rejected request: the page if a browser asked for one where only WebSockets are served,
/// otherwise the answer for programs.
pub(crate) fn answer(rejection: &Rejection, prefers_html: bool) -> Answer {
    let mut answer = rejection.answer();
    if prefers_html && matches!(rejection, Rejection::UpgradeRequired(_)) {
        *answer.body_mut() = whole(PAGE);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        // A server for development may be started on the same address.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(
                "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
            ),
        );
    }
    answer
}

/// Returns whether a request names `text/html` with a higher quality than JSON. A range such as `*/*` names neither:
/// programs send it too.
pub(crate) fn prefers_html(headers: &HeaderMap) -> bool {
    prefers(headers, "text/html", "application/json")
}

/// Returns whether a request names a media type with a higher quality than another.
pub(crate) fn prefers(headers: &HeaderMap, wanted: &str, other: &str) -> bool {
    let quality = |wanted: &str| {
        let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
        let ranges = lines.flat_map(|line| line.split(',')).filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts.next().filter(|kind| kind.eq_ignore_ascii_case(wanted))?;
            let mut quality =
                parts.filter_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            quality.next().map_or(Some(1.0), |quality| quality.parse::<f32>().ok())
        });
        ranges.fold(0.0, f32::max)
    };
    quality(wanted) > quality(other)
}
