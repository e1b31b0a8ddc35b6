//! JSON that nobody reads and that must be sound all the same.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// A value that nobody reads, held to the same rules as one that is read.
///
/// serde's `IgnoredAny` lets serde_json skip over nesting of any depth and half surrogate pairs; asked for *any* value,
/// it applies its limit of 128 levels and looks at every escape.
pub(super) struct IgnoredValue;

impl<'de> Deserialize<'de> for IgnoredValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IgnoredValueVisitor;
        impl<'de> Visitor<'de> for IgnoredValueVisitor {
            type Value = IgnoredValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, _: bool) -> Result<IgnoredValue, E> {
                Ok(IgnoredValue)
            }

            fn visit_i64<E>(self, _: i64) -> Result<IgnoredValue, E> {
                Ok(IgnoredValue)
            }

            fn visit_u64<E>(self, _: u64) -> Result<IgnoredValue, E> {
                Ok(IgnoredValue)
            }

            fn visit_f64<E>(self, _: f64) -> Result<IgnoredValue, E> {
                Ok(IgnoredValue)
            }

            fn visit_str<E>(self, _: &str) -> Result<IgnoredValue, E> {
                Ok(IgnoredValue)
            }

            fn visit_unit<E>(self) -> Result<IgnoredValue, E> {
                Ok(IgnoredValue)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<IgnoredValue, A::Error> {
                while seq.next_element::<IgnoredValue>()?.is_some() {}
                Ok(IgnoredValue)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<IgnoredValue, A::Error> {
                while map.next_entry::<IgnoredValue, IgnoredValue>()?.is_some() {}
                Ok(IgnoredValue)
            }
        }
        deserializer.deserialize_any(IgnoredValueVisitor)
    }
}
