//! NATS subjects: a channel's name as one token of a subject, and the subjects of this format version.

use std::fmt::Write;

use uuid::Uuid;

/// The version of subjects and payloads. Nodes of another version use other subjects, so that they never read each other.
const FORMAT: u8 = 1;

/// The subjects below `[cluster] subject_prefix`.
#[derive(Clone, Debug)]
pub(super) struct Subjects {
    base: String,
}

impl Subjects {
    pub(super) fn new(prefix: &str) -> Subjects {
        Subjects { base: format!("{prefix}.{FORMAT}") }
    }

    /// Returns the subject of announcements, which all nodes read.
    pub(super) fn nodes(&self) -> String {
        format!("{}.n", self.base)
    }

    /// Returns a subject that nobody reads.
    pub(super) fn nobody(&self) -> String {
        format!("{}.nobody", self.base)
    }

    /// Returns the beginning of the subjects of answers. They are below the prefix like all others, so that who may use the
    /// inboxes of others does not read or forge these.
    pub(super) fn inboxes(&self) -> String {
        format!("{}.inbox", self.base)
    }

    /// Returns a subject that only the node that made this id reads.
    pub(super) fn own(&self, id: Uuid) -> String {
        format!("{}.own.{}", self.base, id.simple())
    }

    /// Returns the subject of a channel's messages without a history.
    pub(super) fn channel(&self, channel: &str) -> String {
        let mut subject = format!("{}.m.", self.base);
        encode(&mut subject, channel);
        subject
    }

    /// Returns the subject of a channel's messages in the log. Its shard is two hexadecimal digits of a hash, so that the
    /// log can be divided later.
    pub(super) fn logged(&self, channel: &str) -> String {
        let mut subject = format!("{}.p.{:02x}.", self.base, shard(channel));
        encode(&mut subject, channel);
        subject
    }

    /// Returns the subject of the record of the log's epoch.
    pub(super) fn epoch(&self) -> String {
        format!("{}.p.epoch", self.base)
    }

    /// Returns the subjects that the log keeps.
    pub(super) fn log(&self) -> String {
        format!("{}.p.>", self.base)
    }

    /// Returns the channel of a subject made by [`Subjects::channel`] or [`Subjects::logged`]; `None` for any other subject.
    pub(super) fn channel_of(&self, subject: &str) -> Option<String> {
        let kind = subject.strip_prefix(&*self.base)?;
        if let Some(token) = kind.strip_prefix(".m.") {
            return decode(token);
        }
        let (digits, token) = kind.strip_prefix(".p.")?.split_once('.')?;
        let channel = decode(token)?;
        (digits == format!("{:02x}", shard(&channel))).then_some(channel)
    }
}

/// Returns whether a byte stands for itself in a token. No other byte is safe: `.`, `*`, `>` and blanks mean something to
/// NATS, and `=` to this encoding.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'/' | b'_' | b'@' | b'+' | b'-')
}

/// Appends a channel's name as one token: plain bytes as they are, any other as `=XX` with its value in hexadecimal.
fn encode(out: &mut String, channel: &str) {
    out.reserve(channel.len());
    for byte in channel.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(out, "={byte:02X}");
        }
    }
}

/// Returns the name that `encode` made this token of; `None` if it made it of no name.
fn decode(token: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if is_plain(*first) {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let upper = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'));
        let byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if *first != b'=' || !upper || is_plain(byte) {
            return None;
        }
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

/// Returns the shard of a channel: an FNV-1a hash of its name, folded to eight bits. All nodes must agree on it.
fn shard(channel: &str) -> u8 {
    let hash = channel.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.to_be_bytes().into_iter().fold(0, |folded, byte| folded ^ byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn readable_names_stay_readable() {
        let subjects = Subjects::new("philote");
        assert_eq!(subjects.channel("room:42/users@home"), "philote.1.m.room:42/users@home");
        assert_eq!(subjects.channel("a.b > *"), "philote.1.m.a=2Eb=20=3E=20=2A");
        assert_eq!(subjects.channel("é="), "philote.1.m.=C3=A9=3D");
        assert!(subjects.logged("chat").starts_with("philote.1.p."));
    }

    #[test]
    fn foreign_subjects_have_no_channel() {
        let subjects = Subjects::new("philote");
        let logged = subjects.logged("chat");
        let (rest, _) = logged.rsplit_once(".chat").unwrap();
        let (other, _) = rest.rsplit_once('.').unwrap();
        for subject in [
            "",
            "philote.1.m.",
            "philote.2.m.chat",
            "philote.1.m.chat.more",
            "philote.1.m.a=2",
            "philote.1.m.a=2e",
            "philote.1.m.=41",
            "philote.1.m.=FF",
            "philote.1.m.a*",
            "philote.1.p.chat",
            "philote.1.p.epoch",
            "philotes.1.m.chat",
            &format!("{other}.zz.chat"),
        ] {
            assert_eq!(subjects.channel_of(subject), None, "{subject}");
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_back_and_is_one_token(name in "\\PC{1,40}", other in "\\PC{1,40}") {
            let subjects = Subjects::new("a.b");
            for subject in [subjects.channel(&name), subjects.logged(&name)] {
                prop_assert_eq!(subjects.channel_of(&subject), Some(name.clone()));
                let token = subject.rsplit('.').next().unwrap();
                prop_assert!(!token.is_empty() && token.bytes().all(|byte| is_plain(byte) || byte == b'='));
            }
            prop_assert_eq!(subjects.channel(&name) == subjects.channel(&other), name == other);
        }

        #[test]
        fn no_token_is_read_as_the_name_of_another(token in "[a-z=0-9A-F]{0,12}") {
            let subjects = Subjects::new("p");
            let subject = format!("p.1.m.{token}");
            if let Some(name) = subjects.channel_of(&subject) {
                prop_assert_eq!(subjects.channel(&name), subject);
            }
        }
    }
}
