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
use crate::message::{ChannelNames, ChannelPatterns};

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

/// The claims of a valid token: what its client may do. Every connection keeps them, so its texts are one allocation, and
/// the claims that few tokens have are another.
#[derive(Debug)]
pub struct Claims {
    /// The names of `read`, those of `write` if they are others, and the subject.
    text: Box<str>,
    read_bytes: u32,
    /// The length of the token, in bytes; 0 for the daemon itself.
    token_bytes: u32,
    subject_bytes: u16,
    has_subject: bool,
    /// Whether the claim `write` names the same channels as `read`, so that the text has them once.
    writes_what_it_reads: bool,
    /// Whether the token has the claim `read`, which restricts the channels that the API shows.
    reads: bool,
    /// Whether it has the claim `write`.
    writes: bool,
    /// The rights on the HTTP API.
    pub api: ApiRights,
    /// The claim `exp`, or [`NO_EXPIRY`].
    expires: UnixSeconds,
    /// The key that signed the token; `None` for the daemon itself.
    pub key: Option<Arc<Key>>,
    rooms: Option<Box<RoomClaims>>,
}

/// Stands for a token without `exp`. No valid date is as large.
const NO_EXPIRY: UnixSeconds = UnixSeconds::MAX;

/// The claims of rooms.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RoomClaims {
    /// The claim `info`: what presence tells about the subject, as JSON text.
    pub(crate) info: Option<Arc<str>>,
    /// The claim `presence`: the channels whose readers the client may see.
    pub(crate) presence: Option<ChannelPatterns>,
    /// The claim `may`. It is looked at only for a channel that `read` or `write` does not name.
    pub(crate) may: Option<May>,
}

/// Claims that were checked one by one.
#[derive(Default)]
pub(crate) struct CheckedClaims {
    /// The channels that the client receives, sorted and without duplicates.
    pub(crate) read: Option<Vec<String>>,
    /// The channels on which the client publishes, sorted and without duplicates.
    pub(crate) write: Option<Vec<String>>,
    pub(crate) subject: Option<String>,
    pub(crate) expires: Option<UnixSeconds>,
    pub(crate) key: Option<Arc<Key>>,
    pub(crate) api: ApiRights,
    pub(crate) token_bytes: usize,
    pub(crate) rooms: RoomClaims,
}

impl From<CheckedClaims> for Claims {
    fn from(checked: CheckedClaims) -> Claims {
        let (reads, writes) = (checked.read.is_some(), checked.write.is_some());
        let (read, write) = (checked.read.unwrap_or_default(), checked.write.unwrap_or_default());
        let read_bytes = ChannelNames::length_of(&read);
        let subject = checked.subject.as_deref().unwrap_or_default();
        let writes_what_it_reads = read == write;
        let own = if writes_what_it_reads { &[][..] } else { &write[..] };
        let mut text = String::with_capacity(read_bytes + ChannelNames::length_of(own) + subject.len());
        ChannelNames::append(&read, &mut text);
        ChannelNames::append(own, &mut text);
        text.push_str(subject);
        Claims {
            text: text.into_boxed_str(),
            // Smaller than the token, which has at most MAX_TOKEN_BYTES.
            read_bytes: read_bytes as u32,
            token_bytes: checked.token_bytes as u32,
            // At most MAX_SUBJECT_BYTES.
            subject_bytes: subject.len() as u16,
            writes_what_it_reads,
            has_subject: checked.subject.is_some(),
            reads,
            writes,
            api: checked.api,
            expires: checked.expires.unwrap_or(NO_EXPIRY),
            key: checked.key,
            rooms: Some(checked.rooms).filter(|rooms| *rooms != RoomClaims::default()).map(Box::new),
        }
    }
}

impl Claims {
    /// Returns claims without any rights, for connections of the daemon itself.
    pub(crate) fn nobody() -> Claims {
        CheckedClaims { read: Some(Vec::new()), ..CheckedClaims::default() }.into()
    }

