//! The longest token, and the longest message of philote.v1 that contains one.

use super::{Claims, MAX_PATTERNS, Policy};

/// The longest token of a request, in bytes. It must fit into the request's head besides everything else. A longer token is
/// refused before it is decoded.
pub const MAX_REQUEST_TOKEN_BYTES: usize = 8 * 1024;

/// The longest token of a message, in bytes, whatever number of channels the limits allow. The whole token is in memory
/// before its signature is checked.
pub const MAX_TOKEN_BYTES: usize = 1024 * 1024;

/// The longest `since` in the same message, in bytes, for the same reason.
const MAX_SINCE_BYTES: usize = 512 * 1024;

/// Room for the JSON around a token or a `since`, in bytes.
const MAX_ENVELOPE_BYTES: usize = 256;

/// The bytes around a name in a JSON array: two quotes and a comma.
const QUOTES: usize = 3;

/// The bytes of a message id in `since`, with quotes, colon and comma.
const SINCE_ID_BYTES: usize = 64;

impl Policy {
    /// Returns the longest token of a message, in bytes: `read`, `write` and both lists of `may` full of the longest
    /// names, in base64, plus [`MAX_REQUEST_TOKEN_BYTES`] for the other claims. It is at most [`MAX_TOKEN_BYTES`].
    pub fn longest_token(&self) -> usize {
        let list = self.channels.saturating_add(MAX_PATTERNS);
        let names = list.saturating_mul(self.channel_name_bytes + QUOTES).saturating_mul(2);
        (names / 3).saturating_mul(4).saturating_add(MAX_REQUEST_TOKEN_BYTES).min(MAX_TOKEN_BYTES)
    }

    /// Returns the longest `{"auth": TOKEN, "since": {...}}`, in bytes, which is the longest first message of philote.v1.
    pub fn longest_auth(&self) -> usize {
        let since =
            self.channels.saturating_mul(self.channel_name_bytes + SINCE_ID_BYTES).min(MAX_SINCE_BYTES);
        self.longest_token() + since + MAX_ENVELOPE_BYTES
    }
}

impl Claims {
    /// Returns the longest `{"auth": TOKEN, "since": {...}}` of a connection with these claims, in bytes. It is twice the
    /// length of its token, so that only a client with a long token can make the server buffer a long message.
    pub fn longest_auth(&self, policy: &Policy) -> usize {
        (self.token_bytes as usize)
            .saturating_mul(2)
            .saturating_add(MAX_ENVELOPE_BYTES)
            .min(policy.longest_auth())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_token_depends_on_the_limits_of_channels_and_is_bounded() {
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
            "a message accepts what a request accepts"
        );
        for most in [policy(1_000_000, 4096), policy(usize::MAX, 4096)] {
            assert_eq!(most.longest_token(), MAX_TOKEN_BYTES);
            assert_eq!(most.longest_auth(), MAX_TOKEN_BYTES + MAX_SINCE_BYTES + MAX_ENVELOPE_BYTES);
        }
    }
}
