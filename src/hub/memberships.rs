//! The channels that a connection reads now.

use std::sync::Arc;

use super::Channel;

/// A channel that a connection reads now.
pub(super) struct Membership {
    pub(super) channel: Arc<Channel>,
    /// The client asked for it, so it stays when a token no longer names it and still allows it.
    pub(super) entered: bool,
}

/// The channels that a connection reads now, sorted by name. They alone decide what it reads; its claims only say what it
/// may.
#[derive(Default)]
pub(super) struct Memberships(pub(super) Box<[Membership]>);

impl Memberships {
    pub(super) fn channels(&self) -> impl Iterator<Item = &Arc<Channel>> {
        self.0.iter().map(|membership| &membership.channel)
    }
}

/// Returns the position of a channel, or where it would be.
pub(super) fn find(memberships: &[Membership], channel: &str) -> Result<usize, usize> {
    memberships.binary_search_by(|membership| membership.channel.name.as_str().cmp(channel))
}
