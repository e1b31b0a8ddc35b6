//! How many messages a channel keeps, and for how long, by the beginning of its name.

use std::time::Duration;

use crate::message::ChannelName;

/// How many messages a channel keeps, and for how long. Small, because each channel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// 0 is no history.
    messages: u32,
    /// In milliseconds.
    ttl: u32,
}

impl Retention {
    /// No history.
    const NONE: Retention = Retention { messages: 0, ttl: 0 };

    /// Keeps this number of messages, none of them longer than `ttl`.
    pub fn new(messages: usize, ttl: Duration) -> Retention {
        Retention {
            messages: messages.try_into().unwrap_or(u32::MAX),
            ttl: ttl.as_millis().try_into().unwrap_or(u32::MAX),
        }
    }

    /// Returns whether there is a history.
    pub fn is_on(self) -> bool {
        self.messages > 0
    }

    pub(super) fn messages(self) -> usize {
        self.messages as usize
    }

    pub(super) fn ttl(self) -> Duration {
        Duration::from_millis(self.ttl.into())
    }
}

/// The retention of every channel.
#[derive(Debug, PartialEq, Eq)]
pub struct Retentions {
    /// Of channels whose name has none of the beginnings.
    default: Retention,
    /// Of channels whose names begin so; the longest beginnings come first.
    by_prefix: Vec<(Box<str>, Retention)>,
}

impl Retentions {
    /// Makes the retention of all channels from a default and the exceptions, which are beginnings of names.
    pub fn new<'a>(
        default: Retention,
        by_prefix: impl IntoIterator<Item = (&'a str, Retention)>,
    ) -> Retentions {
        let mut by_prefix: Vec<_> =
            by_prefix.into_iter().map(|(prefix, retention)| (prefix.into(), retention)).collect();
        by_prefix.sort_by_key(|(prefix, _): &(Box<str>, _)| std::cmp::Reverse(prefix.len()));
        Retentions { default, by_prefix }
    }

    /// Returns the retention of a channel: that of the longest beginning of its name.
    pub(super) fn of(&self, name: &str) -> Retention {
        if ChannelName::is_internal_text(name) {
            return Retention::NONE;
        }
        let longest = self.by_prefix.iter().find(|(prefix, _)| name.starts_with(&**prefix));
        longest.map_or(self.default, |(_, retention)| *retention)
    }

    /// Returns whether any channel has a history.
    pub(super) fn is_on(&self) -> bool {
        self.default.is_on() || self.by_prefix.iter().any(|(_, retention)| retention.is_on())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_decides() {
        let keeps = |messages| Retention::new(messages, Duration::from_secs(messages as u64));
        let prefixes = [("ai:", 500), ("ai:draft:", 0), ("a", 3), ("ai:draft:kept", 7)];
        let all = Retentions::new(keeps(10), prefixes.map(|(prefix, messages)| (prefix, keeps(messages))));
        for (name, messages) in [
            ("chat", 10),
            ("a", 3),
            ("ai", 3),
            ("ai:", 500),
            ("ai:17", 500),
            ("ai:draft:1", 0),
            ("ai:draft:kept", 7),
            ("Ai:17", 10),
            ("an ai:17", 3),
        ] {
            assert_eq!(all.of(name), keeps(messages), "{name}");
        }
        assert!(all.is_on() && !Retentions::new(keeps(0), [("ai:", keeps(0))]).is_on());
        assert!(Retentions::new(keeps(0), [("ai:", keeps(1))]).is_on());
        assert_eq!(
            Retention::new(usize::MAX, Duration::MAX),
            Retention { messages: u32::MAX, ttl: u32::MAX }
        );
    }
}
