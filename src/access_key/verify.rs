//! From a token to what its bearer may do: the header chooses the keys, a signature is checked, then the claims.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor, value::MapAccessDeserializer};

use super::{
    AccessKey, ApiRights, Key, Keys, MAX_SUBJECT_BYTES, MAX_TOKEN_BYTES, Policy, TokenError, UnixSeconds,
};
use crate::message::ChannelName;
use crate::moment::MAX_DATE;

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
    let (claims, key) = decode(token, keys)?;
    claims.check(key, policy, now)
}

/// Finds the key that signed the token, and what it claims.
///
/// The keys that are tried are those with the token's `kid`, or all where it has none, and of these only the ones that
/// its algorithm is for: a public key is never taken for a secret.
fn decode(token: &str, keys: &Keys) -> Result<(Claims, Arc<Key>), TokenError> {
    let header = jsonwebtoken::decode_header(token).map_err(|error| match error.kind() {
        ErrorKind::InvalidAlgorithmName
        | ErrorKind::UnsupportedAlgorithm
        | ErrorKind::InvalidAlgorithm
        | ErrorKind::MissingAlgorithm => TokenError::Algorithm(keys.algorithms()),
        _ => TokenError::Malformed,
    })?;
    if header.crit.is_some() {
        return Err(TokenError::Critical);
    }
    let kid = header.kid.as_deref();
    let mut candidates = keys.candidates(kid, header.alg).peekable();
    if candidates.peek().is_none() {
        let unknown = kid.is_some() && keys.named(kid).next().is_none();
        let known_algorithm = keys.candidates(None, header.alg).next().is_some();
        return Err(if unknown && known_algorithm {
            TokenError::UnknownKey
        } else {
            TokenError::Algorithm(keys.algorithms())
        });
    }
    for key in candidates {
        let (decoding, validation) = key.verifier();
        match jsonwebtoken::decode::<Claims>(token, decoding, validation) {
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
    api: Option<ApiRights>,
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
claim!(api: ApiRights, Ok::<_, &str>(None));
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
            reads: claims.read.is_some(),
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
    /// Which key signed it, as a phrase; none of them did otherwise.
    pub signed_by: Option<Box<str>>,
    /// What its bearer may do, or why it is refused.
    pub verdict: Result<AccessKey, TokenError>,
}

/// Takes a token apart for its administrator.
pub fn inspect(token: &str, keys: &Keys, policy: &Policy, now: UnixSeconds) -> Inspection {
    let signed_by = decode(token, keys).ok().map(|(_, key)| key.name().into());
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
