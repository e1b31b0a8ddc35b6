//! What one node sends the others about a channel: a header line, and then each message as its readers get it.
//!
//! `web-1@9f3c0a5e00d1b2c4 17 m 0a1b...` `\n` `{"issuer":...,"channel":...,"data":...}` `\n` ...
//!
//! The header has the node's name and start, the number of its message counted from 1, the kind, and the connections that
//! must not get it (`-` for none). The version is in the subject.

use std::fmt::{self, Write};

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::frame::Frame;
use crate::message::MAX_EXCLUDED;

/// The kind of a payload that has messages to the readers of a channel.
const MESSAGES: &str = "m";

/// The longest name of a node, in bytes.
pub(super) const MAX_NODE_NAME: usize = 64;

/// One run of a node: its name, and a random number of its process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId {
    /// `[cluster] name`.
    pub name: String,
    /// A random number, another one for each start.
    pub start: u64,
}

impl NodeId {
    /// Parses `NAME@START`.
    pub(super) fn parse(text: &str) -> Option<NodeId> {
        let (name, start) = text.rsplit_once('@')?;
        let named = (1..=MAX_NODE_NAME).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        let digits = start.len() == 16 && start.bytes().all(|byte| byte.is_ascii_hexdigit());
        let start = u64::from_str_radix(start, 16).ok()?;
        (named && digits).then(|| NodeId { name: name.to_owned(), start })
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:016x}", self.name, self.start)
    }
}

/// Encodes messages to the readers of a channel, each without its id.
pub(super) fn encode<'a>(
    node: &str,
    number: u64,
    excluded: &[Uuid],
    messages: impl Iterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let mut header = String::with_capacity(96);
    // Writing to a String can't fail.
    let _ = write!(header, "{node} {number} {MESSAGES} ");
    if excluded.is_empty() {
        header.push('-');
    }
    for (at, id) in excluded.iter().enumerate() {
        let _ = write!(header, "{}{id}", if at > 0 { "," } else { "" });
    }
    let mut payload = header.into_bytes();
    for message in messages {
        payload.push(b'\n');
        payload.extend_from_slice(message);
    }
    payload
}

/// The messages of another node, or of this one as they come back from the log.
#[derive(Debug, PartialEq)]
pub(super) struct Received {
    /// The node that published them.
    pub(super) node: NodeId,
    /// The number of this payload among those of its node.
    pub(super) number: u64,
    /// The connections that must not get them.
    pub(super) excluded: Vec<Uuid>,
    /// The messages as frames.
    pub(super) frame: Frame,
}

/// A message as its readers get it. Nothing else may reach them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape<'a> {
    #[serde(borrow)]
    issuer: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    channel: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    subject: Option<std::borrow::Cow<'a, str>>,
}

/// Decodes a payload that arrived for a channel. Returns `None` for one that no node of this version can have sent.
pub(super) fn decode(payload: &[u8], channel: &str) -> Option<Received> {
    let mut lines = payload.split(|byte| *byte == b'\n');
    let header = std::str::from_utf8(lines.next()?).ok()?;
    let mut fields = header.split(' ');
    let node = NodeId::parse(fields.next()?)?;
    let number = fields.next()?.parse().ok()?;
    let kind = fields.next()?;
    let excluded = match fields.next()? {
        "-" => Vec::new(),
        ids => ids.split(',').map(|id| Uuid::try_parse(id).ok()).collect::<Option<_>>()?,
    };
    if kind != MESSAGES || fields.next().is_some() || excluded.len() > MAX_EXCLUDED {
        return None;
    }
    let mut bytes = Vec::with_capacity(payload.len() + 16);
    let mut messages = 0;
    for line in lines {
        let message: Shape<'_> = serde_json::from_slice(line).ok()?;
        let data = message.data.is_none_or(|data| is_text(data.get()));
        let whole = line.first() == Some(&b'{') && line.last() == Some(&b'}');
        if message.channel != channel || !data || !whole || Uuid::try_parse(&message.issuer).is_err() {
            return None;
        }
        let _ = message.subject;
        Frame::append_text(&mut bytes, |out| out.extend_from_slice(line));
        messages += 1;
    }
    (messages > 0).then(|| Received { node, number, excluded, frame: Frame::finished(&bytes, messages) })
}

