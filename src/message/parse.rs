//! A client's message, parsed once and borrowed from the frame that brought it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::skipped::Skipped;
use super::{ChannelName, ChannelNameError, MessageId};

/// The longest `ack`, in bytes of the text that it stands for.
pub const MAX_ACK_BYTES: usize = 64;

/// What a client sends.
///
/// An object with `auth` and neither `channel` nor `data` shows a token; every other is a message. So a client of the
/// classic protocol may go on sending whatever keys it likes beside `channel` and `data`.
#[derive(Debug)]
pub enum FromClient<'a> {
    /// `{"channel": NAME, "data": TEXT}` or without `data`, with philote.v1 also `"ack"`.
    Publish(Publish<'a>),
    /// `{"auth": TOKEN}`, also with `"since"`.
    Auth(Auth<'a>),
}

/// A channel of `since`, and the last id of it that the client has.
pub type Since<'a> = (Cow<'a, str>, Option<MessageId>);

/// A token shown in a frame. It has no `Debug` of its own: it holds the token.
pub struct Auth<'a> {
    /// The token, not verified.
    pub token: Cow<'a, str>,
    /// From where on the client wants to have channels: `{"chat": "EPOCH-N", "news": null}`. `None` stands for a null:
    /// all that is kept. An id that is none of this server's is no error: nothing can be recovered from it.
    pub since: Vec<Since<'a>>,
}

impl fmt::Debug for Auth<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("since", &self.since).finish_non_exhaustive()
    }
}

/// What a client asked to publish, borrowed from the frame that brought it.
#[derive(Debug)]
pub struct Publish<'a> {
    /// A valid channel name.
    pub channel: Cow<'a, str>,
    /// The JSON text of `data`, quotes included: a string that every JSON parser accepts. `None` where it is absent or
    /// null: a bare signal, which a browser sends that publishes undefined or null.
    pub data: Option<&'a str>,
    /// The JSON text of `ack`, quotes included: what the client wants to hear when the message is queued. Read on
    /// philote.v1 only.
    pub ack: Option<&'a str>,
}

/// The most connections that a message of the HTTP API may name in `exclude`.
pub const MAX_EXCLUDED: usize = 100;

/// A message of the HTTP API.
#[derive(Debug)]
pub struct ApiMessage<'a> {
    /// What to publish.
    pub publish: Publish<'a>,
    /// `exclude`: the connections that are not to get it.
    pub excluded: Vec<Uuid>,
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
    /// A `data` that is neither a string nor null.
    DataNotAString,
    /// An `ack` that is no string, or over [`MAX_ACK_BYTES`].
    Ack,
    /// An `exclude` that is neither an id nor a list of at most [`MAX_EXCLUDED`].
    Exclude,
    /// An `auth` that is no string.
    Auth,
    /// A `since` that is no object of ids and nulls.
    Since,
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
            BadMessage::Ack => write!(f, "ack must be a string of at most {MAX_ACK_BYTES} bytes"),
            BadMessage::Exclude => {
                write!(f, "exclude must be a connection's id, or an array of at most {MAX_EXCLUDED}")
            }
            BadMessage::Auth => f.write_str("auth must be a string: the token"),
            BadMessage::Since => f.write_str(
                "since must be an object of channels with their last ids, or null for all that is kept",
            ),
            BadMessage::BadEscape(key) => write!(f, "{key} has an escape that stands for no character"),
        }
    }
}

impl std::error::Error for BadMessage {}

