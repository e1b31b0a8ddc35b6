//! Carries out what other nodes of the cluster ask: the admin socket's lists here, all else in the server.

use std::pin::Pin;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;

use super::{explain, lists};
use crate::admin::api::{ChannelQuery, ClosedQuery, ConnectionQuery, ExplainQuery};
use crate::cluster::steering::{Orders, reply};
use crate::server::ops::everywhere::exchange_bans_on_link;
use crate::server::{Server, steering};

/// The kinds of requests to other nodes.
pub(super) const CONNECTIONS: &str = "connections";
pub(super) const CLOSED: &str = "closed";
pub(super) const CHANNELS: &str = "channels";
pub(super) const EXPLAIN: &str = "explain";

struct Remote {
    /// The server holds the cluster, which holds this.
    server: Weak<Server>,
    runtime: Handle,
}

/// Has the server's cluster, if it is in one, carry out what other nodes ask.
pub(super) fn listen(server: &Arc<Server>, runtime: &Handle) {
    if let Some(steering) = server.cluster.as_ref().and_then(|cluster| cluster.steering()) {
        steering.give_to(Arc::new(Remote { server: Arc::downgrade(server), runtime: runtime.clone() }));
    }
}

impl Orders for Remote {
    fn carry_out(&self, from: &str, kind: &str, body: &[u8], room: usize) -> Option<Vec<u8>> {
        let server = self.server.upgrade()?;
        let _entered = self.runtime.enter();
        Some(match kind {
            CONNECTIONS => {
                reply(body, room, |query: ConnectionQuery| Ok(lists::connections(&server, &query)))
            }
            CLOSED => reply(body, room, |query: ClosedQuery| Ok(lists::closed(&server, &query))),
            EXPLAIN => reply(body, room, |query: ExplainQuery| Ok(explain::explain(&server, &query))),
            CHANNELS => reply(body, room, |query: ChannelQuery| Ok(lists::channels(&server, &query))),
            _ => return steering::carry_out(&server, from, kind, body, room),
        })
    }

    fn linked(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let server = self.server.upgrade();
        Box::pin(async move {
            if let Some(server) = server {
                exchange_bans_on_link(server).await;
            }
        })
    }
}
