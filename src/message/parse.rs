//! A client's message, parsed once and borrowed from the frame that brought it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::skipped::Skipped;
use super::{ChannelName, ChannelNameError};

/// What a client asked to publish, borrowed from the frame that brought it.
#[derive(Debug)]
pub struct Publish<'a> {
    /// A valid channel name.
    pub channel: Cow<'a, str>,
    /// The JSON text of `data`, quotes included: a string that every JSON parser accepts.
    pub data: &'a str,
}

/// Why a frame is no message. `Display` is the sentence that the client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadMessage {
    /// A binary frame whose bytes are not UTF-8.
    NotUtf8,
    /// Not JSON; where the parser stopped.
    NotJson(String),
    /// JSON, but no object.
    NotAnObject,
    /// A key of Philote's stands there twice, perhaps in different case.
    DuplicateKey(&'static str),
    /// No `channel`, or one that is not a string.
    NoChannel,
    /// A `channel` that can't be a channel's name.
    ChannelName(ChannelNameError),
    /// No `data`, or one that is not a string.
    DataNotAString,
    /// A string with an escape that stands for no character, such as half a surrogate pair.
    BadEscape(&'static str),
}

impl fmt::Display for BadMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadMessage::NotUtf8 => f.write_str("a message must be UTF-8 text"),
            BadMessage::NotJson(place) => write!(f, "a message must be JSON: {place}"),
            BadMessage::NotAnObject => {
                f.write_str("a message must be a JSON object like {\"channel\": \"...\", \"data\": \"...\"}")
            }
            BadMessage::DuplicateKey(key) => write!(f, "the key {key} stands there twice"),
            BadMessage::NoChannel => f.write_str("channel must be a string naming the channel"),
            BadMessage::ChannelName(error) => error.fmt(f),
            BadMessage::DataNotAString => f.write_str("data must be a string; send JSON.stringify(value)"),
            BadMessage::BadEscape(key) => write!(f, "{key} has an escape that stands for no character"),
        }
    }
}

impl std::error::Error for BadMessage {}

impl<'a> Publish<'a> {
    /// Parses one message. Key names match without regard to case; unknown keys are skipped, yet must be sound JSON.
    pub fn parse(text: &'a str, channel_name_bytes: usize) -> Result<Publish<'a>, BadMessage> {
        if !text.trim_ascii_start().starts_with('{') {
            return Err(match serde_json::from_str::<Skipped>(text) {
                Ok(_) => BadMessage::NotAnObject,
                Err(error) => not_json(&error),
            });
        }
        let keys: Keys<'a> = serde_json::from_str(text).map_err(|error| not_json(&error))?;
        keys.check(channel_name_bytes)
    }

    /// Parses the messages of an HTTP body: one object or an array of them.
    ///
    /// # Errors
    /// The first bad message and its place in the array, counted from 0.
    pub fn parse_many(
        text: &'a str,
        channel_name_bytes: usize,
    ) -> Result<Vec<Publish<'a>>, (usize, BadMessage)> {
        if !text.trim_ascii_start().starts_with('[') {
            return Ok(vec![Publish::parse(text, channel_name_bytes).map_err(|error| (0, error))?]);
        }
        let texts: Vec<&'a RawValue> = serde_json::from_str(text).map_err(|error| (0, not_json(&error)))?;
        let parse = |(at, text): (usize, &&'a RawValue)| {
            Publish::parse(text.get(), channel_name_bytes).map_err(|error| (at, error))
        };
        texts.iter().enumerate().map(parse).collect()
    }
}

/// serde_json's word for what is wrong, without the line and column of a text that was never seen in lines.
fn not_json(error: &serde_json::Error) -> BadMessage {
    let place = format!("invalid at byte {}", error.column());
    BadMessage::NotJson(if error.is_eof() { "it ends too early".to_owned() } else { place })
}

/// The keys of a message that mean something, as they stood there.
#[derive(Default)]
struct Keys<'a> {
    channel: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    duplicate: Option<&'static str>,
}

impl<'a> Keys<'a> {
    fn check(self, channel_name_bytes: usize) -> Result<Publish<'a>, BadMessage> {
        if let Some(key) = self.duplicate {
            return Err(BadMessage::DuplicateKey(key));
        }
        let channel = self.channel.map(RawValue::get).filter(|text| text.starts_with('"'));
        let channel = unescape(channel.ok_or(BadMessage::NoChannel)?, "channel")?;
        ChannelName::check(&channel, channel_name_bytes).map_err(BadMessage::ChannelName)?;
        let data = self.data.map(RawValue::get).filter(|text| text.starts_with('"'));
        let data = data.ok_or(BadMessage::DataNotAString)?;
        unescape(data, "data")?;
        Ok(Publish { channel, data })
    }
}

/// The text of a JSON string. A raw value's escapes were never looked at: half a surrogate pair shows itself here.
fn unescape<'a>(quoted: &'a str, key: &'static str) -> Result<Cow<'a, str>, BadMessage> {
    if quoted.contains('\\') {
        serde_json::from_str(quoted).map(Cow::Owned).map_err(|_| BadMessage::BadEscape(key))
    } else {
        Ok(Cow::Borrowed(&quoted[1..quoted.len() - 1]))
    }
}

impl<'de> Deserialize<'de> for Keys<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeysVisitor;
        impl<'de> Visitor<'de> for KeysVisitor {
            type Value = Keys<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys<'de>, A::Error> {
                let mut keys = Keys::default();
                while let Some(key) = map.next_key::<Key>()? {
                    let (slot, name) = match key {
                        Key::Channel => (&mut keys.channel, "channel"),
                        Key::Data => (&mut keys.data, "data"),
                        Key::Other => {
                            map.next_value::<Skipped>()?;
                            continue;
                        }
                    };
                    if slot.replace(map.next_value()?).is_some() {
                        keys.duplicate = Some(name);
                    }
                }
                Ok(keys)
            }
        }
        deserializer.deserialize_map(KeysVisitor)
    }
}

/// A key, known without keeping its text.
enum Key {
    Channel,
    Data,
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
                } else {
                    Key::Other
                })
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}
