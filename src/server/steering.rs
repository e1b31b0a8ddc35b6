//! What other nodes of the cluster may ask of this server.

use std::sync::Arc;

use super::Server;
use super::http::api;
use super::ops::remote;

/// Carries out a request of node `from`, and returns the body of the answer, at most `room` bytes; `None` for an unknown
/// kind. May block. The caller must be in the context of the runtime that runs the connections.
pub fn carry_out(server: &Arc<Server>, from: &str, kind: &str, body: &[u8], room: usize) -> Option<Vec<u8>> {
    remote::carry_out(server, from, kind, body, room).or_else(|| api::carry_out(server, kind, body, room))
}
