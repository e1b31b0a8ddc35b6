//! JSON Web Tokens: what a bearer may do, checked against the server's keys. The time is passed in.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header, Validation};
use serde::de::{Deserializer, Error as _, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Serialize};

use crate::message::ChannelName;

/// Seconds since 1970-01-01 UTC, as in the claims `exp` and `nbf` (RFC 7519 section 2, NumericDate).
pub type UnixSeconds = u64;

/// The longest token taken from a request, in bytes. Longer ones are refused before anything of them is decoded.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The longest `sub`, in bytes: it stands in every message that its bearer publishes.
pub const MAX_SUBJECT_BYTES: usize = 255;

/// The last second of the year 9999: later dates can't be written in RFC 3339.
const MAX_DATE: UnixSeconds = 253_402_300_799;

/// One key that tokens may be signed with.
pub struct Key {
    secret: Box<[u8]>,
    decoding: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The server's keys: the first signs, all verify.
#[derive(Debug)]
pub struct Keys(Vec<Arc<Key>>);

impl Keys {
    /// Keys of these secrets, in order.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Keys {
        let key = |secret: &[u8]| {
            Arc::new(Key { secret: secret.into(), decoding: DecodingKey::from_secret(secret) })
        };
        Keys(secrets.into_iter().map(key).collect())
    }

    /// Whether `key` is still one of them, as after a reload.
    pub fn contains(&self, key: &Key) -> bool {
        self.0.iter().any(|own| own.secret == key.secret)
    }
}

/// What is asked of a token beyond its signature.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `[auth] leeway` in seconds: the clock skew allowed on `exp` and `nbf`.
    pub leeway: u64,
    /// `[auth] require_expiry`: refuse tokens without `exp`.
    pub require_expiry: bool,
    /// `[auth] issuer`: the `iss` that tokens must have.
    pub issuer: Option<String>,
    /// `[auth] audience`: one that `aud` must name.
    pub audience: Option<String>,
    /// `[limits] channels_per_token`: the most names in each of `read` and `write`.
    pub channels: usize,
    /// `[limits] channel_name_bytes`.
    pub channel_name_bytes: usize,
}

/// What the bearer of a valid token may do.
#[derive(Debug)]
pub struct AccessKey {
    /// The channels it receives, sorted, none twice.
    pub read: Box<[ChannelName]>,
    /// Who it is, if the token says so.
    pub subject: Option<Box<str>>,
    /// Its `exp`: with the leeway added, the first second at which it is refused.
    pub expires: Option<UnixSeconds>,
    /// The key that signed it; none for the daemon itself.
    pub key: Option<Arc<Key>>,
    /// Whether it opens the HTTP API.
    pub api: bool,
    /// The channels it publishes on, sorted, none twice. `None` stands for a token without the claim.
    write: Option<Box<[ChannelName]>>,
}

impl AccessKey {
    /// What the daemon gives a connection of its own: nothing.
    pub(crate) fn nobody() -> AccessKey {
        AccessKey { read: [].into(), subject: None, expires: None, key: None, api: false, write: None }
    }

    /// Whether its connection receives what is published on this channel.
    pub fn may_read(&self, channel: &str) -> bool {
        self.read.binary_search_by(|name| name.as_str().cmp(channel)).is_ok()
    }

    /// Whether its connection may publish on this channel.
    pub fn may_write(&self, channel: &str) -> bool {
        let own = self.write.as_deref().unwrap_or_default();
        own.binary_search_by(|name| name.as_str().cmp(channel)).is_ok()
    }

    /// Whether the HTTP API publishes on this channel for it: any channel, or those of `write` where it has the claim.
    pub fn may_publish(&self, channel: &str) -> bool {
        self.api && (self.write.is_none() || self.may_write(channel))
    }

    /// The channels it publishes on, sorted.
    pub fn write(&self) -> &[ChannelName] {
        self.write.as_deref().unwrap_or_default()
    }
}

/// Why a token is refused. `Display` is the sentence that the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// No token, or an empty one.
    Missing,
    /// Over [`MAX_TOKEN_BYTES`].
    TooLong,
    /// Not three base64url parts with JSON in them, or a header that demands what is not supported.
    Malformed,
    /// An algorithm other than HS256, HS384 and HS512.
    Algorithm,
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
            TokenError::Algorithm => "token_algorithm",
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
            TokenError::Algorithm => "the token's algorithm is not accepted: sign with HS256, HS384 or HS512",
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

