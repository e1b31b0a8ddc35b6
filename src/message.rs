//! The wire format: a client's message parsed once, a delivery encoded once.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::frame::Frame;

/// The name of a channel: text of 1 to `[limits] channel_name_bytes` bytes without control characters.
///
/// Names are compared byte for byte and no character in them is special. Cloning shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// Takes `name` if the rule allows it.
    pub fn new(name: &str, max_bytes: usize) -> Result<ChannelName, ChannelNameError> {
        ChannelName::check(name, max_bytes)?;
        Ok(ChannelName(Arc::from(name)))
    }

    /// The one rule for names of channels, in tokens and in messages.
    pub fn check(name: &str, max_bytes: usize) -> Result<(), ChannelNameError> {
        if name.is_empty() {
            Err(ChannelNameError::Empty)
        } else if name.len() > max_bytes {
            Err(ChannelNameError::TooLong { bytes: name.len(), max: max_bytes })
        } else if name.chars().any(char::is_control) {
            Err(ChannelNameError::ControlCharacter)
        } else {
            Ok(())
        }
    }

    /// A name that no token and no message can hold, for the daemon's own use.
    pub(crate) fn internal(name: &str) -> ChannelName {
        ChannelName(Arc::from(format!("\0{name}")))
    }

    /// Whether it is one of the daemon's own.
    pub(crate) fn is_internal(&self) -> bool {
        self.0.starts_with('\0')
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Why a text is no channel's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelNameError {
    /// No character at all.
    Empty,
    /// More bytes than `[limits] channel_name_bytes`.
    TooLong {
        /// The name's length in bytes.
        bytes: usize,
        /// The most that is allowed, in bytes.
        max: usize,
    },
    /// A character of Unicode's category Cc, such as a newline.
    ControlCharacter,
}

impl fmt::Display for ChannelNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelNameError::Empty => f.write_str("a channel's name must not be empty"),
            ChannelNameError::TooLong { bytes, max } => {
                write!(f, "a channel's name may have {max} bytes at most; this one has {bytes}")
            }
            ChannelNameError::ControlCharacter => {
                f.write_str("a channel's name must not contain control characters")
            }
        }
    }
}

impl std::error::Error for ChannelNameError {}

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

/// A value that nobody reads, held to the same rules as one that is read.
///
/// serde's `IgnoredAny` lets serde_json skip over nesting of any depth and half surrogate pairs; asked for *any* value,
/// it applies its limit of 128 levels and looks at every escape.
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SkippedVisitor;
        impl<'de> Visitor<'de> for SkippedVisitor {
            type Value = Skipped;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, _: bool) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_str<E>(self, _: &str) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_unit<E>(self) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Skipped, A::Error> {
                while seq.next_element::<Skipped>()?.is_some() {}
                Ok(Skipped)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Skipped, A::Error> {
                while map.next_entry::<Skipped, Skipped>()?.is_some() {}
                Ok(Skipped)
            }
        }
        deserializer.deserialize_any(SkippedVisitor)
    }
}

/// A message on its way to a channel's readers.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The publisher's connection id, or the daemon's own.
    pub issuer: &'a str,
    /// The channel's name.
    pub channel: &'a str,
    /// The JSON text of `data`, quotes included, carried over as it came.
    pub data: &'a str,
    /// The publisher's `sub`, where readers are to see it.
    pub subject: Option<&'a str>,
}

impl Delivery<'_> {
    /// The finished frame: one allocation, made at its final size.
    pub fn encode(&self) -> Frame {
        encode_text(|out| self.write(out))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"issuer\":\"");
        out.extend_from_slice(self.issuer.as_bytes());
        out.extend_from_slice(b"\",\"channel\":");
        quote(out, self.channel);
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(self.data.as_bytes());
        if let Some(subject) = self.subject {
            out.extend_from_slice(b",\"subject\":");
            quote(out, subject);
        }
        out.push(b'}');
    }
}

/// Messages to one channel that follow one another, encoded one behind the other.
///
/// Together they are one frame: a reader's queue, its locks and its system call are paid once for all of them.
#[derive(Default)]
pub struct Batch {
    channel: String,
    bytes: Vec<u8>,
    messages: u32,
}

impl Batch {
    /// Bytes from which on no more messages are added: what is queued as one is also freed as one.
    const FULL: usize = 64 * 1024;

    /// An empty batch.
    pub const fn new() -> Batch {
        Batch { channel: String::new(), bytes: Vec::new(), messages: 0 }
    }

    /// The channel of its messages.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Whether it holds no message.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Whether a message to `channel` may be added. If not, what is there has to be taken first.
    pub fn takes(&self, channel: &str) -> bool {
        self.is_empty() || (self.channel == channel && self.bytes.len() < Self::FULL)
    }

