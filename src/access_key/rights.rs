//! The parts of the HTTP API that a token opens.

use std::fmt;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeSeq, Serializer};

/// A part of the HTTP API, as the claim `api` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ApiRight {
    /// To publish, on the channels of `write` where the token has that claim.
    Publish,
    /// To see channels and how many read and write them, those of `read` where the token has that claim.
    Channels,
    /// To see by name who reads a channel that it sees.
    Subjects,
    /// To see the connections of a subject.
    Connections,
    /// To disconnect, and to keep subjects out.
    Disconnect,
    /// To see how the server is doing.
    Info,
}

impl ApiRight {
    /// All of them, in the order of the manual.
    pub const ALL: [ApiRight; 6] = [
        ApiRight::Publish,
        ApiRight::Channels,
        ApiRight::Subjects,
        ApiRight::Connections,
        ApiRight::Disconnect,
        ApiRight::Info,
    ];

    /// Its name in the claim.
    pub fn name(self) -> &'static str {
        match self {
            ApiRight::Publish => "publish",
            ApiRight::Channels => "channels",
            ApiRight::Subjects => "subjects",
            ApiRight::Connections => "connections",
            ApiRight::Disconnect => "disconnect",
            ApiRight::Info => "info",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<ApiRight> {
        ApiRight::ALL.into_iter().find(|right| right.name() == name)
    }
}

/// What the claim `api` says: `true` is all, also what later versions add; an array names some; `false` and the absent
/// claim are none.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ApiRights(u8);

impl ApiRights {
    /// The absent claim.
    pub const NONE: ApiRights = ApiRights(0);
    /// `true`.
    pub const ALL: ApiRights = ApiRights(u8::MAX);

    /// Whether this part is open.
    pub fn has(self, right: ApiRight) -> bool {
        self.0 & (1 << right as u8) != 0
    }

    /// Whether nothing is open.
    pub fn is_none(&self) -> bool {
        *self == ApiRights::NONE
    }
}

/// Their names, or `all`.
impl fmt::Display for ApiRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == ApiRights::ALL {
            return f.write_str("all");
        }
        let names: Vec<_> =
            ApiRight::ALL.into_iter().filter(|right| self.has(*right)).map(ApiRight::name).collect();
        f.write_str(&names.join(", "))
    }
}

impl fmt::Debug for ApiRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiRights({self})")
    }
}

impl FromIterator<ApiRight> for ApiRights {
    fn from_iter<I: IntoIterator<Item = ApiRight>>(rights: I) -> ApiRights {
        ApiRights(rights.into_iter().fold(0, |bits, right| bits | 1 << right as u8))
    }
}

impl Serialize for ApiRights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if [ApiRights::ALL, ApiRights::NONE].contains(self) {
            return serializer.serialize_bool(*self == ApiRights::ALL);
        }
        let mut names = serializer.serialize_seq(None)?;
        for right in ApiRight::ALL.into_iter().filter(|right| self.has(*right)) {
            names.serialize_element(right.name())?;
        }
        names.end()
    }
}

impl<'de> serde::Deserialize<'de> for ApiRights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RightsVisitor;
        impl<'de> Visitor<'de> for RightsVisitor {
            type Value = ApiRights;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or an array of rights")
            }

            fn visit_bool<E>(self, all: bool) -> Result<ApiRights, E> {
                Ok(if all { ApiRights::ALL } else { ApiRights::NONE })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<ApiRights, A::Error> {
                let mut rights = ApiRights::NONE;
                while let Some(name) = names.next_element::<String>()? {
                    // A right that is not known here is a word misspelt: better told than left out.
                    let right = ApiRight::named(&name).ok_or_else(|| A::Error::custom("no such right"))?;
                    rights.0 |= 1 << right as u8;
                }
                Ok(rights)
            }
        }
        deserializer.deserialize_any(RightsVisitor)
    }
}