/// Checks a token as it stood in a request.
///
/// ```
/// use philote::access_key::{Keys, NewToken, Policy, issue, verify};
///
/// let keys = Keys::new([b"a secret of the server's".as_slice()]);
/// let policy = Policy { leeway: 5, require_expiry: false, issuer: None, audience: None, channels: 16, channel_name_bytes: 255 };
/// let wanted = NewToken { read: vec!["chat".into()], expires: Some(1_000), ..NewToken::default() };
/// let token = issue(&wanted, &keys).unwrap();
///
/// let access = verify(&token, &keys, &policy, 1_004).unwrap();
/// assert_eq!(access.read[0].as_str(), "chat");
/// assert!(verify(&token, &keys, &policy, 1_005).is_err(), "expired: exp plus the leeway has come");
/// ```
pub fn verify(token: &str, keys: &Keys, policy: &Policy, now: UnixSeconds) -> Result<AccessKey, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    verify_in_frame(token, keys, policy, now)
}

/// Checks a token as it stood in a frame, whose own limit is the limit of its length.
pub fn verify_in_frame(
    token: &str,
    keys: &Keys,
    policy: &Policy,
    now: UnixSeconds,
) -> Result<AccessKey, TokenError> {
    if token.is_empty() {
        return Err(TokenError::Missing);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|error| match error.kind() {
        ErrorKind::InvalidAlgorithmName
        | ErrorKind::UnsupportedAlgorithm
        | ErrorKind::InvalidAlgorithm
        | ErrorKind::MissingAlgorithm => TokenError::Algorithm,
        _ => TokenError::Malformed,
    })?;
    if !AlgorithmFamily::Hmac.algorithms().contains(&header.alg) {
        return Err(TokenError::Algorithm);
    }
    if header.crit.is_some() {
        return Err(TokenError::Critical);
    }
    if header.kid.is_some() {
        return Err(TokenError::UnknownKey);
    }
    let (claims, key) = decode(token, keys)?;
    claims.check(key, policy, now)
}

/// Finds the key that signed the token, and what it claims.
fn decode(token: &str, keys: &Keys) -> Result<(Claims, Arc<Key>), TokenError> {
    let mut validation = Validation::new_for_family(AlgorithmFamily::Hmac);
    // The library asks the system's clock; ours is passed in, so that tokens and live connections agree on it.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    for key in &keys.0 {
        match jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation) {
            Ok(data) => return Ok((data.claims, key.clone())),
            Err(error) => match error.kind() {
                ErrorKind::InvalidSignature => {}
                ErrorKind::Json(error) => return Err(wrong_claim(error)),
                _ => return Err(TokenError::Malformed),
            },
        }
    }
    Err(TokenError::BadSignature)
}

/// serde's message may quote what it read; only the name of the claim goes out.
fn wrong_claim(error: &serde_json::Error) -> TokenError {
    let text = error.to_string();
    let named = CLAIMS.iter().find(|name| text.starts_with(&format!("{name}:")));
    named.map_or(TokenError::Malformed, |name| TokenError::Claim(name))
}

const CLAIMS: [&str; 8] = ["read", "write", "api", "sub", "exp", "nbf", "iss", "aud"];

/// The claims that mean something, as they stood there.
struct Claims(ClaimsObject);

#[derive(Deserialize)]
struct ClaimsObject {
    #[serde(default, deserialize_with = "read")]
    read: Option<Vec<String>>,
    #[serde(default, deserialize_with = "write")]
    write: Option<Vec<String>>,
    #[serde(default, deserialize_with = "api")]
    api: Option<bool>,
    #[serde(default, deserialize_with = "sub")]
    sub: Option<String>,
    #[serde(default, deserialize_with = "exp")]
    exp: Option<f64>,
    #[serde(default, deserialize_with = "nbf")]
    nbf: Option<f64>,
    #[serde(default)]
    iss: serde_json::Value,
    #[serde(default)]
    aud: serde_json::Value,
}

/// A reader of one claim whose errors begin with the claim's name, and what it makes of a null.
macro_rules! claim {
    ($name:ident: $type:ty, $null:expr) => {
        fn $name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<$type>, D::Error> {
            match <Option<$type>>::deserialize(deserializer) {
                Ok(None) => $null.map_err(D::Error::custom),
                Ok(value) => Ok(value),
                Err(_) => Err(D::Error::custom(concat!(stringify!($name), ":"))),
            }
        }
    };
}

