//! Up to which message of a channel a connection has got all, for administrators who ask afterwards.
//!
//! While messages are delivered, nothing is noted. When a connection joins a channel, the number after which it is queued all
//! messages is kept in its membership; when it leaves, or when somebody asks, the channel knows the last one. What of that was not
//! written to its socket, the outbox knows.

use super::Channel;
use crate::message::{ChannelName, MessageId};
use crate::outbox::{First, Unwritten};

/// After which message of a channel a connection has been queued all. Small, because each membership has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Joined {
    /// The end of the number, which the number of the last message completes.
    number: u32,
    /// The end of the epoch. In a history that began later, all messages were queued.
    epoch: u16,
}

impl Joined {
    /// Joined after this message.
    pub(super) fn after(id: MessageId) -> Joined {
        Joined { number: id.number as u32, epoch: id.epoch as u16 }
    }

    /// Returns the number after which all messages were queued, up to `last`.
    pub(super) fn number(self, last: MessageId) -> u64 {
        if self.epoch != last.epoch as u16 {
            return 0;
        }
        last.number.saturating_sub(u64::from((last.number as u32).wrapping_sub(self.number)))
    }

    /// Returns the earlier of both, of which `other` is in the current history.
    pub(super) fn earlier(self, other: MessageId) -> Joined {
        let since = (other.number as u32).wrapping_sub(self.number);
        if self.epoch == other.epoch as u16 && since.cast_signed() > 0 { self } else { Joined::after(other) }
    }
}

/// Up to which message of a channel a connection has got all, from the one on after which it joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The channel.
    pub channel: ChannelName,
    /// The history of the channel.
    pub epoch: u64,
    /// The number after which it has got all messages.
    pub after: u64,
    /// The number up to which all were written to its socket; `None` if that is not known.
    pub up_to: Option<u64>,
    /// The number of the last message in the channel while the connection read it.
    pub last: u64,
}

/// What a channel keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its history.
    pub epoch: u64,
    /// The number after which all messages are kept.
    pub after: u64,
    /// The number of the last message.
    pub last: u64,
    /// The number up to which messages may have been published before this process, or in a cluster before one of its nodes left
    /// or started again.
    pub inherited: u64,
}

/// A place in a channel that was left, before it is known what of it was written.
#[derive(Clone, Debug)]
pub(super) struct LeftPlace {
    channel: ChannelName,
    epoch: u64,
    after: u64,
    last: u64,
}

impl LeftPlace {
    /// Returns the place in a channel whose last message is this one; `None` in one of the daemon's own.
    pub(super) fn of(channel: &Channel, last: MessageId, joined: Joined) -> Option<LeftPlace> {
        let after = joined.number(last);
        let place = LeftPlace { channel: channel.name.clone(), epoch: last.epoch, after, last: last.number };
        (!channel.name.is_internal()).then_some(place)
    }

    /// Returns the place, of which this was not written.
    pub(super) fn of_written(&self, unwritten: Option<&Unwritten>) -> Place {
        let first = unwritten.map_or(First::Unknown, |unwritten| unwritten.first_of(self.channel.as_str()));
        let up_to = match first {
            First::AllWritten => Some(self.last),
            First::At(id) if id.epoch == self.epoch => Some((id.number - 1).clamp(self.after, self.last)),
            // One of an earlier history waits, and all later ones behind it.
            First::At(_) => Some(self.after),
            First::Unknown => None,
        };
        let LeftPlace { channel, epoch, after, last } = self.clone();
        Place { channel, epoch, after, up_to, last }
    }
}
