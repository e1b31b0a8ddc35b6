//! Publishes to the readers on this node, and to those on the other nodes of a cluster.

use std::sync::Arc;

use uuid::Uuid;

use super::Server;
use crate::cluster::Waiter;
use crate::hub::{Connection, FlushList, Queued};
use crate::message::{BadMessage, Batch, Delivery, ReaderCount};

/// Returns what publishers are told of this number of readers on this node.
pub(super) fn count(server: &Server, readers: usize) -> ReaderCount {
    if server.cluster.is_some() { ReaderCount::Here(readers) } else { ReaderCount::All(readers) }
}

/// Publishes the messages of a connection's batch to all readers except the connection, and empties the batch. Returns the
/// number of readers on this node.
pub(super) fn publish_batch(
    server: &Server,
    publisher: &Arc<Connection>,
    batch: &mut Batch,
    flush_list: &mut FlushList,
) -> usize {
    let Some(cluster) = &server.cluster else {
        return server.hub.publish_batch(batch, Some(publisher), flush_list);
    };
    if batch.is_empty() {
        return 0;
    }
    let frame = batch.encode();
    let publisher = std::slice::from_ref(publisher);
    let readers = server.hub.publish_frame(batch.channel(), &frame, publisher, flush_list);
    cluster.relay(batch.channel(), &frame, &[]);
    batch.clear(None);
    readers
}

/// Publishes a message to all readers except these connections. Returns the number of readers on this node, and the id.
pub(super) fn publish(
    server: &Server,
    delivery: &Delivery<'_>,
    excluded: &[Uuid],
    flush_list: &mut FlushList,
) -> Queued {
    let connections: Vec<_> = excluded.iter().filter_map(|id| server.hub.connection(id)).collect();
    let Some(cluster) = &server.cluster else {
        return server.hub.publish_except(delivery, &connections, flush_list);
    };
    let frame = delivery.encode();
    let readers = server.hub.publish_frame(delivery.channel, &frame, &connections, flush_list);
    cluster.relay(delivery.channel, &frame, excluded);
    Queued { readers, ..Queued::default() }
}

/// Returns whether messages are published by the log of a cluster, which delivers them on this node, too.
pub(super) fn has_log(server: &Server) -> bool {
    server.cluster.as_ref().is_some_and(|cluster| cluster.has_log())
}

/// Publishes a message by the log of the cluster, to all readers except these connections, and has `waiter` told what became
/// of it.
pub(super) fn append(
    server: &Server,
    delivery: &Delivery<'_>,
    excluded: &[Uuid],
    key: Option<&str>,
    waiter: Waiter,
) {
    if let Some(cluster) = &server.cluster {
        server.events.tell_message(delivery, server.hub.readers_of(delivery.channel));
        cluster.append(delivery.channel, &delivery.encode(), excluded, key, waiter);
    }
}

/// Checks that a message can pass between the nodes of a cluster.
pub(super) fn check_length(
    server: &Server,
    delivery: &Delivery<'_>,
    excluded: usize,
    key: Option<&str>,
) -> Result<(), BadMessage> {
    let Some(cluster) = &server.cluster else { return Ok(()) };
    cluster.too_long(delivery, excluded, key).map_or(Ok(()), |max| Err(BadMessage::TooLongForCluster(max)))
}
