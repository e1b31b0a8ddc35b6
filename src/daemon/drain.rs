//! Stops the daemon: closes every connection, spread over the drain time.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use super::listeners::Listeners;
use crate::admin::api::Timestamp;
use crate::close::CloseReason;
use crate::config::Drain;
use crate::server::{SHORTEST_DRAIN, Server};
use crate::systemd::Notifier;

/// The longest drain if systemd keeps the sockets, because the clients' next connections already wait in them.
const PASSED_SOCKETS_DRAIN: Duration = Duration::from_secs(5);

/// Closes every connection, and cuts those that have not answered by the end of the drain time. Sets `ends` to that end.
pub(super) async fn drain(
    server: &Arc<Server>,
    notifier: &Notifier,
    listeners: &Listeners,
    ends: &OnceLock<Timestamp>,
) {
    let (reason, within) = match (listeners.from_systemd, drain_time(server)) {
        (true, within) => (CloseReason::Restarting, within.min(PASSED_SOCKETS_DRAIN)),
        (false, within) => (CloseReason::Stopping, within),
    };
    let within = within.max(SHORTEST_DRAIN);
    let _ = ends.set(Timestamp(SystemTime::now() + within));
    notifier.stopping();
    notifier.extend_timeout(within + Duration::from_secs(15));
    notifier.status(&format!("stopping: closing {} connections", server.connected()));
    if listeners.from_systemd {
        // New connections wait in the socket, which stays open in systemd, for the next daemon.
        listeners.stop_accepting();
    }
    server.drain(reason, within).await;
    server.log.finish(Instant::now());
}

/// Returns the longest time from the first close to the last answer: `shutdown.drain`, or one second per 1,000
/// connections, at least 10 s and at most 2 min.
pub(super) fn drain_time(server: &Server) -> Duration {
    match server.live().settings.shutdown.drain {
        Drain::Fixed(time) => time,
        Drain::Auto if server.connected() == 0 => Duration::ZERO,
        Drain::Auto => Duration::from_secs((server.connected() as u64 / 1000).clamp(10, 120)),
    }
}
