//! Parses a client's message, which borrows from its frame.

mod key;
mod rooms;

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use self::key::Key;
pub use self::rooms::{Join, Presence};
use super::ignored_value::IgnoredValue;
use super::publish::{MAX_ACK_BYTES, Publish};
use super::{ChannelName, ChannelNameError, MessageId, plain};

/// A frame from a client.
///
/// An object with `auth`, `join` or `leave` and neither `channel` nor `data` is a request; every other object is a
/// message. So clients of the classic protocol may send any keys beside `channel` and `data`.
#[derive(Debug)]
pub enum FromClient<'a> {
    /// `{"channel": NAME, "data": TEXT}`, where `data` is optional; on philote.v1 also `"ack"`.
    Publish(Publish<'a>),
    /// `{"auth": TOKEN}`, optionally with `"since"`.
    Auth(Auth<'a>),
    /// `{"join": [NAME, ...]}`, on philote.v1 optionally with `"since"`.
    Join(Join<'a>),
    /// `{"leave": [NAME, ...]}`: the channels, sorted and without duplicates.
    Leave(Vec<ChannelName>),
    /// `{"presence": [NAME, ...]}`, optionally with `"follow"`. Only on philote.v1.
    Presence(Presence),
}

/// A channel in `since`, and the last id that the client has of it.
pub type Since<'a> = (Cow<'a, str>, Option<MessageId>);

/// A token in a frame. `Debug` does not print the token.
pub struct Auth<'a> {
    /// The token, not verified.
    pub token: Cow<'a, str>,
    /// The position from which the client wants each channel: `{"chat": "EPOCH-N", "news": null}`. `None` stands for
    /// null, the whole history. An id of another server is not an error, but nothing can be recovered from it.
    pub since: Vec<Since<'a>>,
}

impl fmt::Debug for Auth<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("since", &self.since).finish_non_exhaustive()
    }
}

/// The longest `key` of a message of the HTTP API, in bytes.
pub const MAX_KEY_BYTES: usize = 64;

/// The most connections that a message of the HTTP API may name in `exclude`.
pub const MAX_EXCLUDED: usize = 100;

/// A message of the HTTP API.
#[derive(Debug)]
pub struct ApiMessage<'a> {
    /// The message to publish.
    pub publish: Publish<'a>,
    /// `exclude`: the connections that do not receive it.
    pub excluded: Vec<Uuid>,
    /// `key`: a repetition with the same key is published once, by the log of a cluster.
    pub key: Option<Cow<'a, str>>,
}

/// Why a frame is not a valid message. `Display` is the sentence that the client receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadMessage {
    /// A binary frame whose bytes are not UTF-8.
    NotUtf8,
    /// Not JSON, with the position where the parser stopped.
    NotJson(String),
    /// JSON, but not an object.
    NotAnObject,
    /// A key that Philote reads appears twice, perhaps in different case.
    DuplicateKey(&'static str),
    /// No `channel`, or one that is not a string.
    NoChannel,
    /// A `channel` that is not a valid channel name.
    ChannelName(ChannelNameError),
    /// A `data` that is neither a string nor null.
    DataNotAString,
    /// An `ack` that is not a string, or longer than [`MAX_ACK_BYTES`].
    Ack,
    /// An `exclude` that is neither an id nor an array of at most [`MAX_EXCLUDED`] ids.
    Exclude,
    /// A `key` that is not a string of 1 to [`MAX_KEY_BYTES`] visible ASCII characters.
    Key,
    /// A message that is longer than NATS lets pass between the nodes of a cluster: its limit in bytes.
    TooLongForCluster(usize),
    /// An `auth` that is not a string.
    Auth,
    /// A `since` that is not an object of ids and nulls.
    Since,
    /// A list of channels that is not an array of strings; its key.
    NotNames(&'static str),
    /// A `follow` that is neither true nor false.
    Follow,
    /// More than one of the keys that ask for something.
    ManyRequests,
    /// A string with an invalid escape, such as half a surrogate pair.
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
            BadMessage::DuplicateKey(key) => write!(f, "the key {key} appears twice"),
            BadMessage::NoChannel => f.write_str("channel must be a string naming the channel"),
            BadMessage::ChannelName(error) => error.fmt(f),
            BadMessage::DataNotAString => f.write_str("data must be a string; send JSON.stringify(value)"),
            BadMessage::Ack => write!(f, "ack must be a string of at most {MAX_ACK_BYTES} bytes"),
            BadMessage::Exclude => {
                write!(f, "exclude must be a connection's id, or an array of at most {MAX_EXCLUDED}")
            }
            BadMessage::Key => {
                write!(f, "key must be a string of 1 to {MAX_KEY_BYTES} visible ASCII characters")
            }
            BadMessage::TooLongForCluster(max) => {
                write!(
                    f,
                    "the message is too long for this cluster: NATS takes at most {max} bytes (max_payload)"
                )
            }
            BadMessage::Auth => f.write_str("auth must be a string: the token"),
            BadMessage::Since => f.write_str(
                "since must be an object of channels with their last ids, or null for the whole history",
            ),
            BadMessage::NotNames(key) => write!(f, "{key} must be an array of channel names"),
            BadMessage::Follow => f.write_str("follow must be true or false"),
            BadMessage::ManyRequests => {
                f.write_str("a message may have only one of auth, join, leave and presence")
            }
            BadMessage::BadEscape(key) => {
                write!(f, "{key} has an invalid escape, such as half a surrogate pair")
            }
        }
    }
}

