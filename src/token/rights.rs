//! The rights of a token on the HTTP API.

use std::fmt;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeSeq, Serializer};

/// A right on the HTTP API, as the claim `api` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ApiRight {
    /// Publish. If the token has the claim `write`, only on its channels.
    Publish,
    /// See channels with their numbers of readers and writers. If the token has the claim `read`, only its channels.
    Channels,
    /// See the subjects that read a visible channel.
    Subjects,
    /// See the connections of a subject.
    Connections,
    /// Disconnect and ban subjects.
    Disconnect,
    /// See the status of the server.
    Info,
    /// Follow events: who opens and closes connections, and who joins and leaves visible channels.
    Events,
}

impl ApiRight {
    /// All rights, in the order of the manual.
    pub const ALL: [ApiRight; 7] = [
        ApiRight::Publish,
        ApiRight::Channels,
        ApiRight::Subjects,
        ApiRight::Connections,
        ApiRight::Disconnect,
        ApiRight::Info,
        ApiRight::Events,
    ];

    /// Returns its name in the claim.
    pub fn name(self) -> &'static str {
        match self {
            ApiRight::Publish => "publish",
            ApiRight::Channels => "channels",
            ApiRight::Subjects => "subjects",
            ApiRight::Connections => "connections",
            ApiRight::Disconnect => "disconnect",
            ApiRight::Info => "info",
            ApiRight::Events => "events",
        }
    }

    /// Returns the right with this name.
    pub fn named(name: &str) -> Option<ApiRight> {
        ApiRight::ALL.into_iter().find(|right| right.name() == name)
    }
}

/// The claim `api`. `true` means all rights, including those that later versions add. An array has the names of some.
/// `false` and an absent claim mean none.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ApiRights(u8);

impl ApiRights {
    /// No rights, as for an absent claim.
    pub const NONE: ApiRights = ApiRights(0);
    /// All rights, as for `true`.
    pub const ALL: ApiRights = ApiRights(u8::MAX);

    /// Returns whether the token has this right.
    pub fn has(self, right: ApiRight) -> bool {
        self.0 & (1 << right as u8) != 0
    }

    /// Returns whether the token has no rights.
    pub fn is_none(&self) -> bool {
        *self == ApiRights::NONE
    }
}

/// The names of the rights, or `all`.
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
                    // An unknown right is probably misspelled, so it is an error instead of being ignored.
                    let right = ApiRight::named(&name).ok_or_else(|| A::Error::custom("unknown right"))?;
                    rights.0 |= 1 << right as u8;
                }
                Ok(rights)
            }
        }
        deserializer.deserialize_any(RightsVisitor)
    }
}
