//! Issues tokens.

use std::fmt;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{ApiRights, Keys, NewMay, UnixSeconds};

/// The claims of a token to issue. A claim whose field is absent is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewToken {
    /// The channels that the client receives. An empty list leaves the claim out, so that the API shows all channels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<String>,
    /// The channels on which the client publishes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<Vec<String>>,
    /// The channels that the client may join, and those on which it may publish besides.
    #[serde(skip_serializing_if = "NewMay::is_empty")]
    pub may: NewMay,
    /// Whether the client may see who reads the channels that it reads.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub presence: bool,
    /// What presence tells about the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<serde_json::Map<String, serde_json::Value>>,
    /// The rights on the HTTP API.
    #[serde(skip_serializing_if = "ApiRights::is_none")]
    pub api: ApiRights,
    /// The name of the client.
    #[serde(rename = "sub", skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The time of issue.
    #[serde(rename = "iat", skip_serializing_if = "Option::is_none")]
    pub issued: Option<UnixSeconds>,
    /// The time from which the token is refused.
    #[serde(rename = "exp", skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixSeconds>,
    /// The `iss` that the server requires.
    #[serde(rename = "iss", skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The `aud` that the server requires.
    #[serde(rename = "aud", skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// Signs a token with the first secret and HS256.
///
/// # Errors
/// There is no secret.
pub fn issue(token: &NewToken, keys: &Keys) -> Result<String, IssueError> {
    let encoding = EncodingKey::from_secret(keys.signing().ok_or(IssueError)?);
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), token, &encoding).map_err(|_| IssueError)
}

/// The server has no secret, so it cannot sign tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IssueError;

impl fmt::Display for IssueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this server has no secret with which it could sign a token")
    }
}

impl std::error::Error for IssueError {}