    /// Adds a message to the channel that the first one went to.
    pub fn add(&mut self, delivery: &Delivery<'_>) {
        if self.is_empty() {
            self.channel.clear();
            self.channel.push_str(delivery.channel);
        }
        Frame::append_text(&mut self.bytes, |out| delivery.write(out));
        self.messages += 1;
    }

    /// All of them as one frame: one allocation, made at its final size.
    pub fn encode(&self) -> Frame {
        Frame::finished(&self.bytes, self.messages)
    }

    /// Forgets them, and gives back room that only large messages needed.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(SCRATCH_BYTES);
        self.messages = 0;
    }
}

/// An answer to what a client did wrong, on a connection that stays open.
#[derive(Debug)]
pub enum ErrorReply<'a> {
    /// The frame was no message.
    BadMessage(BadMessage),
    /// The token does not let its bearer write to this channel.
    Forbidden {
        /// The channel that was asked for.
        channel: &'a str,
    },
}

impl ErrorReply<'_> {
    /// The finished frame: `{"error": CODE, "channel": NAME, "message": SENTENCE}`.
    pub fn encode(&self) -> Frame {
        let (code, channel, sentence) = match self {
            ErrorReply::BadMessage(error) => ("bad_message", None, error.to_string()),
            ErrorReply::Forbidden { channel } => {
                ("forbidden", Some(*channel), format!("this token may not write to channel \"{channel}\""))
            }
        };
        encode_text(|out| {
            out.extend_from_slice(b"{\"error\":");
            quote(out, code);
            if let Some(channel) = channel {
                out.extend_from_slice(b",\"channel\":");
                quote(out, channel);
            }
            out.extend_from_slice(b",\"message\":");
            quote(out, &sentence);
            out.push(b'}');
        })
    }
}

fn quote(out: &mut Vec<u8>, text: &str) {
    // Writing to a Vec can't fail, and neither can a string's serialisation.
    let _ = serde_json::to_writer(out.by_ref(), text);
}

/// What a thread's encoding buffer may keep; a larger one is given back after use.
const SCRATCH_BYTES: usize = 16 * 1024;

