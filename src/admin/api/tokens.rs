//! Issuing and inspecting tokens.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Hidden, Timestamp};
use crate::token::{ApiRights, NewMay};

/// The default lifetime of a token: long enough to try things for a week, and short enough to be forgotten afterwards.
pub const DEFAULT_TOKEN_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A request for a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Channels that it may read. With `api`, the HTTP API shows only these channels, or all if there are none.
    #[serde(default)]
    pub read: Vec<String>,
    /// Channels that it may write. `None` leaves the claim out; with `api`, the token may then publish on any channel.
    #[serde(default)]
    pub write: Option<Vec<String>>,
    /// Patterns of channels that it may join, and on which it may publish besides.
    #[serde(default, skip_serializing_if = "NewMay::is_empty")]
    pub may: NewMay,
    /// Whether it may see who reads the channels that it reads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub presence: bool,
    /// What others see of it there, an object of at most [`MAX_INFO_BYTES`].
    ///
    /// [`MAX_INFO_BYTES`]: crate::token::MAX_INFO_BYTES
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<serde_json::Map<String, serde_json::Value>>,
    /// Its rights to the HTTP API: `true` for all, or an array of rights.
    #[serde(default)]
    pub api: ApiRights,
    /// Its subject (`sub`).
    #[serde(default)]
    pub subject: Option<String>,
    /// Seconds until it expires; [`DEFAULT_TOKEN_LIFE`] if absent, never if `null`.
    #[serde(default = "default_token_life")]
    pub expires_in: Option<u64>,
}

#[expect(clippy::unnecessary_wraps, reason = "serde needs this type, because absent differs from null")]
fn default_token_life() -> Option<u64> {
    Some(DEFAULT_TOKEN_LIFE.as_secs())
}

/// A new token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// The token.
    pub token: Hidden,
    /// When it expires; `None` for never.
    pub expires_at: Option<Timestamp>,
}

/// A request to inspect a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectRequest {
    /// The token.
    pub token: Hidden,
}

/// The contents of a token, and whether this daemon accepts it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Whether this daemon would accept it now.
    pub accepted: bool,
    /// Why not, in the sentence that a client would receive; `None` if accepted.
    pub reason: Option<String>,
    /// The decoded header; `None` if it cannot be decoded.
    pub header: Option<serde_json::Value>,
    /// The decoded claims, verified or not; `None` if they cannot be decoded.
    pub claims: Option<serde_json::Value>,
    /// Which key signed it (`secret, line 1`, `public_keys /path#kid`, `jwks_file /path#kid`); `None` if none of them
    /// did.
    pub signed_by: Option<String>,
    /// When it expires; `None` for never or unknown.
    pub expires_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_lifetime_differs_from_null() {
        let read = |text| serde_json::from_str::<TokenRequest>(text).unwrap();
        assert_eq!(read("{}").expires_in, Some(604_800));
        assert_eq!(read(r#"{"expires_in": null}"#).expires_in, None);
        assert_eq!(read(r#"{"expires_in": 60}"#).expires_in, Some(60));
        assert_eq!(read("{}").write, None);
        assert_eq!(read(r#"{"write": []}"#).write, Some(Vec::new()));
        assert!(
            serde_json::from_str::<TokenRequest>(r#"{"reads": []}"#).is_err(),
            "an unknown field is an error"
        );
    }
}
