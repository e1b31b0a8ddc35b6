//! The answer to a request that failed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is malformed (400).
    BadRequest,
    /// The client may not do this (403).
    Forbidden,
    /// There is no such route (404).
    NotFound,
    /// The route does not accept this method (405).
    MethodNotAllowed,
    /// The request did not arrive in time (408).
    RequestTimeout,
    /// The state of the daemon does not allow it: a secret from the environment cannot be replaced, for example (409).
    Conflict,
    /// The request is too large (413).
    TooLarge,
    /// The request is well-formed but invalid, and nothing changed (422).
    Refused,
    /// The daemon failed (500).
    Internal,
    /// The daemon is starting or draining (503).
    NotReady,
    /// A code of a newer daemon that this program does not know.
    #[serde(other)]
    Unknown,
}

impl Code {
    /// Returns the HTTP status of an answer with this code.
    #[must_use]
    pub fn status(self) -> hyper::StatusCode {
        use hyper::StatusCode;
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Refused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Internal | Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// The body of an answer to a failed request: `{"error": CODE, "message": SENTENCE, "hint": SENTENCE or null}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of failure, for programs.
    #[serde(rename = "error")]
    pub code: Code,
    /// One sentence for people. It contains no secret and no token.
    pub message: String,
    /// What to do about it, if known.
    #[serde(default)]
    pub hint: Option<String>,
}

impl Failure {
    /// Creates a failure without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_code_of_a_newer_daemon_is_still_a_failure() {
        let failure: Failure = serde_json::from_str(r#"{"error": "teapot", "message": "no"}"#).unwrap();
        assert_eq!((failure.code, failure.hint), (Code::Unknown, None));
    }
}
