//! Why a token is refused.

use std::fmt;

use super::MAX_REQUEST_TOKEN_BYTES;
use super::keys::Algorithms;

/// Why a token is refused. The client gets the `Display` text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// There is no token, or it is empty.
    Missing,
    /// The `Authorization` header has another scheme than `Bearer`; its name, if it is a well-known one.
    Scheme(Option<&'static str>),
    /// The token of a request is longer than [`MAX_REQUEST_TOKEN_BYTES`].
    TooLong,
    /// The token of a message is longer than this limit, in bytes.
    TooLongForMessage(usize),
    /// The token is not three base64url parts that hold JSON, or its header needs something unsupported.
    Malformed,
    /// The claims are not one JSON object.
    NotClaims,
    /// The server has no key for the algorithm; the algorithms for which it has keys.
    Algorithm(Algorithms),
    /// None of the server's public keys for the algorithm has this `kid`.
    UnknownKey,
    /// The header has critical parameters (RFC 7515 section 4.1.11).
    Critical,
    /// None of the server's keys has signed the token, or it was changed since.
    BadSignature,
    /// A claim is invalid; its name.
    Claim(&'static str, ClaimError),
    /// `read` or `write` names more channels than `[limits] channels_per_token`.
    TooManyChannels,
    /// `exp` has passed.
    Expired,
    /// `nbf` has not come yet.
    NotYetValid,
    /// `exp` is absent, and `[auth] require_expiry` requires it.
    NoExpiry,
    /// `iss` is not the configured one.
    Issuer,
    /// `aud` does not have the configured one.
    Audience,
}

/// What is wrong with a claim. It never contains the value, which may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimError {
    /// The value has the wrong type or is out of range.
    Value {
        /// What the value must be.
        expected: &'static str,
        /// What the value is.
        found: &'static str,
    },
    /// A channel name has more bytes than this limit, `[limits] channel_name_bytes`.
    LongName(usize),
    /// The claim appears twice, and parsers differ in which one counts.
    Twice,
}

impl TokenError {
    /// Returns a stable name in snake case, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            TokenError::Missing => "token_missing",
            TokenError::Scheme(_) => "token_scheme",
            TokenError::TooLong | TokenError::TooLongForMessage(_) => "token_too_long",
            TokenError::Malformed | TokenError::NotClaims => "token_malformed",
            TokenError::Algorithm(_) => "token_algorithm",
            TokenError::UnknownKey => "token_unknown_key",
            TokenError::Critical => "token_critical_header",
            TokenError::BadSignature => "bad_signature",
            TokenError::Claim(..) => "token_claim",
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
            TokenError::Scheme(Some(scheme)) => {
                return write!(f, "the Authorization header has the scheme {scheme}: send \"Authorization: Bearer TOKEN\"");
            }
            TokenError::Scheme(None) => {
                "the Authorization header has an unknown scheme: send \"Authorization: Bearer TOKEN\""
            }
            TokenError::TooLong => {
                return write!(
                    f,
                    "the token is too long: a request accepts at most {MAX_REQUEST_TOKEN_BYTES} bytes; the subprotocol philote.v1 \
                     accepts a longer token in its first message, {{\"auth\": TOKEN}}"
                );
            }
            TokenError::TooLongForMessage(most) => {
                return write!(
                    f,
                    "the token is too long: at most {most} bytes are allowed, computed from channels_per_token and \
                     channel_name_bytes"
                );
            }
            TokenError::Malformed => "the token is malformed: it must be a signed JSON Web Token",
            TokenError::Algorithm(known) => {
                return write!(f, "the token's algorithm is not accepted: sign with {known}");
            }
            TokenError::NotClaims => "the token's claims must be one JSON object, with numbers that fit 64 bits",
            TokenError::UnknownKey => "this server has no public key with the token's kid and algorithm",
            TokenError::Critical => "the token has critical header parameters, which this server does not support",
            TokenError::BadSignature => "the token has a bad signature: it was not signed with this server's secret",
            TokenError::Claim(name, ClaimError::Value { expected, found }) => {
                return write!(f, "the token's claim `{name}` must be {expected}, not {found}");
            }
            TokenError::Claim(name, ClaimError::LongName(most)) => {
                return write!(
                    f,
                    "the token's claim `{name}` has a channel name of more than {most} bytes (channel_name_bytes)"
                );
            }
            TokenError::Claim(name, ClaimError::Twice) => {
                return write!(f, "the token has the claim `{name}` twice");
            }
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
