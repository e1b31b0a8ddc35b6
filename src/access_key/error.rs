//! Why a token is refused.

use std::fmt;

use super::keys::Algorithms;

/// Why a token is refused. `Display` is the sentence that the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// No token, or an empty one.
    Missing,
    /// Over [`MAX_TOKEN_BYTES`](super::MAX_TOKEN_BYTES).
    TooLong,
    /// Not three base64url parts with JSON in them, or a header that demands what is not supported.
    Malformed,
    /// An algorithm that none of the server's keys is for; those that it has keys for.
    Algorithm(Algorithms),
    /// A `kid` that names none of the server's keys.
    UnknownKey,
    /// Critical header parameters (RFC 7515 section 4.1.11).
    Critical,
    /// Signed with none of the server's keys, or changed since.
    BadSignature,
    /// A claim of the wrong type or out of range; its name.
    Claim(&'static str),
    /// `read` or `write` names more channels than `[limits] channels_per_token`.
    TooManyChannels,
    /// `exp` has passed.
    Expired,
    /// `nbf` has not come yet.
    NotYetValid,
    /// No `exp` where `[auth] require_expiry` asks for one.
    NoExpiry,
    /// Not the configured `iss`.
    Issuer,
    /// Not the configured `aud`.
    Audience,
}

impl TokenError {
    /// A stable name in snake case, for logs and counters.
    pub fn name(&self) -> &'static str {
        match self {
            TokenError::Missing => "token_missing",
            TokenError::TooLong => "token_too_long",
            TokenError::Malformed => "token_malformed",
            TokenError::Algorithm(_) => "token_algorithm",
            TokenError::UnknownKey => "token_unknown_key",
            TokenError::Critical => "token_critical_header",
            TokenError::BadSignature => "bad_signature",
            TokenError::Claim(_) => "token_claim",
            TokenError::TooManyChannels => "token_too_many_channels",
            TokenError::Expired => "token_expired",
            TokenError::NotYetValid => "token_not_yet_valid",
            TokenError::NoExpiry => "token_without_expiry",
            TokenError::Issuer => "token_issuer",
            TokenError::Audience => "token_audience",
        }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TokenError::Missing => {
                "a token is required: send it as \"Authorization: Bearer TOKEN\" or as the query parameter auth"
            }
            TokenError::TooLong => "the token is too long: 8192 bytes are allowed",
            TokenError::Malformed => "the token is malformed: it must be a signed JSON Web Token",
            TokenError::Algorithm(known) => {
                return write!(f, "the token's algorithm is not accepted: sign with {known}");
            }
            TokenError::UnknownKey => "the token's kid names no key of this server",
            TokenError::Critical => "the token has critical header parameters, which this server does not support",
            TokenError::BadSignature => "the token has a bad signature: it was not signed with this server's secret",
            TokenError::Claim(name) => return write!(f, "the token's claim {name} has a wrong type or value"),
            TokenError::TooManyChannels => "the token names more channels than this server's channels_per_token",
            TokenError::Expired => "the token has expired",
            TokenError::NotYetValid => "the token is not yet valid",
            TokenError::NoExpiry => "the token has no exp, which this server requires",
            TokenError::Issuer => "the token's iss is not the one that this server accepts",
            TokenError::Audience => "the token's aud does not name this server",
        })
    }
}

impl std::error::Error for TokenError {}
