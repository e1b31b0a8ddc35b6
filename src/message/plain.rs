//! Reads the form in which nearly all clients publish, `{"channel":"...","data":"..."}` without spaces, in one pass over the
//! text. It takes only what is valid. Every other text is left to the parser, which alone judges what is wrong with it.

use std::borrow::Cow;

use memchr::memchr2;

use super::ChannelName;
use super::publish::{MAX_ACK_BYTES, Publish};

/// Returns the message if the text has the plain form: an object of `channel` and perhaps `data` and `ack`, each once and a
/// string, in which only `data` has escapes.
pub(super) fn publish(text: &str, channel_name_bytes: usize, v1: bool) -> Option<Publish<'_>> {
    let (mut channel, mut data, mut ack) = (None, None, None);
    let mut rest = text.strip_prefix('{')?;
    loop {
        let (slot, has_escapes) = if let Some(after) = rest.strip_prefix("\"channel\":") {
            rest = after;
            (&mut channel, false)
        } else if let Some(after) = rest.strip_prefix("\"data\":") {
            rest = after;
            (&mut data, true)
        } else {
            rest = rest.strip_prefix("\"ack\":")?;
            (&mut ack, false)
        };
        let (string, after) = rest.split_at(string_length(rest.as_bytes(), has_escapes)?);
        if slot.replace(string).is_some() {
            return None;
        }
        match after.as_bytes() {
            [b',', ..] => rest = &after[1..],
            b"}" => break,
            _ => return None,
        }
    }
    let channel = unquoted(channel?);
    let is_valid = ChannelName::check(channel, channel_name_bytes).is_ok()
        && ack.is_none_or(|ack| unquoted(ack).len() <= MAX_ACK_BYTES);
    is_valid.then(|| Publish { channel: Cow::Borrowed(channel), data, ack: ack.filter(|_| v1) })
}

fn unquoted(string: &str) -> &str {
    &string[1..string.len() - 1]
}

/// Returns the length of the JSON string that `bytes` begin with, with its quotes; `None` if it is none, or has an escape that
/// is not allowed or not a single character.
fn string_length(bytes: &[u8], has_escapes: bool) -> Option<usize> {
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let mut length = 1;
    loop {
        length += memchr2(b'"', b'\\', &bytes[length..])?;
        match bytes[length..] {
            [b'"', ..] => break,
            [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] if has_escapes => length += 2,
            _ => return None,
        }
    }
    has_no_controls(&bytes[..length]).then_some(length + 1)
}

/// Returns whether a JSON string can contain a text as it is (RFC 8259 section 7).
pub(super) fn needs_no_escapes(text: &str) -> bool {
    memchr2(b'"', b'\\', text.as_bytes()).is_none() && has_no_controls(text.as_bytes())
}

fn has_no_controls(bytes: &[u8]) -> bool {
    // The least byte is found with vector instructions.
    bytes.iter().fold(u8::MAX, |least, &byte| least.min(byte)) >= b' '
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::message::FromClient;

    /// What messages consist of, and what is nearly that.
    const PARTS: [&str; 36] = [
        "{",
        "}",
        ",",
        ":",
        "\"",
        " ",
        "\n",
        "\\",
        "\"channel\":\"",
        "\"data\":\"",
        "\"ack\":\"",
        "\"Channel\":\"",
        "\"auth\":\"",
        "\"join\":",
        "\"x\":1",
        "\",",
        "\"}",
        "\"",
        "null",
        "[\"a\"]",
        "room 1",
        "a",
        "\\\"",
        "\\\\",
        "\\/",
        "\\n",
        "\\u0041",
        "\\ud83d\\ude00",
        "\\ud83d",
        "\\x",
        "\u{1}",
        "\u{7f}",
        "\u{85}",
        "ü😀",
        "0123456789abcdef0123456789abcdef",
        "]",
    ];

    fn check(text: &str) -> Result<bool, TestCaseError> {
        for v1 in [false, true] {
            let Some(publish) = publish(text, 40, v1) else { continue };
            let any = FromClient::parse_any(text, 40, v1);
            let Ok(FromClient::Publish(Publish { channel, data, ack })) = any else {
                return Err(TestCaseError::fail(format!("{text:?} is taken, but it is {any:?}")));
            };
            prop_assert_eq!((publish.channel, publish.data, publish.ack), (channel, data, ack), "{:?}", text);
            return Ok(true);
        }
        Ok(false)
    }

    proptest! {
        #[test]
        fn what_is_taken_is_what_the_parser_returns(parts in vec(select(&PARTS[..]), 0..16)) {
            check(&parts.concat())?;
        }

        #[test]
        fn a_message_that_is_nearly_plain_is_read_alike(
            members in vec(
                (select(&["channel", "data", "ack", "data", "channel", "Data", "x"][..]), vec(select(&PARTS[8..]), 0..4)),
                1..4,
            ),
        ) {
            let members: Vec<_> =
                members.iter().map(|(key, value)| format!("\"{key}\":\"{}\"", value.concat())).collect();
            check(&format!("{{{}}}", members.join(",")))?;
        }
    }

    #[test]
    fn what_clients_send_is_plain() {
        let long = "x".repeat(1000);
        for text in [
            r#"{"channel":"chat","data":"hello"}"#,
            r#"{"data":"hello","channel":"chat"}"#,
            r#"{"channel":"chat"}"#,
            r#"{"channel":"chat","data":"{\"a\":[1,\"\\n\"]}","ack":"7"}"#,
            r#"{"channel":"zimmer ü","data":""}"#,
            &format!(r#"{{"channel":"chat","data":"{long}"}}"#),
        ] {
            assert!(check(text).unwrap(), "{text}");
        }
    }
}
