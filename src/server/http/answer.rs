//! HTTP answers: JSON, and the answer to a rejected request.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, Full};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::server::rejection::Rejection;

/// An HTTP answer.
pub(crate) type Answer = Response<Body>;

/// The body of an answer: whole, or a stream without an end.
pub(crate) type Body = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>;

/// Makes the body of an answer that is whole.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Either::Left(Full::new(bytes.into()))
}

/// The seconds after which a client should come back that found the server full.
const RETRY_AFTER_SECONDS: &str = "5";

/// Makes an answer with a JSON body.
pub(crate) fn json_answer(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(whole(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

impl Rejection {
    /// Returns the answer, with `{"error": CODE, "message": SENTENCE}` as its body.
    pub(crate) fn answer(&self) -> Answer {
        let body = json!({"error": self.code(), "message": self.to_string()}).to_string();
        let mut answer = json_answer(self.status(), body);
        let headers = answer.headers_mut();
        match self {
            Rejection::Method(allowed) => headers.insert(ALLOW, HeaderValue::from_static(allowed)),
            Rejection::Version => headers.insert("Sec-WebSocket-Version", HeaderValue::from_static("13")),
            Rejection::Full(_)
            | Rejection::OutOfDescriptors { .. }
            | Rejection::Pending(_)
            | Rejection::Kept(_)
            | Rejection::Draining
            | Rejection::Refusing
            | Rejection::Spreads(_)
            | Rejection::Busy(_)
            | Rejection::Streams(_)
            | Rejection::Requests(_)
            | Rejection::PerAddress(_)
            | Rejection::PerSubject(_)
            | Rejection::Handshakes(_)
            | Rejection::TooFast
            | Rejection::NotStored => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS))
            }
            Rejection::Token(_) => headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            _ => None,
        };
        let connection = if self.status() == StatusCode::UPGRADE_REQUIRED {
            // RFC 9110 section 7.8: Connection must name it, too.
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            "upgrade, close"
        } else {
            "close"
        };
        headers.insert(CONNECTION, HeaderValue::from_static(connection));
        answer
    }

    /// Returns the answer as bytes, for a stream that no HTTP library serves any more.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let answer = self.answer();
        let body = json!({"error": self.code(), "message": self.to_string()}).to_string();
        let mut bytes =
            format!("HTTP/1.1 {}\r\nContent-Length: {}\r\n", answer.status(), body.len()).into_bytes();
        for (name, value) in answer.headers() {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body.as_bytes());
        bytes
    }
}