claim!(read: Vec<String>, Ok::<_, &str>(Some(Vec::new())));
claim!(write: Vec<String>, Ok::<_, &str>(Some(Vec::new())));
claim!(api: bool, Ok::<_, &str>(None));
claim!(sub: String, Ok::<_, &str>(None));
// A null date is not the absence of a limit.
claim!(exp: f64, Err("exp:"));
claim!(nbf: f64, Err("nbf:"));

impl<'de> Deserialize<'de> for Claims {
    /// Only an object: a derived struct would take an array too.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ClaimsVisitor;
        impl<'de> Visitor<'de> for ClaimsVisitor {
            type Value = ClaimsObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ClaimsObject, A::Error> {
                ClaimsObject::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(ClaimsVisitor).map(Claims)
    }
}

impl Claims {
    fn check(self, key: Arc<Key>, policy: &Policy, now: UnixSeconds) -> Result<AccessKey, TokenError> {
        let Claims(claims) = self;
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
            return Err(TokenError::Claim("sub"));
        }
        Ok(AccessKey {
            read: channels(claims.read.unwrap_or_default(), "read", policy)?,
            write: claims.write.map(|names| channels(names, "write", policy)).transpose()?,
            api: claims.api.unwrap_or_default(),
            subject: claims.sub.map(String::into_boxed_str),
            expires,
            key: Some(key),
        })
    }
}

/// A NumericDate in whole seconds; a fraction is cut off.
fn date(value: f64, claim: &'static str) -> Result<UnixSeconds, TokenError> {
    if value >= 0.0 && value <= MAX_DATE as f64 {
        Ok(value as UnixSeconds)
    } else {
        Err(TokenError::Claim(claim))
    }
}

fn channels(
    names: Vec<String>,
    claim: &'static str,
    policy: &Policy,
) -> Result<Box<[ChannelName]>, TokenError> {
    if names.len() > policy.channels {
        return Err(TokenError::TooManyChannels);
    }
    let check = |name: &String| ChannelName::new(name, policy.channel_name_bytes);
    let names: Result<Vec<_>, _> = names.iter().map(check).collect();
    let mut names = names.map_err(|_| TokenError::Claim(claim))?;
    names.sort_unstable();
    names.dedup();
    Ok(names.into_boxed_slice())
}

/// What a token says, believed or not, and what this server makes of it.
#[derive(Debug)]
pub struct Inspection {
    /// The header, where it can be decoded.
    pub header: Option<serde_json::Value>,
    /// The claims, where they can be decoded.
    pub claims: Option<serde_json::Value>,
    /// Which key signed it, counted from 0; none of them did otherwise.
    pub signed_by: Option<usize>,
    /// What its bearer may do, or why it is refused.
    pub verdict: Result<AccessKey, TokenError>,
}

/// Takes a token apart for its administrator.
pub fn inspect(token: &str, keys: &Keys, policy: &Policy, now: UnixSeconds) -> Inspection {
    let signed_by =
        decode(token, keys).ok().and_then(|(_, key)| keys.0.iter().position(|own| Arc::ptr_eq(own, &key)));
    Inspection {
        header: jsonwebtoken::decode_header(token).ok().and_then(|header| serde_json::to_value(header).ok()),
        claims: jsonwebtoken::dangerous::insecure_decode_claims(token).ok(),
        signed_by,
        verdict: verify(token, keys, policy, now),
    }
}

/// The `sub` that a token claims, believed or not: to find the refusals of somebody whose token is no good.
pub fn claimed_subject(token: &str) -> Option<Box<str>> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let claims: serde_json::Value = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    claims.get("sub")?.as_str().filter(|sub| sub.len() <= MAX_SUBJECT_BYTES).map(Box::from)
}

/// A token to be made. An absent field is an absent claim.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewToken {
    /// The channels that its bearer receives.
    pub read: Vec<String>,
    /// The channels that its bearer publishes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<Vec<String>>,
    /// Whether it opens the HTTP API.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub api: bool,
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

/// Signs a token with the first key, by HS256.
///
/// # Errors
/// Without a key there is nothing to sign with.
pub fn issue(token: &NewToken, keys: &Keys) -> Result<String, IssueError> {
    let key = keys.0.first().ok_or(IssueError)?;
    let encoding = EncodingKey::from_secret(&key.secret);
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), token, &encoding).map_err(|_| IssueError)
}

/// No token can be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IssueError;

impl fmt::Display for IssueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this server has no key to sign a token with")
    }
}

impl std::error::Error for IssueError {}

#[cfg(test)]
mod tests;