impl std::error::Error for BadMessage {}

impl<'a> FromClient<'a> {
    /// Parses one frame. `v1` says whether `ack`, and `since` in a `join`, have a meaning, as on philote.v1.
    pub fn parse(text: &'a str, channel_name_bytes: usize, v1: bool) -> Result<FromClient<'a>, BadMessage> {
        match plain::publish(text, channel_name_bytes, v1) {
            Some(publish) => Ok(FromClient::Publish(publish)),
            None => FromClient::parse_any(text, channel_name_bytes, v1),
        }
    }

    /// Parses a frame of any form.
    pub(crate) fn parse_any(
        text: &'a str,
        channel_name_bytes: usize,
        v1: bool,
    ) -> Result<FromClient<'a>, BadMessage> {
        let keys = Keys::parse(text)?;
        if keys.is_request(v1) {
            return keys.request(channel_name_bytes, v1);
        }
        let ack = if v1 { keys.ack()? } else { None };
        keys.publish(channel_name_bytes).map(|publish| FromClient::Publish(Publish { ack, ..publish }))
    }

    /// Returns the JSON text of a valid `ack` in a frame that is not handled, for its error reply.
    #[cold]
    pub fn ack_of(text: &'a str) -> Option<&'a str> {
        Keys::parse(text).ok()?.ack().ok()?
    }

    /// Returns whether a frame is a request, which is always answered.
    #[cold]
    pub fn is_request(text: &str) -> bool {
        Keys::parse(text).is_ok_and(|keys| keys.is_request(true))
    }
}

impl<'a> ApiMessage<'a> {
    /// Parses one message. Names of keys match in any case. Unknown keys are ignored, but must be valid JSON.
    fn parse(text: &'a str, channel_name_bytes: usize) -> Result<ApiMessage<'a>, BadMessage> {
        let keys = Keys::parse(text)?;
        let excluded = keys.excluded()?;
        let key = keys.key()?;
        Ok(ApiMessage { publish: keys.publish(channel_name_bytes)?, excluded, key })
    }

    /// Parses the messages of an HTTP body: one object or an array of them.
    ///
    /// # Errors
    /// The first bad message and its index in the array, counted from 0.
    pub fn parse_many(
        text: &'a str,
        channel_name_bytes: usize,
    ) -> Result<Vec<ApiMessage<'a>>, (usize, BadMessage)> {
        if !text.trim_ascii_start().starts_with('[') {
            return Ok(vec![ApiMessage::parse(text, channel_name_bytes).map_err(|error| (0, error))?]);
        }
        let texts: Vec<&'a RawValue> =
            serde_json::from_str(text).map_err(|error| (0, not_json(text, &error)))?;
        let parse = |(at, text): (usize, &&'a RawValue)| {
            ApiMessage::parse(text.get(), channel_name_bytes).map_err(|error| (at, error))
        };
        texts.iter().enumerate().map(parse).collect()
    }
}

/// Reports serde_json's error with a byte in place of line and column, because a frame is not read in lines.
fn not_json(text: &str, error: &serde_json::Error) -> BadMessage {
    let lines_before: usize =
        text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let place = format!("invalid at byte {}", lines_before + error.column());
    BadMessage::NotJson(if error.is_eof() { "it ends too early".to_owned() } else { place })
}

/// The known keys of a message, not yet checked.
#[derive(Default)]
struct Keys<'a> {
    channel: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    ack: Option<&'a RawValue>,
    rare: Option<Box<Rare<'a>>>,
    duplicate: Option<&'static str>,
    /// A duplicate among the keys that are not always read.
    duplicate_option: Option<&'static str>,
}

