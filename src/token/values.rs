//! Reads the values of claims.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

use super::ClaimError;
use crate::message::ChannelNameError;

/// Reads the channel names of `read` or `write`. Null means an empty list, not an absent claim, because the API shows every
/// channel to a token without the claim.
pub(super) fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    Option::deserialize(deserializer).map(|names| Some(names.unwrap_or_default()))
}

/// Reads an object. The derived code would accept an array, too.
pub(super) fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct ObjectVisitor<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_map(ObjectVisitor(PhantomData))
}

/// Describes an invalid channel name in a claim that must be `expected`.
pub(super) fn wrong_name(error: &ChannelNameError, expected: &'static str) -> ClaimError {
    let found = match error {
        ChannelNameError::TooLong { max, .. } => return ClaimError::LongName(*max),
        ChannelNameError::Empty => "an array with an empty name in it",
        ChannelNameError::ControlCharacter => "an array with a control character in a name",
    };
    ClaimError::Value { expected, found }
}
