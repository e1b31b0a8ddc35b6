//! Parses what a client asks for beside publishing: to join and leave channels.

use serde_json::value::RawValue;

use super::{BadMessage, Ids, Keys, Since, Text};
use crate::message::ChannelName;

/// `{"join": [NAME, ...]}`: the client asks to read these channels.
#[derive(Debug)]
pub struct Join<'a> {
    /// The channels, sorted and without duplicates.
    pub channels: Vec<ChannelName>,
    /// The position from which the client wants each channel, as in `auth`. Only on philote.v1.
    pub since: Vec<Since<'a>>,
}

/// `{"presence": [NAME, ...]}`: the client asks who reads these channels.
#[derive(Debug)]
pub struct Presence {
    /// The channels, sorted and without duplicates.
    pub channels: Vec<ChannelName>,
    /// Whether it wants to be told of changes from now on, or no longer.
    pub follow: Option<bool>,
}

impl<'a> Keys<'a> {
    pub(super) fn since(&self) -> Result<Vec<Since<'a>>, BadMessage> {
        match self.rare().since.map(RawValue::get) {
            None | Some("null") => Ok(Vec::new()),
            Some(text) => Ok(serde_json::from_str::<Ids<'a>>(text).map_err(|_| BadMessage::Since)?.0),
        }
    }

    /// Returns whether the object is a request. An object with `channel` or `data` never is, because clients of the classic
    /// protocol may send any keys beside them.
    pub(super) fn is_request(&self, v1: bool) -> bool {
        self.channel.is_none()
            && self.data.is_none()
            && (self.rare().auth.is_some()
                || self.rare().join.is_some()
                || self.rare().leave.is_some()
                || (v1 && self.rare().presence.is_some()))
    }

    /// Checks that the object asks for one thing only.
    pub(super) fn one_request(&self) -> Result<(), BadMessage> {
        let asked = [self.rare().auth, self.rare().join, self.rare().leave, self.rare().presence]
            .iter()
            .flatten()
            .count();
        if asked > 1 { Err(BadMessage::ManyRequests) } else { self.once() }
    }

    pub(super) fn join(
        &self,
        join: &'a RawValue,
        max_bytes: usize,
        v1: bool,
    ) -> Result<Join<'a>, BadMessage> {
        let since = if v1 { self.since()? } else { Vec::new() };
        Ok(Join { channels: names(join, "join", max_bytes)?, since })
    }
}

impl<'a> Keys<'a> {
    pub(super) fn presence(&self, presence: &'a RawValue, max_bytes: usize) -> Result<Presence, BadMessage> {
        let follow = match self.rare().follow.map(RawValue::get) {
            None | Some("null") => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(_) => return Err(BadMessage::Follow),
        };
        Ok(Presence { channels: names(presence, "presence", max_bytes)?, follow })
    }
}

/// Returns an array of channel names, sorted and without duplicates.
pub(super) fn names(
    array: &RawValue,
    key: &'static str,
    max_bytes: usize,
) -> Result<Vec<ChannelName>, BadMessage> {
    let texts: Vec<Text<'_>> = serde_json::from_str(array.get()).map_err(|_| BadMessage::NotNames(key))?;
    let name = |Text(text): &Text<'_>| ChannelName::new(text, max_bytes).map_err(BadMessage::ChannelName);
    let mut names = texts.iter().map(name).collect::<Result<Vec<_>, _>>()?;
    names.sort_unstable();
    names.dedup();
    Ok(names)
}
