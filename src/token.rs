//! JSON Web Tokens: verifies and issues them. The current time is an argument.
//!
//! In reading order: [`verify()`] turns a token into [`Claims`] by means of [`Keys`] and a [`Policy`]; `diagnosis` explains
//! invalid claims; `length` bounds tokens; [`ApiRights`] is the claim `api` and [`May`] the claim `may`; [`issue()`] signs a
//! token; [`signing_secret`] reads the secret of a command-line program.

mod diagnosis;
mod error;
mod issue;
mod keys;
mod length;
mod may;
mod rights;
mod secret_file;
mod values;
mod verify;

use std::sync::Arc;

pub use self::error::{ClaimError, TokenError};
pub use self::issue::{IssueError, NewToken, issue};
pub use self::keys::{Algorithms, Key, Keys};
pub use self::length::{MAX_REQUEST_TOKEN_BYTES, MAX_TOKEN_BYTES};
pub use self::may::{May, NewMay};
pub use self::rights::{ApiRight, ApiRights};
pub use self::secret_file::{SecretFileError, signing_secret};
pub use self::verify::{Inspection, channels_to_join, claimed_subject, inspect, verify, verify_in_frame};
use crate::message::{ChannelName, ChannelPatterns};

/// Seconds since 1970-01-01 UTC, as in the claims `exp` and `nbf` (RFC 7519 section 2, NumericDate).
pub type UnixSeconds = u64;

/// The longest `sub`, in bytes. Every message that the client publishes contains it.
pub const MAX_SUBJECT_BYTES: usize = 255;

/// The most patterns in each of the lists of `may`: rules for channels, not a list of them, which is what `read` and `write`
/// are for. The same holds for `presence`.
pub const MAX_PATTERNS: usize = 64;

/// The longest `info`, in bytes of JSON without white space: a name and the address of a picture.
pub const MAX_INFO_BYTES: usize = 256;

/// The requirements for a token besides its signature.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `[auth] leeway` in seconds: the clock skew allowed for `exp` and `nbf`.
    pub leeway: u64,
    /// `[auth] require_expiry`: tokens without `exp` are refused.
    pub require_expiry: bool,
    /// `[auth] issuer`: the `iss` that tokens must have.
    pub issuer: Option<String>,
    /// `[auth] audience`: the audience that `aud` must contain.
    pub audience: Option<String>,
    /// `[limits] channels_per_token`: the most channels in each of `read` and `write`.
    pub channels: usize,
    /// `[limits] channel_name_bytes`.
    pub channel_name_bytes: usize,
}

/// The claims of a valid token: what its client may do.
#[derive(Debug)]
pub struct Claims {
    /// The channels that the client receives, sorted and without duplicates.
    pub read: Box<[ChannelName]>,
    /// The name of the client (`sub`), if the token has one.
    pub subject: Option<Box<str>>,
    /// `exp`. The token is refused from this time plus the leeway on.
    pub expires: Option<UnixSeconds>,
    /// The key that signed the token; `None` for the daemon itself.
    pub key: Option<Arc<Key>>,
    /// The rights on the HTTP API.
    pub api: ApiRights,
    /// The claim `info`: what presence tells about the subject, as JSON text.
    pub info: Option<Arc<str>>,
    /// The claim `presence`: the channels whose readers the client may see.
    pub presence: Option<Box<ChannelPatterns>>,
    /// The length of the token, in bytes; 0 for the daemon itself.
    token_bytes: usize,
    /// Whether the token has the claim `read`, which restricts the channels that the API shows.
    reads: bool,
    /// The channels on which the client publishes, sorted and without duplicates; `None` without the claim `write`.
    write: Option<Box<[ChannelName]>>,
    /// The claim `may`. It is looked at only for a channel that `read` or `write` does not name.
    may: Option<Box<May>>,
}

impl Claims {
    /// Returns claims without any rights, for connections of the daemon itself.
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
            may: None,
            info: None,
            presence: None,
        }
    }

    /// Returns whether the claim `read` names this channel. What a connection reads now, [`Connection::reads`] knows.
    ///
    /// [`Connection::reads`]: crate::hub::Connection::reads
    pub fn may_read(&self, channel: &str) -> bool {
        self.read.binary_search_by(|name| name.as_str().cmp(channel)).is_ok()
    }

    /// Returns whether the client may join this channel, or reads it without joining.
    pub fn may_join(&self, channel: &str) -> bool {
        self.may_read(channel) || matches(self.may.as_ref().and_then(|may| may.read.as_ref()), channel)
    }

    /// Returns whether the client may publish on this channel.
    pub fn may_write(&self, channel: &str) -> bool {
        let own = self.write.as_deref().unwrap_or_default();
        own.binary_search_by(|name| name.as_str().cmp(channel)).is_ok()
            || matches(self.may.as_ref().and_then(|may| may.write.as_ref()), channel)
    }

    /// Returns whether the client may publish on this channel through the HTTP API. Without the claim `write` and without
    /// `write` in `may`, it may do so on every channel.
    pub fn may_publish(&self, channel: &str) -> bool {
        let restricted = self.write.is_some() || self.may.as_ref().is_some_and(|may| may.write.is_some());
        self.api.has(ApiRight::Publish) && (!restricted || self.may_write(channel))
    }

    /// Returns whether the HTTP API shows the client only channels that it may join, because its token says which these are.
    pub fn sees_only_some(&self) -> bool {
        self.reads || self.may.as_ref().is_some_and(|may| may.read.is_some())
    }

    /// Returns whether the HTTP API shows this channel to the client. Without the claim `read` and without `read` in `may`,
    /// it shows every channel.
    pub fn may_see(&self, channel: &str) -> bool {
        !self.sees_only_some() || self.may_join(channel)
    }

    /// Returns whether the client may see who reads this channel, provided that it reads the channel itself.
    pub fn may_see_presence(&self, channel: &str) -> bool {
        matches(self.presence.as_deref(), channel)
    }

    /// Returns the claim `may`, if the token has it.
    pub fn may(&self) -> Option<&May> {
        self.may.as_deref()
    }

    /// Returns the channels on which the client publishes, sorted.
    pub fn write(&self) -> &[ChannelName] {
        self.write.as_deref().unwrap_or_default()
    }
}

fn matches(patterns: Option<&ChannelPatterns>, channel: &str) -> bool {
    patterns.is_some_and(|patterns| patterns.matches(channel))
}

#[cfg(test)]
mod tests;
