//! The place of a node in the log: its last message, and how it is recognised after a fault.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::Message;

/// The last message of the log that was delivered on this node, and the epoch.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Its number.
    pub(super) number: u64,
    /// Tells it from another message of the same number, in a log that was written again.
    pub(super) print: u64,
    pub(super) epoch: u64,
    /// The epoch before.
    pub(super) replaces: Option<u64>,
    /// Whether everything before it was delivered here.
    pub(super) caught_up: bool,
    /// The number of the last record of the epoch, and when it was written.
    pub(super) record: u64,
    pub(super) recorded: Instant,
}

/// What JetStream says of a message of a consumer, in the subject of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Its number in the log.
    pub(super) number: u64,
    /// Its number in this consumer, counted from 1.
    pub(super) delivery: u64,
    /// When it was stored, in nanoseconds since 1970.
    pub(super) stored: u64,
}

impl Stamp {
    /// Parses `$JS.ACK.STREAM.CONSUMER.COUNT.NUMBER.DELIVERY.TIME.PENDING`; newer servers put a domain and an account before
    /// the stream, and a token at the end.
    pub(super) fn of(message: &Message) -> Option<Stamp> {
        let reply = message.reply.as_deref()?;
        let tokens: Vec<&str> = reply.split('.').collect();
        let fields = match (&*tokens, tokens.len()) {
            (["$JS", "ACK", ..], 9) => &tokens[5..8],
            (["$JS", "ACK", ..], 11..) => &tokens[7..10],
            _ => return None,
        };
        let number = |at: usize| fields[at].parse().ok();
        Some(Stamp { number: number(0)?, delivery: number(1)?, stored: number(2)? })
    }

    /// Returns when the message was stored by the clock of this process, which is now if the clocks disagree.
    pub(super) fn instant(&self, now: Instant) -> Instant {
        let stored = UNIX_EPOCH + Duration::from_nanos(self.stored);
        let age = SystemTime::now().duration_since(stored).unwrap_or_default();
        now.checked_sub(age).unwrap_or(now)
    }
}

/// Returns what tells a message from another one of the same number.
pub(super) fn print(message: &Message, stamp: Stamp) -> u64 {
    let mut hasher = DefaultHasher::new();
    (message.subject.as_str(), &message.payload, stamp.stored).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(reply: &str) -> Message {
        Message {
            subject: "s".into(),
            reply: Some(reply.into()),
            payload: bytes::Bytes::new(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn both_forms_of_a_reply_are_read() {
        let stamp = Some(Stamp { number: 41, delivery: 7, stored: 1_700_000_000_000_000_000 });
        let short = "$JS.ACK.philote.c1.1.41.7.1700000000000000000.3";
        let long = "$JS.ACK.hub.acc.philote.c1.1.41.7.1700000000000000000.3.r4nd";
        assert_eq!(Stamp::of(&message(short)), stamp);
        assert_eq!(Stamp::of(&message(long)), stamp);
        for reply in ["", "x", "$JS.ACK.philote", "$JS.ACK.a.b.1.x.7.1.3", "$JS.ACK.a.b.1.2.3.4.5.6"] {
            assert_eq!(Stamp::of(&message(reply)), None, "{reply}");
        }
    }

    #[test]
    fn messages_with_other_contents_or_another_time_are_told_apart() {
        let stamp = Stamp { number: 1, delivery: 1, stored: 5 };
        let one = message("");
        let other = Message { payload: "x".into(), ..message("") };
        assert_eq!(print(&one, stamp), print(&message(""), stamp));
        assert_ne!(print(&one, stamp), print(&other, stamp));
        assert_ne!(print(&one, stamp), print(&one, Stamp { stored: 6, ..stamp }));
    }
}
