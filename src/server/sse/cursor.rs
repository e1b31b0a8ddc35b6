//! The cursor of a stream of events: the position in each of its channels, as the `id` of an event.
//!
//! It is text like a query, `chat=EPOCH-N&room%3A42=EPOCH-N`, so that a client can make one from the ids of messages.

use std::borrow::Cow;
use std::fmt;

use form_urlencoded::byte_serialize;
use serde::Deserialize;

use crate::message::{ChannelName, MessageId, Since};

/// The most channels of one stream. Each event repeats the position in all of them, and a client sends them back in a
/// header.
pub(super) const MAX_CHANNELS: usize = 16;

/// The id of the last event of a stream to which its client must not come back. A browser sends it with its next
/// request, and stops.
pub(super) const CLOSED: &str = "closed";

/// Parses a cursor into positions, as in `since` of philote.v1. A channel without an id wants its whole history.
///
/// # Errors
/// The sentence for the client.
pub(super) fn parse(text: &str, channel_name_bytes: usize) -> Result<Vec<Since<'static>>, String> {
    const FORM: &str = "Last-Event-ID must be the id of an event: NAME=ID for each channel, joined by &";
    let mut since: Vec<Since<'static>> = Vec::new();
    for part in text.split('&') {
        let Some((name, id)) = part.split_once('=') else { return Err(FORM.to_owned()) };
        let name: String =
            form_urlencoded::parse(name.as_bytes()).map(|(name, _)| name.into_owned()).collect();
        ChannelName::check(&name, channel_name_bytes).map_err(|error| error.to_string())?;
        let id = Some(id).filter(|id| !id.is_empty()).map(MessageId::parse);
        if id == Some(MessageId::NONE) || since.iter().any(|(other, _)| *other == name) {
            return Err(FORM.to_owned());
        }
        if since.len() == MAX_CHANNELS {
            return Err(format!("Last-Event-ID may name {MAX_CHANNELS} channels at most"));
        }
        since.push((Cow::Owned(name), id));
    }
    Ok(since)
}

/// The position in each channel of a stream.
#[derive(Debug, Default)]
pub(super) struct Cursor(Vec<Position>);

#[derive(Debug)]
struct Position {
    /// The name as messages have it, in quotes.
    quoted: Box<[u8]>,
    /// The name as the cursor has it.
    encoded: Box<str>,
    last: Option<MessageId>,
}

/// The part of a frame `access` with which a cursor begins.
#[derive(Deserialize)]
struct AccessFrame<'a> {
    #[serde(borrow)]
    access: Access<'a>,
}

#[derive(Deserialize)]
struct Access<'a> {
    #[serde(borrow)]
    read: Vec<Cow<'a, str>>,
    #[serde(default, borrow)]
    ids: std::collections::HashMap<Cow<'a, str>, Cow<'a, str>>,
}

/// What a message changes in a cursor, so that it can be undone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    at: usize,
    before: Option<MessageId>,
}

impl Cursor {
    /// Returns the cursor at which a stream begins, from the text of its `access`.
    pub(super) fn of_access(text: &[u8]) -> Cursor {
        let Ok(AccessFrame { access }) = serde_json::from_slice(text) else { return Cursor::default() };
        let position = |name: &Cow<'_, str>| Position {
            quoted: serde_json::to_vec(name).unwrap_or_default().into(),
            encoded: byte_serialize(name.as_bytes()).collect::<String>().into(),
            last: access.ids.get(name).map(|id| MessageId::parse(id)),
        };
        Cursor(access.read.iter().map(position).collect())
    }

    /// Moves behind a message, if it has an id. Returns what [`Cursor::undo`] needs.
    ///
    /// The text is always in the form that the server writes: the issuer, which is a UUID, then the channel, and the id at
    /// the end.
    pub(super) fn advance(&mut self, message: &[u8]) -> Option<Change> {
        const BEFORE_NAME: usize =
            b"{\"issuer\":\"".len() + uuid::fmt::Hyphenated::LENGTH + b"\",\"channel\":".len();
        let last = Some(id_of(message)?);
        let name = message.get(BEFORE_NAME..)?;
        let at = self.0.iter().position(|position| name.starts_with(&position.quoted))?;
        let before = std::mem::replace(&mut self.0[at].last, last);
        Some(Change { at, before })
    }

    /// Undoes a change. The last one must be undone first.
    pub(super) fn undo(&mut self, change: Change) {
        self.0[change.at].last = change.before;
    }

    /// Returns whether no channel has a position: there is no history.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|position| position.last.is_none())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for position in &self.0 {
            if let Some(last) = position.last {
                write!(f, "{separator}{}={last}", position.encoded)?;
                separator = "&";
            }
        }
        Ok(())
    }
}