/// Returns whether the JSON text of `data` is a string. Its escapes were checked by the publisher's node, and are checked
/// again, because a lone surrogate would end a reader's connection.
fn is_text(data: &str) -> bool {
    data.starts_with('"') && (!data.contains('\\') || serde_json::from_str::<String>(data).is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Delivery;

    const ISSUER: &str = "0a1b2c3d-0000-4000-8000-000000000001";

    fn delivery<'a>(channel: &'a str, data: &'a str) -> Delivery<'a> {
        Delivery { issuer: ISSUER, channel, data: Some(data), subject: Some("al\"ice") }
    }

    #[test]
    fn messages_come_back_as_the_same_frames() {
        let node = NodeId { name: "web-1".to_owned(), start: 7 };
        let excluded = [Uuid::nil(), Uuid::max()];
        for frame in [delivery("c", "\"1\"").encode(), delivery("c", "\"\\n\"").encode()] {
            let payload = encode(&node.to_string(), 3, &excluded, frame.payloads());
            assert!(payload.starts_with(b"web-1@0000000000000007 3 m 00000000-"));
            let received = decode(&payload, "c").unwrap();
            assert_eq!(
                received,
                Received { node: node.clone(), number: 3, excluded: excluded.to_vec(), frame }
            );
        }
        let signal = Delivery { data: None, ..delivery("c", "") }.encode();
        let payload = encode(&node.to_string(), 3, &[], signal.payloads());
        assert_eq!(decode(&payload, "c").unwrap().frame, signal);
    }

    #[test]
    fn fault_77_hostile_payloads_are_dropped() {
        let good = r#"{"issuer":"0a1b2c3d-0000-4000-8000-000000000001","channel":"c","data":"x"}"#;
        let head = "n@0000000000000007 1 m -";
        assert!(decode(format!("{head}\n{good}").as_bytes(), "c").is_some());
        for payload in [
            "".to_owned(),
            good.to_owned(),
            head.to_owned(),
            format!("{head}\n"),
            format!("{head}\n{good}\n"),
            format!("{head} more\n{good}"),
            format!("n@7 1 m -\n{good}"),
            format!("n n@0000000000000007 1 m -\n{good}"),
            format!("@0000000000000007 1 m -\n{good}"),
            format!("n@0000000000000007 -1 m -\n{good}"),
            format!("n@0000000000000007 1 x -\n{good}"),
            format!("n@0000000000000007 1 m me\n{good}"),
            format!("{head}\n{good}{good}"),
            format!("{head}\n {good}"),
            format!("{head}\n[1]"),
            format!("{head}\n{}", good.replace("\"c\"", "\"d\"")),
            format!("{head}\n{}", good.replace("\"x\"", "{}")),
            format!("{head}\n{}", good.replace("\"x\"", "\"\\ud800\"")),
            format!("{head}\n{}", good.replace("\"data\"", "\"error\"")),
            format!("{head}\n{}", good.replace("0a1b2c3d-", "")),
            format!("{head}\n{}", good.replace("\"data\":\"x\"", "\"data\":\"x\",\"data\":\"y\"")),
        ] {
            assert_eq!(decode(payload.as_bytes(), "c"), None, "{payload}");
        }
        let many = vec![ISSUER; MAX_EXCLUDED + 1].join(",");
        assert_eq!(decode(format!("n@0000000000000007 1 m {many}\n{good}").as_bytes(), "c"), None);
        assert_eq!(
            decode(format!("{head}\n{}", good.replace('x', "\u{fffd}")).as_bytes(), "c").map(|_| ()),
            Some(())
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, "c");
        }
    }
}
