//! Connections whose token was signed with a key that is no longer in force.

use uuid::Uuid;

use crate::hub::{Connection, Hub};
use crate::token::Keys;

/// Returns the connections whose key is not among `keys`.
pub(crate) fn withdrawn(hub: &Hub, keys: &Keys) -> Vec<Uuid> {
    let mut withdrawn = Vec::new();
    hub.each_connection(|connection| {
        if is_withdrawn(connection, keys) {
            withdrawn.push(connection.id());
        }
    });
    withdrawn
}

/// Returns whether the key of a connection's token is not among `keys`.
pub(super) fn is_withdrawn(connection: &Connection, keys: &Keys) -> bool {
    connection.claims().key.as_ref().is_some_and(|key| !keys.contains(key))
}
