//! One connection's slot in the server, from the token's acceptance to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use uuid::fmt::Hyphenated;

use super::cleanup::EndedConnection;
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::hub::{Connection, Positions};
use crate::log::Opened;
use crate::message::{AccessReply, Since};
use crate::server::admission::{self, Admitted};
use crate::server::events::{Connected, Event};
use crate::server::limits::rates_of;
use crate::server::slot::Slot;
use crate::server::{Live, Server};

/// A connection in the hub. Dropped, however that comes about, it departs: leaves its channels and frees its slot.
pub(crate) struct ConnectionGuard {
    pub(crate) connection: Arc<Connection>,
    /// It speaks philote.v1.
    pub(crate) v1: bool,
    pub(crate) slot: Slot,
}

/// What a connection's token lets it do, and where it stands in its channels, as a frame.
pub(crate) fn access_frame(connection: &Connection, positions: &Positions, live: &Live) -> Frame {
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
        recovered: &positions.recovered,
        ids: &positions.ids,
    }
    .encode()
}

impl ConnectionGuard {
    /// Lets a connection in: it joins its channels, its outbox held back until it has its socket.
    /// With philote.v1 it is told first what its token lets it do; `since` is what it wants to have of its channels.
    pub(crate) fn enter(
        admitted: Admitted,
        address: SocketAddr,
        v1: bool,
        since: &[Since<'_>],
    ) -> ConnectionGuard {
        let (slot, access) = admitted.into_parts();
        let server = &slot.server;
        let expires = access.expires;
        let budget = server.hub.budget().clone();
        let connection = Arc::new(Connection::new(address, Arc::new(access), budget, server.now()));
        if v1 {
            server.hub.enter_since(&connection, since, |positions| {
                // Held back until it has its socket: nobody has to write it yet.
                let _ = connection.outbox.push(&access_frame(&connection, positions, &server.live()));
            });
        } else {
            server.hub.enter(&connection);
        }
        // A reload, a ban or a drain that began meanwhile has made its list without this connection.
        let revoked = admission::revoked(server, &connection.access());
        if let Some(reason) = revoked.or_else(|| server.drain.reason()) {
            connection.outbox.close(reason);
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
        server.cleanup.add(EndedConnection::new(self.connection.clone(), slot));
    }
}
