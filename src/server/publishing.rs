//! Publishes to the readers on this node, and passes the messages on to the other nodes of a cluster.

use std::sync::Arc;

use uuid::Uuid;

use super::Server;
use crate::hub::{Connection, FlushList};
use crate::message::{Batch, Delivery};

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

/// Publishes a message to all readers except these connections. Returns the number of readers on this node.
pub(super) fn publish(
    server: &Server,
    delivery: &Delivery<'_>,
    excluded: &[Uuid],
    flush_list: &mut FlushList,
) -> usize {
    let connections: Vec<_> = excluded.iter().filter_map(|id| server.hub.connection(id)).collect();
    let Some(cluster) = &server.cluster else {
        return server.hub.publish_except(delivery, &connections, flush_list);
    };
    let frame = delivery.encode();
    let readers = server.hub.publish_frame(delivery.channel, &frame, &connections, flush_list);
    cluster.relay(delivery.channel, &frame, excluded);
    readers
}
