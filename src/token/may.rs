//! The claims of rooms: `may`, the channels that the client may join and on which it may publish, by name or by the
//! beginning of their names; `presence`, those whose readers it may see; and `info`, what it tells of itself there.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::values::{names, object, wrong_name};
use super::{ClaimError, MAX_INFO_BYTES, MAX_PATTERNS, Policy, TokenError};
use crate::message::{ChannelPattern, ChannelPatterns};

/// What the claim must be.
pub(super) const MAY: &str =
    "an object whose keys read and write have arrays of at most 64 channel names or beginnings";

/// The claim `may`. A list that is absent does not restrict what the HTTP API allows; one that is null is empty and does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct May {
    /// The channels that the client may join.
    pub read: Option<ChannelPatterns>,
    /// The channels on which the client may publish besides those of `write`.
    pub write: Option<ChannelPatterns>,
}

/// The claim `may` of a token to issue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMay {
    /// The patterns of channels that the client may join.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<String>,
    /// The patterns of channels on which the client may publish.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<String>,
}

impl NewMay {
    /// Returns whether it has no patterns, so that the claim is left out.
    pub fn is_empty(&self) -> bool {
        self.read.is_empty() && self.write.is_empty()
    }
}

/// The claim before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MayObject {
    #[serde(default, deserialize_with = "names")]
    read: Option<Vec<String>>,
    #[serde(default, deserialize_with = "names")]
    write: Option<Vec<String>>,
}

/// The claim before it is checked, which must be an object.
pub(super) struct RawMay(MayObject);

impl<'de> Deserialize<'de> for RawMay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(RawMay)
    }
}

/// Reads the claim. Null is the claim with two empty lists, for the same reason as in [`names`].
pub(super) fn may<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<RawMay>, D::Error> {
    let none = || RawMay(MayObject { read: Some(Vec::new()), write: Some(Vec::new()) });
    Option::deserialize(deserializer).map(|may| Some(may.unwrap_or_else(none)))
}

impl RawMay {
    pub(super) fn check(self, policy: &Policy) -> Result<May, TokenError> {
        let RawMay(MayObject { read, write }) = self;
        let check =
            |list: Option<Vec<String>>| list.map(|list| patterns(&list, "may", MAY, policy)).transpose();
        Ok(May { read: check(read)?, write: check(write)? })
    }
}

/// Checks the patterns of a claim.
pub(super) fn patterns(
    texts: &[String],
    claim: &'static str,
    expected: &'static str,
    policy: &Policy,
) -> Result<ChannelPatterns, TokenError> {
    if texts.len() > MAX_PATTERNS {
        let found = "one with more than 64 entries in an array";
        return Err(TokenError::Claim(claim, ClaimError::Value { expected, found }));
    }
    let check = |text: &String| ChannelPattern::new(text, policy.channel_name_bytes);
    let patterns: Result<ChannelPatterns, _> = texts.iter().map(check).collect();
    patterns.map_err(|error| TokenError::Claim(claim, wrong_name(&error, expected)))
}

/// What the claim `presence` must be.
pub(super) const PRESENCE: &str = "true, false or an array of at most 64 channel names or beginnings";

/// What the claim `info` must be.
pub(super) const INFO: &str = "an object of at most 256 bytes";

/// The claim `presence` before it is checked.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum RawPresence {
    All(bool),
    Some(Vec<String>),
}

impl RawPresence {
    pub(super) fn check(self, policy: &Policy) -> Result<Option<ChannelPatterns>, TokenError> {
        match self {
            RawPresence::All(false) => Ok(None),
            RawPresence::All(true) => patterns(&["*".to_owned()], "presence", PRESENCE, policy).map(Some),
            RawPresence::Some(texts) => patterns(&texts, "presence", PRESENCE, policy).map(Some),
        }
    }
}

/// Checks the claim `info`, and returns its JSON text.
pub(super) fn check_info(info: Map<String, Value>) -> Result<Arc<str>, TokenError> {
    let text = Value::Object(info).to_string();
    if text.len() > MAX_INFO_BYTES {
        let found = "a longer one";
        return Err(TokenError::Claim("info", ClaimError::Value { expected: INFO, found }));
    }
    Ok(text.into())
}
