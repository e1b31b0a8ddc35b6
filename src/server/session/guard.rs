//! Ties one connection to the hub, from its admission to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use uuid::fmt::Hyphenated;

use super::cleanup::EndedConnection;
use super::state::Kept;
use crate::close::CloseReason;
use crate::deflate::Window;
use crate::frame::Frame;
use crate::hub::{Connection, Positions, Transport};
use crate::log::Opened;
use crate::message::{AccessReply, Since};
use crate::server::admission::{self, Admitted};
use crate::server::events::{Connected, Event};
use crate::server::limits::rates_of;
use crate::server::slot::Slot;
use crate::server::{Live, Server};

/// A connection in the hub. When it is dropped, for whatever reason, the connection leaves its channels and frees its
/// slot.
pub(crate) struct ConnectionGuard {
    pub(crate) connection: Arc<Connection>,
    /// The server, of which it has a slot.
    pub(super) server: Arc<Server>,
    pub(super) kept: Kept,
}

/// Returns the frame that tells a client what its token allows, and its positions in its channels.
pub(crate) fn access_frame(connection: &Connection, positions: &Positions, live: &Live) -> Frame {
    let claims = connection.claims();
    let mut id = [0; Hyphenated::LENGTH];
    AccessReply {
        connection: connection.id().hyphenated().encode_lower(&mut id),
        subject: claims.subject(),
        read: claims.read(),
        write: claims.write(),
        may: claims.may().map(|may| [may.read.as_ref(), may.write.as_ref()]),
        expires: claims.expires(),
        max_message_size: live.settings.websocket.max_message_size,
        rates: rates_of(&live.settings.limits),
        recovered: &positions.recovered,
        ids: &positions.ids,
    }
    .encode()
}

impl ConnectionGuard {
    /// Lets a connection join its channels. Its outbox holds messages back until its task polls it. On philote.v1 it
    /// is told first what its token allows; `window` is that of compressed messages, if they were negotiated, and `since` is
    /// what it wants to resume.
    pub(crate) fn enter(
        admitted: Admitted,
        address: SocketAddr,
        v1: bool,
        window: Option<Window>,
        since: &[Since<'_>],
    ) -> ConnectionGuard {
        ConnectionGuard::enter_over(Transport::WebSocket, admitted, address, v1, window, since)
    }

    /// Does the same for a connection that is served in this way.
    pub(crate) fn enter_over(
        transport: Transport,
        admitted: Admitted,
        address: SocketAddr,
        v1: bool,
        window: Option<Window>,
        since: &[Since<'_>],
    ) -> ConnectionGuard {
        let (slot, claims) = admitted.into_parts();
        let server = &slot.server;
        let expires = claims.expires();
        let budget = server.hub.budget().clone();
        let connection = Connection::new(address, Arc::new(claims), budget, server.now());
        let connection = Arc::new(connection.over(transport, v1).with_window(window));
        // Before it joins channels, so that this is the order of the events.
        server.hub.feed().opened(connection.id(), connection.claims().subject());
        if v1 {
            server.hub.enter_since(&connection, since, |positions| {
                // The outbox holds it back, so nobody has to write it yet.
                let _ = connection.outbox.push(&access_frame(&connection, positions, &server.live()));
            });
        } else {
            server.hub.enter(&connection);
        }
        // A reload, a ban or a drain that began meanwhile has made its list without this connection.
        let revoked = admission::revoked(server, &connection.claims());
        if let Some(reason) = revoked.or_else(|| server.drain.reason()) {
            connection.outbox.close(reason);
        }
        server.heartbeats.watch(&connection, expires, server);
        server.counters.accepted.fetch_add(1, Relaxed);
        let claims = connection.claims();
        let opened = Opened { connection: connection.id(), subject: claims.subject(), address };
        server.log.opened(&opened, Instant::now());
        server.events.tell(|| {
            Event::Connected(Arc::new(Connected {
                at: SystemTime::now(),
                connection: connection.id(),
                subject: claims.subject().map(Box::from),
                address,
            }))
        });
        drop(claims);
        let (server, seat) = slot.into_parts();
        ConnectionGuard { connection, server, kept: Kept::of(seat) }
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        // Nobody may queue messages for it any more, and the reason is settled.
        self.connection.outbox.close(CloseReason::ClientGone);
        let slot = Slot::of_parts(self.server.clone(), self.kept.take_seat());
        self.server.cleanup.add(EndedConnection::new(self.connection.clone(), slot));
    }
}
