//! One connection's slot in the server, from the token's acceptance to its end.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::time::{Instant, SystemTime};

use uuid::fmt::Hyphenated;

use crate::close::CloseReason;
use crate::frame::Frame;
use crate::hub::{Connection, Places};
use crate::log::Opened;
use crate::message::{AccessReply, Since};
use crate::server::events::{Connected, Event};
use crate::server::limits::{Seat, rates_of};
use crate::server::rejection::{Rejected, Rejection};
use crate::server::{Live, Server};
use crate::token::Claims;

/// A slot among the `max_connections`, given back when dropped.
pub(crate) struct Slot {
    pub(crate) server: Arc<Server>,
    /// It has not been moved elsewhere.
    held: bool,
    /// What limits for each client count it as.
    pub(crate) seat: Seat,
}

impl Slot {
    /// Whether there is a slot to take.
    ///
    /// # Errors
    /// Those of [`Slot::take`].
    pub(crate) fn free(server: &Server, live: &Live) -> Result<(), Rejection> {
        match server.drain.reason() {
            // Its socket stays open for the next daemon, so that to refuse would be the only rejection.
            None | Some(CloseReason::Restarting) => {}
            Some(_) => return Err(Rejection::Draining),
        }
        let max = live.max_connections;
        server.cleanup.make_room(|| if server.connected() < max { Ok(()) } else { Err(live.full()) })
    }

    /// Takes a slot.
    ///
    /// # Errors
    /// When its address has all its connections, while the daemon stops for good, and when every slot is taken.
    pub(crate) fn take(server: &Arc<Server>, live: &Live, address: IpAddr) -> Result<Slot, Rejection> {
        let departures = &server.cleanup;
        let seat = departures.make_room(|| Seat::of_address(server, address, &live.settings.limits))?;
        let max = live.max_connections;
        Slot::free(server, live)?;
        let take = |count| (count < max).then_some(count + 1);
        let taken = departures.make_room(|| server.connected.fetch_update(AcqRel, Relaxed, take));
        taken.map(|_| Slot { server: server.clone(), held: true, seat }).map_err(|_| live.full())
    }

    /// Makes it a slot of this subject's.
    ///
    /// # Errors
    /// The subject has all its connections.
    pub(crate) fn set_subject(&mut self, access: &Claims, live: &Live) -> Result<(), Rejected> {
        let subject = access.subject.as_deref();
        let limits = &live.settings.limits;
        let set = || self.seat.set_subject(&self.server, subject, limits);
        self.server.cleanup.make_room(set).map_err(|rejection| rejection.of(access.subject.clone()))
    }

    /// Moves it out of what is being dropped.
    fn move_out(&mut self) -> Slot {
        let seat = std::mem::take(&mut self.seat);
        Slot { server: self.server.clone(), held: std::mem::take(&mut self.held), seat }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        self.server.connected.fetch_sub(1, AcqRel);
        self.server.left.notify_one();
    }
}

/// A connection in the hub. Dropped, however that comes about, it departs: leaves its channels and frees its slot.
pub(crate) struct ConnectionGuard {
    pub(crate) connection: Arc<Connection>,
    /// It speaks philote.v1.
    pub(crate) v1: bool,
    pub(crate) slot: Slot,
}

/// What a connection's token lets it do, and where it stands in its channels, as a frame.
pub(crate) fn access_frame(connection: &Connection, places: &Places, live: &Live) -> Frame {
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

impl ConnectionGuard {
    /// Lets a connection in: it joins its channels, its outbox held back until it has its socket.
    /// With philote.v1 it is told first what its token lets it do; `since` is what it wants to have of its channels.
    pub(crate) fn enter(
        slot: Slot,
        address: std::net::SocketAddr,
        access: Claims,
        v1: bool,
        since: &[Since<'_>],
    ) -> ConnectionGuard {
        let server = &slot.server;
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
        // A reload, a drain or a rejection that began while it was on its way in has made its list without it.
        let key = connection.access().key.clone();
        if key.is_some_and(|key| !server.live().keys.contains(&key)) {
            connection.outbox.close(CloseReason::KeyWithdrawn);
        } else if let Some(reason) = server.drain.reason() {
            connection.outbox.close(reason);
        } else if server.check_subject(&connection.access()).is_err() {
            connection.outbox.close(CloseReason::SubjectRefused);
        }
        server.heartbeats.watch(&connection, expires, server);
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
        ConnectionGuard { connection, v1, slot }
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.slot.server
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        // Nobody may queue to it any more, and the reason is settled.
        self.connection.outbox.close(CloseReason::ClientGone);
        let slot = self.slot.move_out();
        let server = slot.server.clone();
        server.cleanup.add(&server, EndedConnection { connection: self.connection.clone(), slot });
    }
}

/// A connection that has ended and is still to be taken out of the hub.
pub(crate) struct EndedConnection {
    connection: Arc<Connection>,
    slot: Slot,
}

impl EndedConnection {
    /// Takes it out, tells why it ended, and frees its slot.
    pub(crate) fn complete(self) {
        let server = &self.slot.server;
        let leave = || {
            server.hub.leave(&self.connection);
            server.heartbeats.forget(&self.connection);
            let reason = self.connection.outbox.closing().unwrap_or(CloseReason::ClientGone);
            server.closed(&self.connection, reason);
        };
        if catch_unwind(AssertUnwindSafe(leave)).is_err() {
            server.counters.panics.fetch_add(1, Relaxed);
        }
    }
}