/// The keys that few messages have. They are apart, because every message would pay for their room.
#[derive(Default)]
struct Rare<'a> {
    auth: Option<&'a RawValue>,
    since: Option<&'a RawValue>,
    join: Option<&'a RawValue>,
    leave: Option<&'a RawValue>,
    presence: Option<&'a RawValue>,
    follow: Option<&'a RawValue>,
    exclude: Option<&'a RawValue>,
    key: Option<&'a RawValue>,
}

/// The rare keys of a message that has none.
static NONE: Rare<'static> = Rare {
    auth: None,
    since: None,
    join: None,
    leave: None,
    presence: None,
    follow: None,
    exclude: None,
    key: None,
};

impl<'a> Keys<'a> {
    fn rare(&self) -> &Rare<'a> {
        self.rare.as_deref().unwrap_or(&NONE)
    }

    fn parse(text: &'a str) -> Result<Keys<'a>, BadMessage> {
        if !text.trim_ascii_start().starts_with('{') {
            return Err(match serde_json::from_str::<IgnoredValue>(text) {
                Ok(_) => BadMessage::NotAnObject,
                Err(error) => not_json(text, &error),
            });
        }
        serde_json::from_str(text).map_err(|error| not_json(text, &error))
    }

    #[cold]
    fn request(&self, channel_name_bytes: usize, v1: bool) -> Result<FromClient<'a>, BadMessage> {
        self.one_request()?;
        match (self.rare().join, self.rare().leave, self.rare().presence) {
            (Some(join), ..) => self.join(join, channel_name_bytes, v1).map(FromClient::Join),
            (.., Some(presence)) if v1 => {
                self.presence(presence, channel_name_bytes).map(FromClient::Presence)
            }
            (_, Some(leave), _) => rooms::names(leave, "leave", channel_name_bytes).map(FromClient::Leave),
            _ => self.auth().map(FromClient::Auth),
        }
    }

    fn once(&self) -> Result<(), BadMessage> {
        self.duplicate_option.map_or(Ok(()), |key| Err(BadMessage::DuplicateKey(key)))
    }

    fn auth(&self) -> Result<Auth<'a>, BadMessage> {
        let token = self.rare().auth.map(RawValue::get).filter(|text| text.starts_with('"'));
        let token = unescape(token.ok_or(BadMessage::Auth)?, "auth")?;
        Ok(Auth { token, since: self.since()? })
    }

    fn ack(&self) -> Result<Option<&'a str>, BadMessage> {
        let Some(ack) = self.ack.map(RawValue::get) else { return Ok(None) };
        self.once()?;
        if !ack.starts_with('"') || unescape(ack, "ack")?.len() > MAX_ACK_BYTES {
            return Err(BadMessage::Ack);
        }
        Ok(Some(ack))
    }

    fn excluded(&self) -> Result<Vec<Uuid>, BadMessage> {
        let Some(exclude) = self.rare().exclude.map(RawValue::get) else { return Ok(Vec::new()) };
        self.once()?;
        let ids: Vec<Text<'_>> = if exclude.starts_with('"') {
            serde_json::from_str(exclude).map(|id| vec![id])
        } else {
            serde_json::from_str(exclude)
        }
        .map_err(|_| BadMessage::Exclude)?;
        if ids.len() > MAX_EXCLUDED {
            return Err(BadMessage::Exclude);
        }
        ids.iter().map(|Text(id)| connection_id(id).ok_or(BadMessage::Exclude)).collect()
    }

    fn key(&self) -> Result<Option<Cow<'a, str>>, BadMessage> {
        let Some(key) = self.rare().key.map(RawValue::get) else { return Ok(None) };
        self.once()?;
        let Text(key) = serde_json::from_str(key).map_err(|_| BadMessage::Key)?;
        let valid =
            (1..=MAX_KEY_BYTES).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        if valid { Ok(Some(key)) } else { Err(BadMessage::Key) }
    }

    fn publish(self, channel_name_bytes: usize) -> Result<Publish<'a>, BadMessage> {
        if let Some(key) = self.duplicate {
            return Err(BadMessage::DuplicateKey(key));
        }
        let channel = self.channel.map(RawValue::get).filter(|text| text.starts_with('"'));
        let channel = unescape(channel.ok_or(BadMessage::NoChannel)?, "channel")?;
        ChannelName::check(&channel, channel_name_bytes).map_err(BadMessage::ChannelName)?;
        let data = self.data.map(RawValue::get).filter(|text| *text != "null");
        if let Some(data) = data {
            if !data.starts_with('"') {
                return Err(BadMessage::DataNotAString);
            }
            unescape(data, "data")?;
        }
        Ok(Publish { channel, data, ack: None })
    }
}

