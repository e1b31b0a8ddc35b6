//! Verifies a token: selects the keys by its header, checks the signature, then the claims.

use std::cell::Cell;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde::de::Deserializer;

use super::diagnosis::{DATE, NAMES, SUBJECT, diagnose, diagnose_header};
use super::may::{RawMay, RawPresence, check_info, may};
use super::values::{names, object, wrong_name};
use super::{
    ApiRights, CheckedClaims, ClaimError, Claims, Key, Keys, MAX_REQUEST_TOKEN_BYTES, MAX_SUBJECT_BYTES,
    MAX_TOKEN_BYTES, Policy, RoomClaims, TokenError, UnixSeconds,
};
use crate::message::{ChannelName, ChannelPattern};
use crate::timestamp::MAX_DATE;

/// Verifies the token of a request.
///
/// ```
/// use philote::token::{Keys, NewToken, Policy, issue, verify};
///
/// let keys = Keys::new([b"a secret of the server's".as_slice()]);
/// let policy = Policy { leeway: 5, require_expiry: false, issuer: None, audience: None, channels: 16, channel_name_bytes: 255 };
/// let wanted = NewToken { read: vec!["chat".into()], expires: Some(1_000), ..NewToken::default() };
/// let token = issue(&wanted, &keys).unwrap();
///
/// let access = verify(&token, &keys, &policy, 1_004).unwrap();
/// assert!(access.read().iter().eq(["chat"]));
/// assert!(verify(&token, &keys, &policy, 1_005).is_err(), "expired at exp plus the leeway");
/// ```
///
/// White space around the token is ignored, because a token from a file may end with a newline.
pub fn verify(token: &str, keys: &Keys, policy: &Policy, now: UnixSeconds) -> Result<Claims, TokenError> {
    if token.trim_ascii().len() > MAX_REQUEST_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    verify_in_frame(token, keys, policy, now)
}

/// Verifies the token of a message, which may be longer: [`Policy::longest_token`].
pub fn verify_in_frame(
    token: &str,
    keys: &Keys,
    policy: &Policy,
    now: UnixSeconds,
) -> Result<Claims, TokenError> {
    let token = token.trim_ascii();
    if token.is_empty() {
        return Err(TokenError::Missing);
    }
    if token.len() > policy.longest_token() {
        return Err(TokenError::TooLongForMessage(policy.longest_token()));
    }
    let (claims, key) = decode(token, keys)?;
    claims.check(key, token.len(), policy, now)
}

/// Returns the claims of a token and the key that signed it.
///
/// Only keys for the token's algorithm are tried, so a public key is never used as a secret. A `kid` selects among public
/// keys; without one, all of them are tried.
fn decode(token: &str, keys: &Keys) -> Result<(RawClaims, Arc<Key>), TokenError> {
    let Some(parts) = Parts::of(token) else { return Err(diagnose_header(token, keys)) };
    let known = LAST_HEADER.take().filter(|known| *known.text == *parts.header);
    let header = known.map_or_else(|| Header::of(&parts), Ok).map_err(|_| diagnose_header(token, keys))?;
    let decoded = decode_with(&header, &parts, keys);
    if header.text.len() <= LONGEST_KNOWN_HEADER {
        LAST_HEADER.set(Some(header));
    }
    decoded
}

/// The parts of a token, in base64url.
struct Parts<'a> {
    token: &'a str,
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    /// What the signature is made of: the header and the payload.
    signed: &'a str,
}

impl Parts<'_> {
    fn of(token: &str) -> Option<Parts<'_>> {
        let (signed, signature) = split_at_last_dot(token)?;
        let (header, payload) = split_at_last_dot(signed)?;
        Some(Parts { token, header, payload, signature, signed })
    }
}

/// Does what `rsplit_once` does, with the instructions of the processor for searching in bytes.
fn split_at_last_dot(text: &str) -> Option<(&str, &str)> {
    let at = memchr::memrchr(b'.', text.as_bytes())?;
    Some((&text[..at], &text[at + 1..]))
}

/// The longest header, in base64url, that is remembered: that of usual tokens, with a `kid`.
const LONGEST_KNOWN_HEADER: usize = 256;

thread_local! {
    /// The last header that was decoded: a backend gives all its tokens the same one.
    static LAST_HEADER: Cell<Option<Header>> = const { Cell::new(None) };
}

