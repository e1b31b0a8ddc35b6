//! Why a token is refused.

use std::fmt;

use super::MAX_REQUEST_TOKEN_BYTES;
use super::keys::Algorithms;

/// Why a token is refused. `Display` is the sentence that the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// No token, or an empty one.
    Missing,
    /// An `Authorization` header of another scheme than `Bearer`; its name, where it is a well-known one.
    Scheme(Option<&'static str>),
    /// Over [`MAX_REQUEST_TOKEN_BYTES`] in a request.
    TooLong,
    /// Over this many bytes, the most that a message may bring.
    TooLongForMessage(usize),
    /// Not three base64url parts with JSON in them, or a header that demands what is not supported.
    Malformed,
    /// Claims that are not one JSON object.
    NotClaims,
    /// An algorithm that none of the server's keys is for; those that it has keys for.
    Algorithm(Algorithms),
    /// A `kid` that names none of the server's public keys of the token's algorithm.
    UnknownKey,
    /// Critical header parameters (RFC 7515 section 4.1.11).
    Critical,
    /// Signed with none of the server's keys, or changed since.
    BadSignature,
    /// A claim that cannot be what it is; its name.
    Claim(&'static str, ClaimError),
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

/// What is wrong with a claim. It never holds the claim's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimError {
    /// A value of another type, or out of range.
    Value {
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// The name of a channel with more bytes than this, `[limits] channel_name_bytes`.
    LongName(usize),
    /// The claim is there twice, so that it would be a matter of chance which one counts.
    Twice,
}

impl TokenError {
    /// A stable name in snake case, for logs and counters.
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
                    "the token is too long: a request takes {MAX_REQUEST_TOKEN_BYTES} bytes; the subprotocol philote.v1 \
                     takes a longer one in its first message, {{\"auth\": TOKEN}}"
                );
            }
            TokenError::TooLongForMessage(most) => {
                return write!(
                    f,
                    "the token is too long: {most} bytes are allowed, which follow from channels_per_token and \
                     channel_name_bytes"
                );
            }
            TokenError::Malformed => "the token is malformed: it must be a signed JSON Web Token",
            TokenError::Algorithm(known) => {
                return write!(f, "the token's algorithm is not accepted: sign with {known}");
            }
            TokenError::NotClaims => "the token's claims must be one JSON object",
            TokenError::UnknownKey => "the token's kid names no public key of this server for its algorithm",
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
