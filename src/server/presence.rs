//! One connection's place in the server, from the token's acceptance to its end.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::time::{Instant, SystemTime};

use uuid::fmt::Hyphenated;

use super::limits::{Seat, rates_of};
use super::refusal::Refused;
use super::{Connected, Event, Live, Refusal, Server};
use crate::access_key::AccessKey;
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::hub::{Connection, Places};
use crate::log::Opened;
use crate::message::{AccessReply, Since};

/// A place among the `max_connections`, given back when dropped.
pub(super) struct Place {
    pub(super) server: Arc<Server>,
    /// It has not been moved elsewhere.
    held: bool,
    /// What limits for each client count it as.
    pub(super) seat: Seat,
}

impl Place {
    /// Whether there is a place to take.
    ///
    /// # Errors
    /// Those of [`Place::take`].
    pub(super) fn free(server: &Server, live: &Live) -> Result<(), Refusal> {
        match server.drain.reason() {
            // Its socket stays open for the next daemon, so that to refuse would be the only refusal.
            None | Some(CloseReason::Restarting) => {}
            Some(_) => return Err(Refusal::Draining),
        }
        let max = live.max_connections;
        server.departures.make_room(|| if server.connected() < max { Ok(()) } else { Err(live.full()) })
    }

    /// Takes a place.
    ///
    /// # Errors
    /// When its address has all its connections, while the daemon stops for good, and when every place is taken.
    pub(super) fn take(server: &Arc<Server>, live: &Live, address: IpAddr) -> Result<Place, Refusal> {
        let departures = &server.departures;
        let seat = departures.make_room(|| Seat::of_address(server, address, &live.settings.limits))?;
        let max = live.max_connections;
        Place::free(server, live)?;
        let take = |count| (count < max).then_some(count + 1);
        let taken = departures.make_room(|| server.connected.fetch_update(AcqRel, Relaxed, take));
        taken.map(|_| Place { server: server.clone(), held: true, seat }).map_err(|_| live.full())
    }

    /// Makes it a place of this subject's.
    ///
    /// # Errors
    /// The subject has all its connections.
    pub(super) fn set_subject(&mut self, access: &AccessKey, live: &Live) -> Result<(), Refused> {
        let subject = access.subject.as_deref();
        let limits = &live.settings.limits;
        let set = || self.seat.set_subject(&self.server, subject, limits);
        self.server.departures.make_room(set).map_err(|refusal| refusal.of(access.subject.clone()))
    }

    /// Moves it out of what is being dropped.
    fn move_out(&mut self) -> Place {
        let seat = std::mem::take(&mut self.seat);
        Place { server: self.server.clone(), held: std::mem::take(&mut self.held), seat }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        self.server.connected.fetch_sub(1, AcqRel);
        self.server.left.notify_one();
    }
}

/// A connection in the hub. Dropped, however that comes about, it departs: leaves its channels and frees its place.
pub(super) struct Presence {
    pub(super) connection: Arc<Connection>,
    /// It speaks philote.v1.
    pub(super) v1: bool,
    pub(super) place: Place,
}

/// What a connection's token lets it do, and where it stands in its channels, as a frame.
pub(super) fn access_frame(connection: &Connection, places: &Places, live: &Live) -> Frame {
    let access = connection.access();
    let mut id = [0; Hyphenated::LENGTH];
    AccessReply {
        connection: connection.id().hyphenated().encode_lower(&mut id),
        subject: access.subject.as_deref(),
        read: &access.read,
        write: access.write(),
        expires: access.expires,
        max_message_size: live.settings.websocket.max_message_size,
        rates: rates_of(&live.settings.limits),
        recovered: &places.recovered,
        ids: &places.ids,
    }
    .encode()
}

impl Presence {
    /// Lets a connection in: it joins its channels, its outbox held back until it has its socket.
    /// With philote.v1 it is told first what its token lets it do; `since` is what it wants to have of its channels.
    pub(super) fn enter(
        place: Place,
        address: std::net::SocketAddr,
        access: AccessKey,
        v1: bool,
        since: &[Since<'_>],
    ) -> Presence {
        let server = &place.server;
        let expires = access.expires;
        let budget = server.hub.budget().clone();
        let connection = Arc::new(Connection::new(address, Arc::new(access), budget, server.now()));
        if v1 {
            server.hub.enter_since(&connection, since, |places| {
                // Held back until it has its socket: nobody has to write it yet.
                let _ = connection.outbox.push(access_frame(&connection, places, &server.live()));
            });
        } else {
            server.hub.enter(&connection);
        }
        // A reload, a drain or a refusal that began while it was on its way in has made its list without it.
        let key = connection.access().key.clone();
        if key.is_some_and(|key| !server.live().keys.contains(&key)) {
            connection.outbox.close(CloseReason::KeyWithdrawn);
        } else if let Some(reason) = server.drain.reason() {
            connection.outbox.close(reason);
        } else if server.check_subject(&connection.access()).is_err() {
            connection.outbox.close(CloseReason::SubjectRefused);
        }
        server.timekeeper.watch(&connection, expires, server);
        server.counters.accepted.fetch_add(1, Relaxed);
        let access = connection.access();
        let opened = Opened {
            connection: &connection.id().to_string(),
            subject: access.subject.as_deref(),
            address: &address.to_string(),
        };
        server.log.opened(&opened, Instant::now());
        server.events.tell(|| {
            Event::Connected(Arc::new(Connected {
                at: SystemTime::now(),
                connection: connection.id(),
                subject: access.subject.clone(),
                address,
            }))
        });
        drop(access);
        Presence { connection, v1, place }
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.place.server
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // Nobody may queue to it any more, and the reason is settled.
        self.connection.outbox.close(CloseReason::ClientGone);
        let place = self.place.move_out();
        let server = place.server.clone();
        server.departures.add(&server, Departure { connection: self.connection.clone(), place });
    }
}

/// A connection that has ended and is still to be taken out of the hub.
pub(super) struct Departure {
    connection: Arc<Connection>,
    place: Place,
}

impl Departure {
    /// Takes it out, tells why it ended, and frees its place.
    pub(super) fn complete(self) {
        let server = &self.place.server;
        let leave = || {
            server.hub.leave(&self.connection);
            server.timekeeper.forget(&self.connection);
            let reason = self.connection.outbox.closing().unwrap_or(CloseReason::ClientGone);
            server.closed(&self.connection, reason);
        };
        if catch_unwind(AssertUnwindSafe(leave)).is_err() {
            server.counters.panics.fetch_add(1, Relaxed);
        }
    }
}