/// The header of a token, as text and decoded.
struct Header {
    text: Box<str>,
    algorithm: Algorithm,
    kid: Option<String>,
    is_critical: bool,
}

impl Header {
    fn of(parts: &Parts<'_>) -> Result<Header, jsonwebtoken::errors::Error> {
        let jsonwebtoken::Header { alg, kid, crit, .. } = jsonwebtoken::decode_header(parts.token)?;
        Ok(Header { text: parts.header.into(), algorithm: alg, kid, is_critical: crit.is_some() })
    }
}

/// Does what [`decode`] does with the decoded header.
fn decode_with(header: &Header, parts: &Parts<'_>, keys: &Keys) -> Result<(RawClaims, Arc<Key>), TokenError> {
    if header.is_critical {
        return Err(TokenError::Critical);
    }
    let mut candidates = keys.candidates(header.kid.as_deref(), header.algorithm).peekable();
    if candidates.peek().is_none() {
        let known_algorithm = keys.candidates(None, header.algorithm).next().is_some();
        return Err(if known_algorithm {
            TokenError::UnknownKey
        } else {
            TokenError::Algorithm(keys.algorithms())
        });
    }
    for key in candidates {
        // decode() of the library would parse the header twice more, and the claims once more.
        let verified = key.verifies(header.algorithm, parts.signed, parts.signature);
        if verified.ok_or(TokenError::Malformed)? {
            return Ok((claims(parts)?, key.clone()));
        }
    }
    Err(TokenError::BadSignature)
}

/// Decodes the claims of a token whose signature is valid.
fn claims(parts: &Parts<'_>) -> Result<RawClaims, TokenError> {
    let json = URL_SAFE_NO_PAD.decode(parts.payload).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| diagnose(parts.token))
}

/// The known claims, before they are checked.
struct RawClaims(ClaimsObject);

#[derive(Deserialize)]
struct ClaimsObject {
    #[serde(default, deserialize_with = "names")]
    read: Option<Vec<String>>,
    #[serde(default, deserialize_with = "names")]
    write: Option<Vec<String>>,
    #[serde(default, deserialize_with = "may")]
    may: Option<RawMay>,
    #[serde(default)]
    presence: Option<RawPresence>,
    #[serde(default)]
    info: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(default)]
    api: Option<ApiRights>,
    #[serde(default)]
    sub: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    exp: Option<f64>,
    #[serde(default, deserialize_with = "not_null")]
    nbf: Option<f64>,
    #[serde(default)]
    iss: serde_json::Value,
    #[serde(default)]
    aud: serde_json::Value,
}

/// Reads a date. Null is an error and not an absent claim, because JavaScript writes null for NaN, the result of a failed
/// computation.
fn not_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    f64::deserialize(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for RawClaims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(RawClaims)
    }
}

impl RawClaims {
    fn check(
        self,
        key: Arc<Key>,
        token_bytes: usize,
        policy: &Policy,
        now: UnixSeconds,
    ) -> Result<Claims, TokenError> {
        let RawClaims(claims) = self;
        let expires = claims.exp.map(|exp| date(exp, "exp")).transpose()?;
        if expires.is_some_and(|expires| now >= expires + policy.leeway) {
            return Err(TokenError::Expired);
        }
        if expires.is_none() && policy.require_expiry {
            return Err(TokenError::NoExpiry);
        }
        let not_before = claims.nbf.map(|nbf| date(nbf, "nbf")).transpose()?;
        if not_before.is_some_and(|not_before| not_before > now + policy.leeway) {
            return Err(TokenError::NotYetValid);
        }
        if policy.issuer.as_ref().is_some_and(|issuer| claims.iss != issuer.as_str()) {
            return Err(TokenError::Issuer);
        }
        let names = |audience: &String| match &claims.aud {
            serde_json::Value::Array(all) => all.iter().any(|one| one == audience.as_str()),
            one => one == audience.as_str(),
        };
        if policy.audience.as_ref().is_some_and(|audience| !names(audience)) {
            return Err(TokenError::Audience);
        }
        if claims.sub.as_ref().is_some_and(|sub| sub.len() > MAX_SUBJECT_BYTES) {
            let found = "a longer one";
            return Err(TokenError::Claim("sub", ClaimError::Value { expected: SUBJECT, found }));
        }
        let channels =
            |names: Option<Vec<String>>, claim| names.map(|names| channels(names, claim, policy)).transpose();
        let (read, write) = (channels(claims.read, "read")?, channels(claims.write, "write")?);
        let rooms = RoomClaims {
            may: claims.may.map(|may| may.check(policy)).transpose()?,
            presence: claims.presence.map(|presence| presence.check(policy)).transpose()?.flatten(),
            info: claims.info.map(check_info).transpose()?,
        };
        Ok(Claims::from(CheckedClaims {
            read,
            write,
            rooms,
            api: claims.api.unwrap_or_default(),
            token_bytes,
            subject: claims.sub,
            expires,
            key: Some(key),
        }))
    }
}