/// Parses the id of a connection, in the hyphenated form only.
pub fn connection_id(text: &str) -> Option<Uuid> {
    if text.len() == Hyphenated::LENGTH { text.parse().ok() } else { None }
}

/// Unescapes a JSON string. serde_json does not check the escapes of a raw value, so half a surrogate pair fails here.
fn unescape<'a>(quoted: &'a str, key: &'static str) -> Result<Cow<'a, str>, BadMessage> {
    if memchr(b'\\', quoted.as_bytes()).is_some() {
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
                    let (slot, name, duplicate) = match key {
                        Key::Channel => (&mut keys.channel, "channel", &mut keys.duplicate),
                        Key::Data => (&mut keys.data, "data", &mut keys.duplicate),
                        Key::Auth => {
                            (&mut keys.rare.get_or_insert_default().auth, "auth", &mut keys.duplicate_option)
                        }
                        Key::Since => (
                            &mut keys.rare.get_or_insert_default().since,
                            "since",
                            &mut keys.duplicate_option,
                        ),
                        Key::Join => {
                            (&mut keys.rare.get_or_insert_default().join, "join", &mut keys.duplicate_option)
                        }
                        Key::Leave => (
                            &mut keys.rare.get_or_insert_default().leave,
                            "leave",
                            &mut keys.duplicate_option,
                        ),
                        Key::Presence => (
                            &mut keys.rare.get_or_insert_default().presence,
                            "presence",
                            &mut keys.duplicate_option,
                        ),
                        Key::Follow => (
                            &mut keys.rare.get_or_insert_default().follow,
                            "follow",
                            &mut keys.duplicate_option,
                        ),
                        Key::Ack => (&mut keys.ack, "ack", &mut keys.duplicate_option),
                        Key::Exclude => (
                            &mut keys.rare.get_or_insert_default().exclude,
                            "exclude",
                            &mut keys.duplicate_option,
                        ),
                        Key::Repetition => {
                            (&mut keys.rare.get_or_insert_default().key, "key", &mut keys.duplicate_option)
                        }
                        Key::Other => {
                            map.next_value::<IgnoredValue>()?;
                            continue;
                        }
                    };
                    if slot.replace(map.next_value()?).is_some() {
                        *duplicate = Some(name);
                    }
                }
                Ok(keys)
            }
        }
        deserializer.deserialize_map(KeysVisitor)
    }
}

/// The object of `since`.
struct Ids<'a>(Vec<Since<'a>>);

impl<'de> Deserialize<'de> for Ids<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdsVisitor;
        impl<'de> Visitor<'de> for IdsVisitor {
            type Value = Ids<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ids<'de>, A::Error> {
                let mut ids = Vec::new();
                while let Some((Text(channel), id)) = map.next_entry::<Text<'de>, Option<Text<'de>>>()? {
                    ids.push((channel, id.map(|Text(id)| MessageId::parse(&id))));
                }
                Ok(Ids(ids))
            }
        }
        deserializer.deserialize_map(IdsVisitor)
    }
}

/// Text that is borrowed if it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
