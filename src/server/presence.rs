//! Tells those who follow the presence of channels what has changed, once a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Live, Server};
use crate::hub::{FlushList, Peer, PresenceLimits};

/// How often changes are told.
const PERIOD: Duration = Duration::from_secs(1);

/// Returns the limits in force.
pub(super) fn presence_limits(live: &Live) -> PresenceLimits {
    let settings = &live.settings.presence;
    PresenceLimits { grace: settings.grace, subjects: settings.subjects }
}

/// Returns the other nodes of the cluster, which also have readers.
pub(super) fn peers(server: &Server) -> Vec<Peer> {
    server.cluster.as_ref().map(|cluster| cluster.peers()).unwrap_or_default()
}

/// Tells changes until the runtime ends.
pub(super) async fn run(server: Arc<Server>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut flush_list = FlushList::new();
        let limits = presence_limits(&server.live());
        let peers = peers(&server);
        if let Some(cluster) = &server.cluster {
            cluster.tick_presence(&peers);
        }
        server.hub.tell_presence(Instant::now(), limits, &peers, &mut flush_list);
        if let Some(mut writing) = server.flusher.flush(&mut flush_list) {
            std::future::poll_fn(|context| writing.poll(context, &server.flusher)).await;
        }
    }
}