/// Returns the id of a message: its last key, if there is a history.
///
/// What is looked for cannot be in a string, in which every quote has a backslash before it.
fn id_of(message: &[u8]) -> Option<MessageId> {
    const KEY: &[u8] = b",\"id\":\"";
    /// The longest key and value: two numbers of 64 bits.
    const LONGEST: usize = KEY.len() + 16 + 1 + 20;
    let end = message.strip_suffix(b"\"}")?;
    let end = &end[end.len().saturating_sub(LONGEST)..];
    let at = memchr::memmem::rfind(end, KEY)?;
    let id = MessageId::parse(std::str::from_utf8(&end[at + KEY.len()..]).ok()?);
    (id != MessageId::NONE).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "00000000-0000-0000-0000-000000000000";

    fn access(read: &[&str], ids: &[(&str, &str)]) -> Cursor {
        let ids: std::collections::BTreeMap<_, _> = ids.iter().copied().collect();
        Cursor::of_access(
            &serde_json::to_vec(&serde_json::json!({"access": {"read": read, "ids": ids}})).unwrap(),
        )
    }

    fn message(channel: &str, data: &str, rest: &str) -> Vec<u8> {
        let [channel, data] = [channel, data].map(|text| serde_json::to_string(text).unwrap());
        format!("{{\"issuer\":\"{ISSUER}\",\"channel\":{channel},\"data\":{data}{rest}}}").into_bytes()
    }

    #[test]
    fn it_follows_the_ids_of_messages() {
        let mut cursor =
            access(&["chat", "room:42 &=ü", "none"], &[("chat", "ab-7"), ("room:42 &=ü", "cd-0")]);
        assert_eq!(cursor.to_string(), "chat=ab-7&room%3A42+%26%3D%C3%BC=cd-0");
        let change = cursor.advance(&message("room:42 &=ü", "x", ",\"id\":\"cd-1\"")).unwrap();
        assert_eq!(cursor.to_string(), "chat=ab-7&room%3A42+%26%3D%C3%BC=cd-1");
        let parsed = parse(&cursor.to_string(), 255).unwrap();
        assert_eq!(parsed[1], ("room:42 &=ü".into(), Some(MessageId { epoch: 0xcd, number: 1 })));
        cursor.undo(change);
        assert_eq!(parse(&cursor.to_string(), 255).unwrap()[1].1.unwrap().number, 0);
        assert!(!cursor.is_empty() && access(&["chat"], &[]).is_empty());
    }

    #[test]
    fn text_that_only_looks_like_an_id_changes_nothing() {
        let mut cursor = access(&["chat"], &[("chat", "ab-7")]);
        for message in [
            message("chat", "a,\"id\":\"ab-9", ""),
            message("chat", ",\"id\":\"ab-9\"}", ""),
            message("chat", "x", ",\"subject\":\"s,\\\"id\\\":\\\"ab-9\""),
            message("cha", "x", ",\"id\":\"ab-9\""),
            message("chat2", "x", ",\"id\":\"ab-9\""),
            b"{\"issuer\":\"".to_vec(),
            b"\"}".to_vec(),
        ] {
            assert!(cursor.advance(&message).is_none(), "{}", String::from_utf8_lossy(&message));
        }
        assert_eq!(cursor.to_string(), "chat=ab-7");
    }

    #[test]
    fn text_that_is_no_cursor_is_refused() {
        let many = |count: usize| (0..count).map(|n| format!("c{n}=ab-1")).collect::<Vec<_>>().join("&");
        assert_eq!(parse(&many(MAX_CHANNELS), 255).unwrap().len(), MAX_CHANNELS);
        assert_eq!(parse("chat=", 255).unwrap(), [("chat".into(), None)]);
        for text in [
            "",
            "41",
            "ab-41",
            "chat",
            "=ab-1",
            "chat=x",
            "chat=ab",
            "chat=ab-",
            "chat=-1",
            "chat=ab-1&",
            "&",
            "chat=0-0",
            "chat=ab-1&chat=ab-2",
            "chat=ab-1=2",
            "chat=ab-+1",
            "%00=ab-1",
            "chat=ab-99999999999999999999999",
            "\u{1}=ab-1",
            &many(MAX_CHANNELS + 1),
            &format!("{}=ab-1", "x".repeat(256)),
        ] {
            assert!(parse(text, 255).is_err(), "{text}");
        }
    }
}
