//! Ends all connections gracefully when the daemon stops, within a limited time.

use std::fmt;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use tokio::time::{Instant, interval, timeout, timeout_at};
use uuid::Uuid;

use super::withdrawn::is_withdrawn;
use crate::close::CloseReason;
use crate::server::Server;
use crate::server::session::task::CLOSE_TIMEOUT;
use crate::sync::lock;

/// The shortest drain. With less, a Close would not be written before its connection is cut.
pub const SHORTEST_DRAIN: Duration = Duration::from_secs(1);

/// How long before the end of the drain connections are cut, so that they have ended and are logged by then.
const CUT_AHEAD: Duration = Duration::from_millis(250);

/// How long clients that were accepted before a restart have to show a token. The next daemon waits for this one's
/// end.
const LAST_HANDSHAKES: Duration = Duration::from_secs(1);

/// How long streams of events have to take what they were not told, after the last connection has ended.
const LAST_EVENTS: Duration = Duration::from_millis(250);

/// The most ids of cut connections that the log names.
const NAMED: usize = 10;

/// A drain in progress, and the connections that did not end after their Close.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    begun: OnceLock<Begun>,
    cut: Mutex<Cut>,
}

#[derive(Debug)]
struct Begun {
    reason: CloseReason,
    cut_at: Instant,
}

/// Connections that were cut: their number, and the first ids.
#[derive(Debug, Default)]
struct Cut {
    count: usize,
    ids: Vec<Uuid>,
}

impl Drain {
    /// Returns why all connections are closed, once a drain has begun.
    pub(crate) fn reason(&self) -> Option<CloseReason> {
        self.begun.get().map(|begun| begun.reason)
    }

    /// Returns until when a connection that closes now may take for its Close.
    pub(crate) fn close_by(&self) -> Instant {
        let usual = Instant::now() + CLOSE_TIMEOUT;
        self.begun.get().map_or(usual, |begun| usual.min(begun.cut_at))
    }

    /// Remembers a connection that did not complete its Close in time during a drain.
    pub(crate) fn cut(&self, id: Uuid) {
        if self.begun.get().is_some() {
            lock(&self.cut).add(id);
        }
    }
}

impl Cut {
    fn add(&mut self, id: Uuid) {
        self.count += 1;
        if self.ids.len() < NAMED {
            self.ids.push(id);
        }
    }
}

/// `30 did not close in time and were cut: ID, ID, ... and 20 more`.
impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let were = if self.count == 1 { "was" } else { "were" };
        write!(f, "{} did not close in time and {were} cut: ", self.count)?;
        let ids: Vec<String> = self.ids.iter().map(Uuid::to_string).collect();
        f.write_str(&ids.join(", "))?;
        match self.count - self.ids.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Drains within `within` or [`SHORTEST_DRAIN`]: closes all connections with `reason`, spread over the first two thirds
/// of the time, and waits until they have ended. The others are cut, and logged.
///
/// With [`CloseReason::Restarting`] no client is rejected: one that was accepted already is admitted, and then asked
/// to reconnect as all others.
pub(crate) async fn drain(server: &Server, reason: CloseReason, within: Duration) {
    let within = within.max(SHORTEST_DRAIN);
    let end = Instant::now() + within;
    let begun = Begun { reason, cut_at: end.checked_sub(CUT_AHEAD).unwrap_or(end) };
    let _ = server.drain.begun.set(begun);
    let answers = CLOSE_TIMEOUT.min(within / 3);
    let handshakes =
        if reason == CloseReason::Restarting { LAST_HANDSHAKES.min(answers) } else { Duration::ZERO };
    let mut ids = Vec::new();
    server.hub.each_connection(|connection| ids.push(connection.id()));
    let all = ids.len();
    close_spread(server, ids, reason, within - answers - handshakes).await;
    if reason == CloseReason::Restarting {
        let _ = timeout(handshakes, server.pending.none()).await;
    }
    // These were admitted while the list was made.
    server.hub.each_connection(|connection| {
        connection.outbox.close(reason);
    });
    let gone = async {
        server.limits.none_connected().await;
        server.background.batches_done().await;
    };
    let _ = timeout_at(end, gone).await;
    while server.cleanup.complete_some() {}
    let _ = timeout(LAST_EVENTS, server.hub.feed().end(reason)).await;
    // Connections that could not even be cut in time end with the process.
    server.hub.each_connection(|connection| server.drain.cut(connection.id()));
    let cut = lock(&server.drain.cut);
    if cut.count > 0 {
        tracing::warn!(connections = cut.count, "of {all} connections {cut}");
    }
}

/// Closes connections in slices, evenly over `spread`, so that their clients do not all come back at once.
pub(crate) async fn close_spread(server: &Server, ids: Vec<Uuid>, reason: CloseReason, spread: Duration) {
    const SLICE: Duration = Duration::from_millis(50);
    let slices = (spread.as_millis() / SLICE.as_millis()).max(1) as usize;
    let mut tick = interval(SLICE);
    for slice in ids.chunks(ids.len().div_ceil(slices).max(1)) {
        tick.tick().await;
        for id in slice {
            let Some(connection) = server.hub.connection(id) else { continue };
            // Meanwhile it may have shown a token of a key that is in force.
            if reason != CloseReason::KeyWithdrawn || is_withdrawn(&connection, &server.live().keys) {
                connection.outbox.close(reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_names_some_of_those_that_were_cut() {
        let drain = Drain::default();
        drain.cut(Uuid::nil());
        assert_eq!(lock(&drain.cut).count, 0, "no drain has begun");
        let mut cut = Cut::default();
        cut.add(Uuid::nil());
        let nil = Uuid::nil().to_string();
        assert_eq!(cut.to_string(), format!("1 did not close in time and was cut: {nil}"));
        (0..NAMED + 20).for_each(|_| cut.add(Uuid::nil()));
        let text = cut.to_string();
        assert!(text.starts_with("31 did not close in time and were cut: "), "{text}");
        assert!(text.ends_with(&format!("{nil} and 21 more")), "{text}");
        assert_eq!(text.matches(&nil).count(), NAMED);
    }
}