impl<'a> FromClient<'a> {
    /// Parses one frame. `acks`: whether `ack` means something, as with philote.v1.
    pub fn parse(text: &'a str, channel_name_bytes: usize, acks: bool) -> Result<FromClient<'a>, BadMessage> {
        let keys = Keys::parse(text)?;
        if keys.is_auth() {
            return keys.auth().map(FromClient::Auth);
        }
        let ack = if acks { keys.ack()? } else { None };
        keys.publish(channel_name_bytes).map(|publish| FromClient::Publish(Publish { ack, ..publish }))
    }

    /// The JSON text of the `ack` in a frame that is not handled, where it has a sound one: what its answer carries.
    #[cold]
    pub fn ack_of(text: &'a str) -> Option<&'a str> {
        Keys::parse(text).ok()?.ack().ok()?
    }

    /// Whether a frame shows a token.
    #[cold]
    pub fn is_auth(text: &str) -> bool {
        Keys::parse(text).is_ok_and(|keys| keys.is_auth())
    }
}

impl<'a> ApiMessage<'a> {
    /// Parses one message. Key names match without regard to case; unknown keys are skipped, yet must be sound JSON.
    fn parse(text: &'a str, channel_name_bytes: usize) -> Result<ApiMessage<'a>, BadMessage> {
        let keys = Keys::parse(text)?;
        let excluded = keys.excluded()?;
        Ok(ApiMessage { publish: keys.publish(channel_name_bytes)?, excluded })
    }

    /// Parses the messages of an HTTP body: one object or an array of them.
    ///
    /// # Errors
    /// The first bad message and its place in the array, counted from 0.
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

/// serde_json's word for what is wrong, with the byte in place of the line and column: `text` was never seen in lines.
fn not_json(text: &str, error: &serde_json::Error) -> BadMessage {
    let lines_before: usize =
        text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let place = format!("invalid at byte {}", lines_before + error.column());
    BadMessage::NotJson(if error.is_eof() { "it ends too early".to_owned() } else { place })
}

/// The keys of a message that mean something, as they stood there.
#[derive(Default)]
struct Keys<'a> {
    channel: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    auth: Option<&'a RawValue>,
    since: Option<&'a RawValue>,
    ack: Option<&'a RawValue>,
    exclude: Option<&'a RawValue>,
    duplicate: Option<&'static str>,
    /// The same of the keys that are not always read.
    duplicate_option: Option<&'static str>,
}

impl<'a> Keys<'a> {
    fn parse(text: &'a str) -> Result<Keys<'a>, BadMessage> {
        if !text.trim_ascii_start().starts_with('{') {
            return Err(match serde_json::from_str::<Skipped>(text) {
                Ok(_) => BadMessage::NotAnObject,
                Err(error) => not_json(text, &error),
            });
        }
        serde_json::from_str(text).map_err(|error| not_json(text, &error))
    }

    /// An object that shows a token, and no message with a key of that name.
    fn is_auth(&self) -> bool {
        self.auth.is_some() && self.channel.is_none() && self.data.is_none()
    }

    fn once(&self) -> Result<(), BadMessage> {
        self.duplicate_option.map_or(Ok(()), |key| Err(BadMessage::DuplicateKey(key)))
    }

    fn auth(&self) -> Result<Auth<'a>, BadMessage> {
        self.once()?;
        let token = self.auth.map(RawValue::get).filter(|text| text.starts_with('"'));
        let token = unescape(token.ok_or(BadMessage::Auth)?, "auth")?;
        let since = match self.since.map(RawValue::get) {
            None | Some("null") => Vec::new(),
            Some(text) => serde_json::from_str::<Ids<'a>>(text).map_err(|_| BadMessage::Since)?.0,
        };
        Ok(Auth { token, since })
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
        let Some(exclude) = self.exclude.map(RawValue::get) else { return Ok(Vec::new()) };
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

/// The id of a connection, in the one form in which it is written.
pub fn connection_id(text: &str) -> Option<Uuid> {
    if text.len() == Hyphenated::LENGTH { text.parse().ok() } else { None }
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
                    let (slot, name, duplicate) = match key {
                        Key::Channel => (&mut keys.channel, "channel", &mut keys.duplicate),
                        Key::Data => (&mut keys.data, "data", &mut keys.duplicate),
                        Key::Auth => (&mut keys.auth, "auth", &mut keys.duplicate_option),
                        Key::Since => (&mut keys.since, "since", &mut keys.duplicate_option),
                        Key::Ack => (&mut keys.ack, "ack", &mut keys.duplicate_option),
                        Key::Exclude => (&mut keys.exclude, "exclude", &mut keys.duplicate_option),
                        Key::Other => {
                            map.next_value::<Skipped>()?;
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

/// A key, known without keeping its text.
enum Key {
    Channel,
    Data,
    Auth,
    Since,
    Ack,
    Exclude,
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
                } else if key.eq_ignore_ascii_case("ack") {
                    Key::Ack
                } else if key.eq_ignore_ascii_case("exclude") {
                    Key::Exclude
                } else {
                    Key::Other
                })
            }
        }
        deserializer.deserialize_str(KeyVisitor)
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

/// A text that is borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