/// Converts a NumericDate to whole seconds, rounding down.
fn date(value: f64, claim: &'static str) -> Result<UnixSeconds, TokenError> {
    let found = match value {
        _ if value < 0.0 => "a negative number",
        _ if value <= MAX_DATE as f64 => return Ok(value as UnixSeconds),
        _ => "a date after the year 9999; perhaps it is in milliseconds",
    };
    Err(TokenError::Claim(claim, ClaimError::Value { expected: DATE, found }))
}

/// Checks the names of a claim, and sorts them.
fn channels(mut names: Vec<String>, claim: &'static str, policy: &Policy) -> Result<Vec<String>, TokenError> {
    if names.len() > policy.channels {
        return Err(TokenError::TooManyChannels);
    }
    let checked = names.iter().try_for_each(|name| ChannelName::check(name, policy.channel_name_bytes));
    checked.map_err(|error| TokenError::Claim(claim, wrong_name(&error, NAMES)))?;
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The contents of a token, valid or not, and the result of its verification.
#[derive(Debug)]
pub struct Inspection {
    /// The header, if it can be decoded.
    pub header: Option<serde_json::Value>,
    /// The claims, if they can be decoded.
    pub claims: Option<serde_json::Value>,
    /// The source of the key that signed the token, if a key of the server did.
    pub signed_by: Option<Box<str>>,
    /// The checked claims, or why the token is refused.
    pub verdict: Result<Claims, TokenError>,
}

/// Inspects a token for an administrator.
pub fn inspect(token: &str, keys: &Keys, policy: &Policy, now: UnixSeconds) -> Inspection {
    let token = token.trim_ascii();
    let signed_by = decode(token, keys).ok().map(|(_, key)| key.name().into());
    Inspection {
        header: jsonwebtoken::decode_header(token).ok().and_then(|header| serde_json::to_value(header).ok()),
        claims: jsonwebtoken::dangerous::insecure_decode_claims(token).ok(),
        signed_by,
        verdict: verify_in_frame(token, keys, policy, now),
    }
}

/// Returns those of the channels that a client with this token must join before it reads them. The token is not verified,
/// because a client has no key.
pub fn channels_to_join<'a>(token: &str, channels: &'a [String]) -> Vec<&'a str> {
    let claims = jsonwebtoken::dangerous::insecure_decode_claims::<serde_json::Value>(token.trim_ascii());
    let Ok(claims) = claims else { return Vec::new() };
    let texts = |list: &serde_json::Value| -> Vec<String> {
        let texts = list.as_array().into_iter().flatten().filter_map(|text| text.as_str());
        texts.map(str::to_owned).collect()
    };
    let read = texts(&claims["read"]);
    let may = texts(&claims["may"]["read"]);
    let may: Vec<ChannelPattern> =
        may.iter().filter_map(|pattern| ChannelPattern::new(pattern, usize::MAX).ok()).collect();
    let joins = |channel: &&'a str| {
        !read.iter().any(|read| read == channel) && may.iter().any(|pattern| pattern.matches(channel))
    };
    channels.iter().map(String::as_str).filter(joins).collect()
}

/// Returns the `sub` of a token without verifying it, so that administrators can find refused requests by subject.
pub fn claimed_subject(token: &str) -> Option<Box<str>> {
    let token = token.trim_ascii();
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let claims: serde_json::Value = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    claims.get("sub")?.as_str().filter(|sub| sub.len() <= MAX_SUBJECT_BYTES).map(Box::from)
}
