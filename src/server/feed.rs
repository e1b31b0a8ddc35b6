//! Keeps the events for backends up to date by the clock: who has left channels, and what ended streams have selected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Server;

/// How often it is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// Looks until the runtime ends.
pub(super) async fn run(server: Arc<Server>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let feed = server.hub.feed();
        while feed.settle(now, server.live().settings.presence.grace) {
            tokio::task::yield_now().await;
        }
        if feed.expires(now) {
            let server = server.clone();
            let _ = tokio::task::spawn_blocking(move || server.hub.expire_events(now)).await;
        }
    }
}
