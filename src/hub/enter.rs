//! Changes the channels that a connection reads: those that its token names, and those that it entered because its token
//! allows it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::memberships::{Membership, Memberships, find};
use super::resume::Resume;
use super::{Connection, Hub, Positions, sweep};
use crate::message::{ChannelName, Since};
use crate::sync::lock;
use crate::token::Claims;

/// Why a connection cannot enter channels. It entered none of them.
#[derive(Debug, PartialEq, Eq)]
pub enum EnterError<'a> {
    /// Its token does not allow this one.
    Forbidden(&'a ChannelName),
    /// With this one it would read more than it may.
    TooMany(&'a ChannelName),
}

impl Hub {
    /// Gives a connection other claims: it leaves and joins channels as they differ and stays in the others. Of the channels
    /// that it entered, it stays in those that the new claims allow, as long as it reads at most `max` channels. The history
    /// of a channel in which it stays is delivered again if `since` names the channel without an id.
    ///
    /// Calls `announce` with its new positions, and with the channels that it entered and has left, between leaving and
    /// joining. So a frame queued there separates the messages under the old claims from those under the new ones. A
    /// connection that was detached gets no announcement: it reads nothing, and is about to be closed.
    pub fn replace_claims(
        &self,
        connection: &Arc<Connection>,
        claims: Arc<Claims>,
        since: &[Since<'_>],
        max: usize,
        announce: impl FnOnce(&Positions, &[ChannelName]),
    ) {
        let before = connection.claims().clone();
        connection.set_claims(claims.clone());
        let mut room = max.saturating_sub(claims.read().len());
        let stays = |name: &ChannelName, entered: bool| {
            claims.may_read(name.as_str()) || {
                let stays = entered && room > 0 && claims.may_join(name.as_str());
                room -= usize::from(stays);
                stays
            }
        };
        self.resume(connection, stays, (claims.read().to_vec(), false), since, announce);
        self.claims_changed(connection, &before, &claims);
        self.subject_changed(connection, &before, &claims);
    }

    /// Makes a connection read these channels, too, all of them or none. No name may appear twice. `since` is as in
    /// [`Hub::replace_claims`]. It may read at most `max` channels.
    ///
    /// Calls `announce` with its positions before anything is queued, unless it was detached.
    ///
    /// # Errors
    /// The first channel that it may not enter.
    pub fn enter_channels<'a>(
        &self,
        connection: &Arc<Connection>,
        names: &'a [ChannelName],
        since: &[Since<'_>],
        max: usize,
        announce: impl FnOnce(&Positions),
    ) -> Result<(), EnterError<'a>> {
        let claims = connection.claims();
        if let Some(name) = names.iter().find(|name| !claims.may_join(name.as_str())) {
            return Err(EnterError::Forbidden(name));
        }
        {
            let memberships = lock(&connection.memberships);
            let room = max.saturating_sub(memberships.as_slice().len());
            let mut new = names.iter().filter(|name| memberships.get(name.as_str()).is_none());
            if let Some(name) = new.nth(room) {
                return Err(EnterError::TooMany(name));
            }
        }
        let wanted = names.iter().map(ChannelName::as_str).collect();
        self.resume(connection, |_, _| true, (wanted, true), since, |positions, _| announce(positions));
        Ok(())
    }

    /// Makes a connection leave channels, all of them or none. It need not read them.
    ///
    /// # Errors
    /// The first channel that its token names in `read`, so that it cannot be left.
    pub fn leave_channels<'a>(
        &self,
        connection: &Arc<Connection>,
        names: &'a [ChannelName],
    ) -> Result<(), &'a ChannelName> {
        let claims = connection.claims();
        if let Some(name) = names.iter().find(|name| claims.may_read(name.as_str())) {
            return Err(name);
        }
        let left: HashSet<&ChannelName> = names.iter().collect();
        self.change(connection, |name, _| !left.contains(name), (Vec::new(), true), &[], |_, _| None);
        Ok(())
    }

    /// Makes the connection read exactly `channels`, which are few: it leaves and joins as they differ and stays in the others.
    ///
    /// No name may appear twice.
    pub fn subscribe(&self, connection: &Arc<Connection>, channels: &[&str]) {
        let stays = |name: &ChannelName, _| channels.contains(&name.as_str());
        self.change(connection, stays, (channels.to_vec(), false), &[], |_, _| None);
    }

    /// Leaves and joins channels as [`Hub::change`] does. Delivers what `since` asks for, and calls `announce` before that.
    pub(super) fn resume(
        &self,
        connection: &Arc<Connection>,
        stays: impl FnMut(&ChannelName, bool) -> bool,
        wanted: (Vec<&str>, bool),
        since: &[Since<'_>],
        announce: impl FnOnce(&Positions, &[ChannelName]),
    ) {
        self.change(connection, stays, wanted, since, |looked_at, left| {
            let resume = Resume::look(self, connection, looked_at, since);
            announce(resume.positions(), left);
            Some(resume)
        });
    }

    /// Leaves the channels that do not stay, then joins `wanted`; the flag tells whether the client asked for them. Calls
    /// `look` between the two with the channels that are joined or delivered again, and with the entered ones that were
    /// left.
    pub(super) fn change<'a>(
        &'a self,
        connection: &Arc<Connection>,
        mut stays: impl FnMut(&ChannelName, bool) -> bool,
        (mut wanted, entered): (Vec<&str>, bool),
        since: &[Since<'_>],
        look: impl FnOnce(&[&str], &[ChannelName]) -> Option<Resume<'a>>,
    ) {
        let mut lock = lock(&connection.memberships);
        let detached = connection.detached.load(Relaxed);
        let (mut memberships, mut places) = std::mem::take(&mut *lock).into_parts();
        let mut left = Vec::new();
        memberships.retain(|membership| {
            let name = &membership.channel.name;
            let stays = !detached && stays(name, membership.entered);
            if !stays {
                self.part(connection, membership, &mut places);
                if membership.entered {
                    left.push(name.clone());
                }
            }
            stays
        });
        let all_kept: HashSet<&str> =
            since.iter().filter(|(_, id)| id.is_none()).map(|(name, _)| &**name).collect();
        wanted.retain(|name| match find(&memberships, name) {
            Ok(at) => {
                memberships[at].entered |= entered;
                all_kept.contains(name)
            }
            Err(_) => !detached,
        });
        let resume = if detached { None } else { look(&wanted, &left) };
        let kept = memberships.len();
        let joins = |memberships: &[Membership], name| find(&memberships[..kept], name).is_err();
        memberships.reserve_exact(wanted.iter().filter(|name| joins(&memberships, name)).count());
        for &name in &wanted {
            let after = resume.as_ref().and_then(|resume| resume.after(name));
            if joins(&memberships, name) {
                let (channel, joined) = self.join(connection, name, after);
                memberships.push(Membership { channel, joined, entered });
            } else if let Some(after) = after {
                let after = self.deliver_again(connection, name, after);
                if let (Some(after), Ok(at)) = (after, find(&memberships[..kept], name)) {
                    memberships[at].joined = memberships[at].joined.earlier(after);
                }
            }
        }
        memberships.sort_unstable_by(|a, b| a.channel.name.cmp(&b.channel.name));
        *lock = Memberships::of(memberships, places);
        drop((lock, resume));
        if self.keeping.is_on() {
            // Joining began histories of new channels. Each is indexed when it is joined, and again when it is left.
            self.relieve_history(Instant::now(), 2 * wanted.len() + sweep::CHANNELS_PER_PUBLISH);
        }
    }
}
