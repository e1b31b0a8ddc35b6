//! What nodes send each other, and the subjects of channels, for tests/fuzz.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a finding")]

use super::nodes::Announcement;
use super::presence::Presence;
pub(crate) use super::presence::fuzz::presence;
use super::steering::message::{Message, Nonce, Seal};
use super::subject::Subjects;
use super::wire;

/// The first line is a channel, or a subject, or neither; the rest is a payload.
pub(crate) fn message_and_subject(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let name = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let payload = parts.next().unwrap_or_default();
    let subjects = Subjects::new("p");
    // A subject of NATS is tokens of printable characters, divided by dots, and nothing in it is a wildcard.
    for (tokens, subject) in [(4, subjects.channel(&name)), (5, subjects.logged(&name))] {
        assert_eq!(subject.split('.').count(), tokens, "a channel is one token: {subject}");
        assert!(
            subject.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'*' | b'>')),
            "{subject}"
        );
        let back = subjects.channel_of(&subject);
        assert_eq!(back.unwrap_or_default(), name, "{subject}");
    }
    if let Some(channel) = subjects.channel_of(&name) {
        assert!(
            [subjects.channel(&channel), subjects.logged(&channel)].contains(&name),
            "two subjects of one channel"
        );
    }
    if let Some(received) = wire::decode(payload, &name) {
        let node = received.node.to_string();
        for message in received.frame.payloads() {
            let message: serde_json::Value = serde_json::from_slice(message).expect("readers get JSON");
            assert_eq!(message["channel"], *name);
        }
        let again = wire::encode(&node, received.number, &received.excluded, received.frame.payloads());
        assert_eq!(wire::decode(&again, &name).unwrap(), received);
    }
    let _ = Announcement::parse(payload);
    let _ = Presence::parse(payload);
}

/// An order to other nodes: raw bytes, which must be refused, or the node, kind and body of a sealed one, which must come back.
pub(crate) fn order(data: &[u8]) {
    const NOW: u64 = 1_800_000_000_000;
    let seal = Seal::new(b"the secret of the cluster of the fuzzer", "p");
    let Some((raw, rest)) = data.split_first() else { return };
    if raw & 1 == 0 {
        assert!(seal.open(rest, NOW).is_err(), "an order without the secret was accepted");
        return;
    }
    let mut parts = rest.splitn(3, |byte| *byte == b'\n').map(String::from_utf8_lossy);
    let mut part = || parts.next().unwrap_or_default().into_owned();
    let (node, kind, body) = (part(), part(), part());
    let message = Message {
        node: &node,
        sent_ms: NOW - 20_000 + u64::from(*raw) * 200,
        nonce: Nonce::random(),
        answered: (raw & 2 != 0).then(Nonce::random),
        kind: &kind,
        body: body.as_bytes(),
    };
    let mut sealed = seal.seal(&message);
    // A space in a name would be another field; no node or kind has one.
    if !node.contains(' ')
        && !kind.contains(' ')
        && let Ok(opened) = seal.open(&sealed, NOW)
    {
        assert_eq!(opened, message);
    }
    let at = body.len() % sealed.len();
    sealed[at] ^= 1;
    assert!(seal.open(&sealed, NOW).is_err(), "a changed order was accepted");
}
