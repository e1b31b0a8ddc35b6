//! The keys of a message, whose names match in any case.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

/// A key of a message.
pub(super) enum Key {
    Channel,
    Data,
    Auth,
    Since,
    Join,
    Leave,
    Presence,
    Follow,
    Ack,
    Exclude,
    Repetition,
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(if key.eq_ignore_ascii_case("channel") {
                    Key::Channel
                } else if key.eq_ignore_ascii_case("data") {
                    Key::Data
                } else if key.eq_ignore_ascii_case("auth") {
                    Key::Auth
                } else if key.eq_ignore_ascii_case("since") {
                    Key::Since
                } else if key.eq_ignore_ascii_case("join") {
                    Key::Join
                } else if key.eq_ignore_ascii_case("leave") {
                    Key::Leave
                } else if key.eq_ignore_ascii_case("presence") {
                    Key::Presence
                } else if key.eq_ignore_ascii_case("follow") {
                    Key::Follow
                } else if key.eq_ignore_ascii_case("ack") {
                    Key::Ack
                } else if key.eq_ignore_ascii_case("exclude") {
                    Key::Exclude
                } else if key.eq_ignore_ascii_case("key") {
                    Key::Repetition
                } else {
                    Key::Other
                })
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}
