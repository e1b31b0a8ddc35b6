//! How long a token may be, and the message of philote.v1 that brings it.

use super::{Claims, Policy};

/// The longest token taken from a request, in bytes: it must fit into the request's head beside everything else. Longer
/// ones are refused before any of them is decoded.
pub const MAX_REQUEST_TOKEN_BYTES: usize = 8 * 1024;

/// The longest token taken from a message, in bytes, however many channels the limits allow: it is held in memory whole
/// before its signature is checked.
pub const MAX_TOKEN_BYTES: usize = 1024 * 1024;

/// The longest `since` beside it, in bytes, for the same reason.
const MAX_SINCE_BYTES: usize = 512 * 1024;

/// Room for the JSON around a token or a `since`, in bytes.
const MAX_ENVELOPE_BYTES: usize = 256;

/// A name in a JSON array: two quotes and a comma, in bytes.
const QUOTES: usize = 3;

/// The id of a message in `since` with its quotes, colon and comma, in bytes.
const SINCE_ID_BYTES: usize = 64;

impl Policy {
    /// The longest token taken from a message, in bytes: `read` and `write` full of the longest names, in base64, and
    /// what a request's token may have for the other claims. At most [`MAX_TOKEN_BYTES`].
    pub fn longest_token(&self) -> usize {
        let names = self.channels.saturating_mul(self.channel_name_bytes + QUOTES).saturating_mul(2);
        (names / 3).saturating_mul(4).saturating_add(MAX_REQUEST_TOKEN_BYTES).min(MAX_TOKEN_BYTES)
    }

    /// The longest `{"auth": TOKEN, "since": {...}}`, in bytes, which is the longest first message of philote.v1.
    pub fn longest_auth(&self) -> usize {
        let since =
            self.channels.saturating_mul(self.channel_name_bytes + SINCE_ID_BYTES).min(MAX_SINCE_BYTES);
        self.longest_token() + since + MAX_ENVELOPE_BYTES
    }
}

impl Claims {
    /// The longest `{"auth": TOKEN, "since": {...}}` of a connection that has this access, in bytes: twice its token,
    /// so that only who was given a long token can make the server hold a long message.
    pub fn longest_auth(&self, policy: &Policy) -> usize {
        self.token_bytes.saturating_mul(2).saturating_add(MAX_ENVELOPE_BYTES).min(policy.longest_auth())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_token_follows_from_the_limits_of_channels_and_is_bounded() {
        let policy = |channels, channel_name_bytes| Policy {
            leeway: 5,
            require_expiry: false,
            issuer: None,
            audience: None,
            channels,
            channel_name_bytes,
        };
        let defaults = policy(1024, 255);
        assert!(
            defaults.longest_token() >= 2 * 1024 * 258 * 4 / 3 && defaults.longest_token() < MAX_TOKEN_BYTES
        );
        assert!(defaults.longest_auth() > defaults.longest_token() + 1024 * 255);
        assert!(
            policy(1, 1).longest_token() > MAX_REQUEST_TOKEN_BYTES,
            "what a request takes a message takes"
        );
        for most in [policy(1_000_000, 4096), policy(usize::MAX, 4096)] {
            assert_eq!(most.longest_token(), MAX_TOKEN_BYTES);
            assert_eq!(most.longest_auth(), MAX_TOKEN_BYTES + MAX_SINCE_BYTES + MAX_ENVELOPE_BYTES);
        }
    }
}
