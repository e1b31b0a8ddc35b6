//! Tokens of the daemon's own.

use std::fmt;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{ApiRights, Keys, UnixSeconds};

/// A token to be made. An absent field is an absent claim.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewToken {
    /// The channels that its bearer receives; none is the absent claim, which lets the API show it all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<String>,
    /// The channels that its bearer publishes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<Vec<String>>,
    /// What it opens of the HTTP API.
    #[serde(skip_serializing_if = "ApiRights::is_none")]
    pub api: ApiRights,
    /// Who its bearer is.
    #[serde(rename = "sub", skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it was made.
    #[serde(rename = "iat", skip_serializing_if = "Option::is_none")]
    pub issued: Option<UnixSeconds>,
    /// From when on it is refused.
    #[serde(rename = "exp", skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixSeconds>,
    /// The `iss` that the server asks for.
    #[serde(rename = "iss", skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The `aud` that the server asks for.
    #[serde(rename = "aud", skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// Signs a token with the first secret, by HS256.
///
/// # Errors
/// Without a secret there is nothing to sign with.
pub fn issue(token: &NewToken, keys: &Keys) -> Result<String, IssueError> {
    let encoding = EncodingKey::from_secret(keys.signing().ok_or(IssueError)?);
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), token, &encoding).map_err(|_| IssueError)
}

/// No token can be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IssueError;

impl fmt::Display for IssueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this server has no secret to sign a token with")
    }
}

impl std::error::Error for IssueError {}
