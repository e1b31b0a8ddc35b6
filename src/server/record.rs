//! Counts, logs and remembers each rejected request and each connection that has ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use super::events::Event;
use super::rejection::{Rejected, Rejection};
use super::{Server, closed};
use crate::close::CloseReason;
use crate::hub::{Connection, Place};
use crate::log::{ClosedPlace, ClosedRecord};

/// Counts, logs and remembers a rejected request.
pub(super) fn rejected(server: &Server, address: SocketAddr, rejected: Rejected) {
    server.counters.refused.fetch_add(1, Relaxed);
    let code = rejected.code();
    let Rejected { rejection, subject, .. } = rejected;
    let verified = !matches!(rejection, Rejection::Token(_));
    remember(
        server,
        ClosedRecord {
            at: SystemTime::now(),
            connection: None,
            address,
            subject,
            verified,
            reason: rejection.name(),
            code,
            sentence: rejection.to_string().into(),
            duration: Duration::ZERO,
            messages_in: 0,
            messages_out: 0,
            bytes_in: 0,
            bytes_out: 0,
            greatest_queue: 0,
            places: Box::default(),
        },
    );
}

/// Counts, logs and remembers a connection that has ended for this reason.
pub(super) fn ended(server: &Server, connection: &Connection, reason: CloseReason) {
    server.counters.closed.fetch_add(1, Relaxed);
    let (claims, stats) = (connection.claims(), connection.stats());
    server.counters.received.fetch_add(stats.bytes_in, Relaxed);
    server.counters.sent.fetch_add(stats.out.bytes, Relaxed);
    let duration = connection.age();
    let feed = server.hub.feed();
    feed.closed(connection.id(), claims.subject(), reason.name(), reason.code());
    remember(
        server,
        ClosedRecord {
            at: SystemTime::now(),
            connection: Some(connection.id()),
            address: connection.address(),
            subject: claims.subject().map(Box::from),
            verified: true,
            reason: reason.name(),
            code: reason.code(),
            sentence: reason.sentence().into(),
            duration,
            messages_in: stats.messages_in,
            messages_out: stats.out.messages,
            bytes_in: stats.bytes_in,
            bytes_out: stats.out.bytes,
            greatest_queue: stats.out.greatest_queue as u64,
            places: connection.left_places().iter().map(place).collect(),
        },
    );
}

/// Returns a place as it is remembered.
fn place(place: &Place) -> ClosedPlace {
    let Place { channel, epoch, after, up_to, last } = place;
    ClosedPlace { channel: channel.as_str().into(), epoch: *epoch, after: *after, up_to: *up_to, last: *last }
}

/// Logs a record, remembers it, and passes it to those who follow events.
fn remember(server: &Server, mut record: ClosedRecord) {
    server.log.closed(&record, Instant::now());
    record.sentence = closed::sentence(record.sentence);
    let record = Arc::new(record);
    server.events.tell(|| Event::Closed(record.clone()));
    server.closed.add(record, server.live().settings.admin.closed_ring);
}
