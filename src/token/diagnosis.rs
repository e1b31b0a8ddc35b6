//! Explains why claims cannot be parsed. It names types and never shows a value, which may be a secret.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::Algorithm;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::may::{INFO, MAY, PRESENCE};
use super::{ApiRight, ClaimError, Keys, TokenError};

/// What `read` and `write` must be.
pub(super) const NAMES: &str = "an array of channel names";
/// What `exp` and `nbf` must be.
pub(super) const DATE: &str = "a number of seconds since 1970";
/// What `sub` must be.
pub(super) const SUBJECT: &str = "a string of at most 255 bytes";
/// What `api` must be.
const RIGHTS: &str =
    "true, false or an array of rights (publish, channels, subjects, connections, disconnect, info, events)";

/// A known claim: its name, what it must be, and a function that describes an invalid value.
type Rule = (&'static str, &'static str, fn(&Value) -> Option<&'static str>);

const RULES: [Rule; 11] = [
    ("read", NAMES, not_names),
    ("write", NAMES, not_names),
    ("may", MAY, not_may),
    ("presence", PRESENCE, not_presence),
    ("info", INFO, not_an_object),
    ("api", RIGHTS, not_rights),
    ("sub", SUBJECT, not_text),
    ("exp", DATE, not_a_date),
    ("nbf", DATE, not_a_date),
    ("iss", "a string", |_| None),
    ("aud", "a string or an array of strings", |_| None),
];

/// Returns why the claims of a token with a valid signature cannot be parsed.
#[cold]
pub(super) fn diagnose(token: &str) -> TokenError {
    let Ok(RawClaims(claims)) = jsonwebtoken::dangerous::insecure_decode_claims(token) else {
        return TokenError::NotClaims;
    };
    for (name, expected, wrong) in RULES {
        let mut values = claims.iter().filter(|(known, _)| *known == name).map(|(_, value)| value);
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return TokenError::Claim(name, ClaimError::Twice);
        }
        if let Some(found) = wrong(value) {
            return TokenError::Claim(name, ClaimError::Value { expected, found });
        }
    }
    // The JSON is invalid for another reason, such as a number out of range.
    TokenError::NotClaims
}

/// Returns why the header of a token cannot be parsed.
#[cold]
pub(super) fn diagnose_header(token: &str, keys: &Keys) -> TokenError {
    let header = token.split('.').next().and_then(|header| BASE64.decode(header).ok());
    match header.and_then(|header| serde_json::from_slice::<Value>(&header).ok()) {
        // `alg` is absent, is not a string, or names an algorithm that the library does not know, such as `none`.
        Some(Value::Object(header)) if token.split('.').count() == 3 && !known_algorithm(&header) => {
            TokenError::Algorithm(keys.algorithms())
        }
        _ => TokenError::Malformed,
    }
}

fn known_algorithm(header: &Map<String, Value>) -> bool {
    let name = header.get("alg").and_then(Value::as_str);
    name.is_some_and(|name| name.parse::<Algorithm>().is_ok())
}

/// The claims of [`RULES`] in the order of the token, including duplicates.
struct RawClaims(Vec<(&'static str, Value)>);

impl<'de> Deserialize<'de> for RawClaims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ClaimsVisitor;
        impl<'de> Visitor<'de> for ClaimsVisitor {
            type Value = RawClaims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawClaims, A::Error> {
                let mut claims = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let value = map.next_value()?;
                    if let Some((known, ..)) = RULES.iter().find(|(known, ..)| *known == name) {
                        claims.push((*known, value));
                    }
                }
                Ok(RawClaims(claims))
            }
        }
        deserializer.deserialize_map(ClaimsVisitor)
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn not_names(value: &Value) -> Option<&'static str> {
    match value {
        Value::Null => None,
        Value::Array(items) => match items.iter().find(|item| !item.is_string())? {
            Value::Null => Some("an array with null in it"),
            Value::Bool(_) => Some("an array with a boolean in it"),
            Value::Number(_) => Some("an array with a number in it"),
            Value::Array(_) => Some("an array with an array in it"),
            _ => Some("an array with an object in it"),
        },
        other => Some(type_of(other)),
    }
}

fn not_may(value: &Value) -> Option<&'static str> {
    match value {
        Value::Null => None,
        Value::Object(lists) if lists.keys().any(|key| !["read", "write"].contains(&key.as_str())) => {
            Some("one with another key")
        }
        Value::Object(lists) if lists.values().any(|list| not_names(list).is_some()) => {
            Some("one with something else in read or write")
        }
        Value::Object(_) => None,
        other => Some(type_of(other)),
    }
}

fn not_presence(value: &Value) -> Option<&'static str> {
    if value.is_boolean() { None } else { not_names(value) }
}

fn not_an_object(value: &Value) -> Option<&'static str> {
    let fits = value.is_object() || value.is_null();
    (!fits).then(|| type_of(value))
}

fn not_rights(value: &Value) -> Option<&'static str> {
    match value {
        Value::Array(items) => {
            let known = |item: &Value| item.as_str().is_some_and(|name| ApiRight::named(name).is_some());
            not_names(value)
                .or_else(|| (!items.iter().all(known)).then_some("an array with an unknown right in it"))
        }
        Value::Null | Value::Bool(_) => None,
        other => Some(type_of(other)),
    }
}

fn not_text(value: &Value) -> Option<&'static str> {
    match value {
        Value::Null | Value::String(_) => None,
        other => Some(type_of(other)),
    }
}

fn not_a_date(value: &Value) -> Option<&'static str> {
    match value {
        Value::Number(_) => None,
        Value::Null => Some("null; leave the claim out for no limit"),
        other => Some(type_of(other)),
    }
}
