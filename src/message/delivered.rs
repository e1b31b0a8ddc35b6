//! Reads from the bytes of a delivery which message it is.

use memchr::{memchr, memchr2, memrchr};

use super::MessageId;

/// Returns the channel of a delivered message as JSON text, and the message's id. Returns `None` for a message without an id,
/// and for all else that a connection gets.
///
/// [`Delivery`](super::Delivery) has written the text, and the id was added as its last key.
pub(crate) fn delivered(payload: &[u8]) -> Option<(&[u8], MessageId)> {
    let before_id = payload.strip_suffix(b"\"}")?;
    let start = memrchr(b'"', before_id)? + 1;
    if !before_id[..start].ends_with(b",\"id\":\"") {
        return None;
    }
    let id = MessageId::parse(std::str::from_utf8(&before_id[start..]).ok()?);
    let issuer = payload.strip_prefix(b"{\"issuer\":\"")?;
    let channel = issuer[memchr(b'"', issuer)?..].strip_prefix(b"\",\"channel\":")?;
    let mut length = 1;
    loop {
        length += memchr2(b'"', b'\\', channel.get(length..)?)?;
        if channel[length] == b'"' {
            break;
        }
        // The character after a backslash ends nothing.
        length += 2;
    }
    (id != MessageId::NONE).then(|| (&channel[..=length], id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Delivery, ErrorReply, ack_reply, number};

    #[test]
    fn only_a_message_with_an_id_is_one() {
        let id = MessageId { epoch: 0xa1, number: 41 };
        for (channel, json) in [("c", "\"c\""), ("a \"b\\", r#""a \"b\\""#), ("räume:7", "\"räume:7\"")] {
            for data in [None, Some("\"x\""), Some(r#""\",\"id\":\"a1-7\"}""#), Some("\"\"")] {
                let delivery = Delivery { issuer: "i", channel, data, subject: Some("s\",\"id\":\"a1-9") };
                let frame = delivery.encode();
                assert_eq!(delivered(frame.payloads().next().unwrap()), None, "{channel} {data:?}");
                let (frame, _) = number(&frame, id.epoch, id.number);
                assert_eq!(delivered(frame.payloads().next().unwrap()), Some((json.as_bytes(), id)));
            }
        }
        let forbidden = ErrorReply::Forbidden { channel: "c", ack: Some("\"1\"") }.encode();
        let ack = ack_reply("\"1\"", 1, Some(id));
        for reply in [forbidden, ack] {
            assert_eq!(delivered(reply.payloads().next().unwrap()), None);
        }
        for text in ["", "\"}", ",\"id\":\"a1-1\"}", "{\"issuer\":\"i\",\"channel\":\"c,\"id\":\"a1-1\"}"] {
            let _ = delivered(text.as_bytes());
        }
    }
}
