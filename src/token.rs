//! JSON Web Tokens: what a bearer may do, checked against the server's keys. The time is passed in.
//!
//! [`Keys`] are what a token may be signed with, [`verify()`] is the way from a token to an [`Claims`], [`issue()`]
//! makes one.

mod diagnosis;
mod error;
mod issue;
mod keys;
mod length;
mod rights;
mod secret_file;
mod verify;

use std::sync::Arc;

pub use self::error::{ClaimError, TokenError};
pub use self::issue::{IssueError, NewToken, issue};
pub use self::keys::{Algorithms, Key, Keys};
pub use self::length::{MAX_REQUEST_TOKEN_BYTES, MAX_TOKEN_BYTES};
pub use self::rights::{ApiRight, ApiRights};
pub use self::secret_file::{SecretFileError, signing_secret};
pub use self::verify::{Inspection, claimed_subject, inspect, verify, verify_in_frame};
use crate::message::ChannelName;

/// Seconds since 1970-01-01 UTC, as in the claims `exp` and `nbf` (RFC 7519 section 2, NumericDate).
pub type UnixSeconds = u64;

/// The longest `sub`, in bytes: it stands in every message that its bearer publishes.
pub const MAX_SUBJECT_BYTES: usize = 255;

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
pub struct Claims {
    /// The channels it receives, sorted, none twice.
    pub read: Box<[ChannelName]>,
    /// Who it is, if the token says so.
    pub subject: Option<Box<str>>,
    /// Its `exp`: with the leeway added, the first second at which it is refused.
    pub expires: Option<UnixSeconds>,
    /// The key that signed it; none for the daemon itself.
    pub key: Option<Arc<Key>>,
    /// What it opens of the HTTP API.
    pub api: ApiRights,
    /// How long its token was, in bytes; 0 for the daemon itself.
    token_bytes: usize,
    /// Whether it has the claim `read`, which narrows what the API shows.
    reads: bool,
    /// The channels it publishes on, sorted, none twice. `None` stands for a token without the claim.
    write: Option<Box<[ChannelName]>>,
}

impl Claims {
    /// What the daemon gives a connection of its own: nothing.
    pub(crate) fn nobody() -> Claims {
        Claims {
            read: [].into(),
            subject: None,
            expires: None,
            key: None,
            api: ApiRights::NONE,
            token_bytes: 0,
            reads: true,
            write: None,
        }
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
        self.api.has(ApiRight::Publish) && (self.write.is_none() || self.may_write(channel))
    }

    /// Whether the HTTP API shows this channel to it: any channel, or those of `read` where it has the claim.
    pub fn may_see(&self, channel: &str) -> bool {
        !self.reads || self.may_read(channel)
    }

    /// The channels it publishes on, sorted.
    pub fn write(&self) -> &[ChannelName] {
        self.write.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
