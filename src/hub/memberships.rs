//! The channels that a connection reads now, and its places in those that it has left.

use std::sync::Arc;

use super::Channel;
use super::places::{Joined, LeftPlace};

/// A channel that a connection reads now.
pub(super) struct Membership {
    pub(super) channel: Arc<Channel>,
    /// After which message it was queued all.
    pub(super) joined: Joined,
    /// The client asked for it, so it stays when a token no longer names it and still allows it.
    pub(super) entered: bool,
}

/// The channels that a connection reads now, sorted by name. They alone decide what it reads; its claims only say what it
/// may.
pub(super) enum Memberships {
    /// One channel, as most connections read. It spares them an allocation.
    One(Membership),
    /// Any number of channels.
    Many(Box<[Membership]>),
    /// Any number of channels, of a connection that has left some with a history.
    Left(Box<Left>),
}

/// The channels of a connection that has left some.
pub(super) struct Left {
    now: Box<[Membership]>,
    places: Vec<LeftPlace>,
}

impl Default for Memberships {
    fn default() -> Memberships {
        Memberships::Many(Box::default())
    }
}

impl Memberships {
    /// Takes a list that is sorted by name, and the places in channels that were left.
    pub(super) fn of(mut sorted: Vec<Membership>, places: Vec<LeftPlace>) -> Memberships {
        if !places.is_empty() {
            return Memberships::Left(Box::new(Left { now: sorted.into_boxed_slice(), places }));
        }
        match sorted.pop() {
            Some(only) if sorted.is_empty() => Memberships::One(only),
            last => {
                sorted.extend(last);
                Memberships::Many(sorted.into_boxed_slice())
            }
        }
    }

    /// Returns the list, and the places in channels that were left.
    pub(super) fn into_parts(self) -> (Vec<Membership>, Vec<LeftPlace>) {
        match self {
            Memberships::One(only) => (vec![only], Vec::new()),
            Memberships::Many(all) => (all.into_vec(), Vec::new()),
            Memberships::Left(left) => (left.now.into_vec(), left.places),
        }
    }

    /// Returns the places in channels that were left.
    pub(super) fn left(&self) -> &[LeftPlace] {
        if let Memberships::Left(left) = self { &left.places } else { &[] }
    }

    pub(super) fn as_slice(&self) -> &[Membership] {
        match self {
            Memberships::One(only) => std::slice::from_ref(only),
            Memberships::Many(all) => all,
            Memberships::Left(left) => &left.now,
        }
    }

    pub(super) fn channels(&self) -> impl Iterator<Item = &Arc<Channel>> {
        self.as_slice().iter().map(|membership| &membership.channel)
    }

    /// Returns the membership of a channel.
    pub(super) fn get(&self, channel: &str) -> Option<&Membership> {
        let all = self.as_slice();
        find(all, channel).ok().map(|at| &all[at])
    }
}

/// Returns the position of a channel, or where it would be.
pub(super) fn find(memberships: &[Membership], channel: &str) -> Result<usize, usize> {
    memberships.binary_search_by(|membership| membership.channel.name.as_str().cmp(channel))
}
