//! Connections whose token was signed with a key that is no longer in force.

use uuid::Uuid;

use crate::hub::{Connection, Hub};
use crate::token::Keys;

/// The connections whose key is none of these.
pub(crate) fn withdrawn(hub: &Hub, keys: &Keys) -> Vec<Uuid> {
    let mut withdrawn = Vec::new();
    hub.each_connection(|connection| {
        if is_withdrawn(connection, keys) {
            withdrawn.push(connection.id());
        }
    });
    withdrawn
}

/// Whether the key of a connection's token is none of these.
pub(super) fn is_withdrawn(connection: &Connection, keys: &Keys) -> bool {
    connection.access().key.as_ref().is_some_and(|key| !keys.contains(key))
}
