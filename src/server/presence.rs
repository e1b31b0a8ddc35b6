//! Tells those who follow the presence of channels what has changed, once a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Live, Server};
use crate::hub::{FlushList, PresenceLimits};

/// How often changes are told.
const PERIOD: Duration = Duration::from_secs(1);

/// Returns the limits in force.
pub(super) fn presence_limits(live: &Live) -> PresenceLimits {
    let settings = &live.settings.presence;
    PresenceLimits { grace: settings.grace, subjects: settings.subjects }
}

/// Tells changes until the runtime ends.
pub(super) async fn run(server: Arc<Server>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut flush_list = FlushList::new();
        let limits = presence_limits(&server.live());
        server.hub.tell_presence(Instant::now(), limits, &mut flush_list);
        if let Some(mut writing) = server.flusher.flush(&mut flush_list) {
            std::future::poll_fn(|context| writing.poll(context, &server.flusher)).await;
        }
    }
}