    /// Returns the channels that the client receives.
    pub fn read(&self) -> ChannelNames<'_> {
        ChannelNames::of(&self.text[..self.read_bytes as usize])
    }

    /// Returns the channels on which the client publishes.
    pub fn write(&self) -> ChannelNames<'_> {
        let start = if self.writes_what_it_reads { 0 } else { self.read_bytes as usize };
        ChannelNames::of(&self.text[start..self.subject_at()])
    }

    /// Returns the name of the client (`sub`), if the token has one.
    pub fn subject(&self) -> Option<&str> {
        self.has_subject.then(|| &self.text[self.subject_at()..])
    }

    fn subject_at(&self) -> usize {
        self.text.len() - usize::from(self.subject_bytes)
    }

    /// Returns the claim `exp`. The token is refused from this time plus the leeway on.
    pub fn expires(&self) -> Option<UnixSeconds> {
        Some(self.expires).filter(|expires| *expires != NO_EXPIRY)
    }

    /// Returns the claim `info`: what presence tells about the subject, as JSON text.
    pub fn info(&self) -> Option<&Arc<str>> {
        self.rooms.as_ref()?.info.as_ref()
    }

    /// Returns the claim `presence`: the channels whose readers the client may see.
    pub fn presence(&self) -> Option<&ChannelPatterns> {
        self.rooms.as_ref()?.presence.as_ref()
    }

    /// Returns the claim `may`, if the token has it.
    pub fn may(&self) -> Option<&May> {
        self.rooms.as_ref()?.may.as_ref()
    }

    /// Returns the claims with these channels in `read`, sorted and without duplicates, all of which the client may join.
    pub(crate) fn reading(self, channels: &[String]) -> Claims {
        let write: Vec<String> = self.write().iter().map(str::to_owned).collect();
        let writes_what_it_reads = channels == write;
        let own = if writes_what_it_reads { &[][..] } else { &write[..] };
        let read_bytes = ChannelNames::length_of(channels);
        let mut text = String::new();
        ChannelNames::append(channels, &mut text);
        ChannelNames::append(own, &mut text);
        text.push_str(self.subject().unwrap_or_default());
        let text = text.into_boxed_str();
        Claims { text, read_bytes: read_bytes as u32, writes_what_it_reads, ..self }
    }

    /// Returns whether the claim `read` names this channel. What a connection reads now, [`Connection::reads`] knows.
    ///
    /// [`Connection::reads`]: crate::hub::Connection::reads
    pub fn may_read(&self, channel: &str) -> bool {
        self.read().contains(channel)
    }

    /// Returns whether the client may join this channel, or reads it without joining.
    pub fn may_join(&self, channel: &str) -> bool {
        self.may_read(channel) || matches(self.may().and_then(|may| may.read.as_ref()), channel)
    }

    /// Returns whether the client may publish on this channel.
    pub fn may_write(&self, channel: &str) -> bool {
        self.write().contains(channel) || matches(self.may().and_then(|may| may.write.as_ref()), channel)
    }

    /// Returns whether the client may publish on this channel through the HTTP API. Without the claim `write` and without
    /// `write` in `may`, it may do so on every channel.
    pub fn may_publish(&self, channel: &str) -> bool {
        let restricted = self.writes || self.may().is_some_and(|may| may.write.is_some());
        self.api.has(ApiRight::Publish) && (!restricted || self.may_write(channel))
    }

    /// Returns whether the HTTP API shows the client only channels that it may join, because its token says which these are.
    pub fn sees_only_some(&self) -> bool {
        self.reads || self.may().is_some_and(|may| may.read.is_some())
    }

    /// Returns whether the HTTP API shows this channel to the client. Without the claim `read` and without `read` in `may`,
    /// it shows every channel.
    pub fn may_see(&self, channel: &str) -> bool {
        !self.sees_only_some() || self.may_join(channel)
    }

    /// Returns whether the client may see who reads this channel, provided that it reads the channel itself.
    pub fn may_see_presence(&self, channel: &str) -> bool {
        matches(self.presence(), channel)
    }
}

fn matches(patterns: Option<&ChannelPatterns>, channel: &str) -> bool {
    patterns.is_some_and(|patterns| patterns.matches(channel))
}

#[cfg(test)]
mod tests;