/// Encodes a text frame through a buffer of the thread's own, so that only the finished frame is allocated.
fn encode_text(write: impl FnOnce(&mut Vec<u8>)) -> Frame {
    thread_local!(static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    SCRATCH.with_borrow_mut(|scratch| {
        Frame::append_text(scratch, write);
        let frame = Frame::finished(scratch, 1);
        scratch.clear();
        scratch.shrink_to(SCRATCH_BYTES);
        frame
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Publish<'_>, BadMessage> {
        Publish::parse(text, 255)
    }

    fn accepted(text: &str) -> (String, String) {
        let publish = parse(text).unwrap();
        (publish.channel.into_owned(), publish.data.to_owned())
    }

    fn payload(frame: &Frame) -> serde_json::Value {
        let text = std::str::from_utf8(&frame[if frame[1] < 126 { 2 } else { 4 }..]).unwrap();
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn keys_match_in_any_case_and_unknown_ones_are_skipped() {
        let expected = ("c".to_owned(), "\"x\"".to_owned());
        assert_eq!(accepted(r#"{"channel":"c","data":"x"}"#), expected);
        assert_eq!(accepted(r#"{"Channel":"c","Data":"x"}"#), expected);
        assert_eq!(
            accepted(r#" {"DATA":"x","event":"message","n":[1,{"a":null}],"issuer":7,"cHANNEL":"c"} "#),
            expected
        );
        assert_eq!(accepted(r#"{"ch\u0061nnel":"\u0063","data":"x"}"#), expected);
    }

    #[test]
    fn data_is_carried_over_as_it_was_written() {
        assert_eq!(
            accepted(r#"{"channel":"c","data":"a\u0000\n\ud83d\ude00ü"}"#).1,
            r#""a\u0000\n\ud83d\ude00ü""#
        );
    }

    #[test]
    fn fault_43_bad_messages() {
        let deep =
            format!(r#"{{"channel":"c","data":"x","more":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        let nested = "[".repeat(10_000);
        for (text, expected) in [
            ("", "a message must be JSON: it ends too early"),
            ("hello", "a message must be JSON: invalid at byte 1"),
            ("null", BadMessage::NotAnObject.to_string().as_str()),
            ("7", BadMessage::NotAnObject.to_string().as_str()),
            (r#"[{"channel":"c","data":"x"}]"#, BadMessage::NotAnObject.to_string().as_str()),
            ("{}", BadMessage::NoChannel.to_string().as_str()),
            (r#"{"channel":"c"}"#, BadMessage::DataNotAString.to_string().as_str()),
            (r#"{"channel":"c","data":null}"#, BadMessage::DataNotAString.to_string().as_str()),
            (r#"{"channel":"c","data":{"a":1}}"#, BadMessage::DataNotAString.to_string().as_str()),
            (r#"{"channel":7,"data":"x"}"#, BadMessage::NoChannel.to_string().as_str()),
            (r#"{"channel":"c","data":"x","Data":"y"}"#, "the key data stands there twice"),
            (r#"{"channel":"c","CHANNEL":"c","data":"x"}"#, "the key channel stands there twice"),
            (r#"{"channel":"c","data":"\ud800"}"#, "data has an escape that stands for no character"),
            (r#"{"channel":"\udc00","data":"x"}"#, "channel has an escape that stands for no character"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
        for text in [
            r#"{"channel":"c","data":"x"}x"#,
            r#"{"channel":"c","data":"x","n":1e400}"#,
            r#"{"channel":"c","data":"x","n":"\ud800"}"#,
            "{\"channel\":\"c\",\"data\":\"a\nb\"}",
            "{\"channel\":\"c\",\"data\":\"a\0b\"}",
            "\0",
            &deep,
            &nested,
        ] {
            assert!(matches!(parse(text), Err(BadMessage::NotJson(_))), "{}", &text[..text.len().min(60)]);
        }
    }

    #[test]
    fn fault_44_channel_names() {
        for name in ["__proto__", "*", ">", "a.b", " ", "a b", "ü", &"x".repeat(255)] {
            assert_eq!(ChannelName::check(name, 255), Ok(()), "{name}");
        }
        for (name, error) in [
            ("", ChannelNameError::Empty),
            (&*"x".repeat(256), ChannelNameError::TooLong { bytes: 256, max: 255 }),
            ("a\nb", ChannelNameError::ControlCharacter),
            ("\u{7f}", ChannelNameError::ControlCharacter),
            ("\u{85}", ChannelNameError::ControlCharacter),
        ] {
            assert_eq!(ChannelName::check(name, 255), Err(error.clone()));
            let text = serde_json::json!({"channel": name, "data": "x"}).to_string();
            assert_eq!(parse(&text).unwrap_err(), BadMessage::ChannelName(error));
        }
    }

    #[test]
    fn many_messages_name_the_bad_one() {
        let two = r#"[{"channel":"a","data":"1"},{"channel":"b","data":"2"}]"#;
        assert_eq!(Publish::parse_many(two, 255).unwrap().len(), 2);
        let one = r#"{"channel":"a","data":"1"}"#;
        assert_eq!(Publish::parse_many(one, 255).unwrap().len(), 1);
        let bad = r#"[{"channel":"a","data":"1"},{"channel":"b"}]"#;
        assert_eq!(Publish::parse_many(bad, 255).unwrap_err(), (1, BadMessage::DataNotAString));
        assert!(Publish::parse_many("[", 255).is_err());
    }

    #[test]
    fn a_delivery_has_its_keys_in_the_documented_order() {
        let delivery = Delivery { issuer: "id", channel: "a\"b", data: r#""x\ny""#, subject: Some("alice") };
        let frame = delivery.encode();
        assert_eq!(
            std::str::from_utf8(&frame[2..]).unwrap(),
            r#"{"issuer":"id","channel":"a\"b","data":"x\ny","subject":"alice"}"#
        );
        let quiet = Delivery { subject: None, ..delivery }.encode();
        assert!(payload(&quiet).get("subject").is_none());
    }

    #[test]
    fn a_batch_is_its_messages_one_behind_the_other() {
        let delivery = |channel| Delivery { issuer: "id", channel, data: r#""x""#, subject: None };
        let mut batch = Batch::new();
        assert!(batch.is_empty() && batch.takes("a"));
        batch.add(&delivery("a"));
        batch.add(&Delivery { data: "\"second\"", ..delivery("a") });
        assert_eq!((batch.channel(), batch.takes("a"), batch.takes("b")), ("a", true, false));
        let frame = batch.encode();
        let (first, second) =
            (delivery("a").encode(), Delivery { data: "\"second\"", ..delivery("a") }.encode());
        assert_eq!((frame[..].to_vec(), frame.messages()), ([&first[..], &second[..]].concat(), 2));
        batch.clear();
        assert!(batch.takes("b"), "it is empty");

        let large = format!("\"{}\"", "x".repeat(Batch::FULL));
        batch.add(&Delivery { data: &large, ..delivery("b") });
        assert!(!batch.takes("b"), "it is full");
    }

    #[test]
    fn error_replies_are_json_whatever_the_channel_is_called() {
        let reply = payload(&ErrorReply::Forbidden { channel: "a\"\\b" }.encode());
        assert_eq!(reply["error"], "forbidden");
        assert_eq!(reply["channel"], "a\"\\b");
        assert_eq!(reply["message"], "this token may not write to channel \"a\"\\b\"");
    }
}
