//! Whether the log takes messages, as its answers to them show. The link stays up while the stream is sealed, confirms nothing
//! or is full and must not drop old messages, so nothing else would tell the administrator.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use crate::sync::lock;

/// How long the log must have refused nothing before it counts as taking messages again. This bounds the lines in this node's
/// log while it takes some messages and refuses others.
const QUIET: Duration = Duration::from_secs(10);

/// The longest reason, in characters. It is NATS's text.
const MAX_REASON: usize = 200;

/// The log refuses messages, or does not confirm them.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusing {
    /// Since when.
    pub since: SystemTime,
    /// Why it refused the last one.
    pub reason: String,
}

#[derive(Default)]
pub(super) struct Refusals {
    /// Whether there is a state: a message that is stored usually looks at nothing else.
    is_refusing: AtomicBool,
    state: Mutex<Option<State>>,
}

struct State {
    refusing: Refusing,
    last: Instant,
    /// The log has stored a message since.
    stored: bool,
}

impl Refusals {
    /// Notes that the log has not stored a message.
    pub(super) fn refused(&self, reason: &str, now: Instant) {
        let reason: String = reason.chars().take(MAX_REASON).collect();
        let mut state = lock(&self.state);
        let since = state.as_ref().map(|state| state.refusing.since);
        if since.is_none() {
            tracing::warn!("cluster: the log refuses messages or does not confirm them: {reason}");
        }
        let refusing = Refusing { since: since.unwrap_or_else(SystemTime::now), reason };
        *state = Some(State { refusing, last: now, stored: false });
        self.is_refusing.store(true, Relaxed);
    }

    /// Notes that the log has stored a message.
    pub(super) fn stored(&self) {
        if self.is_refusing.load(Relaxed)
            && let Some(state) = &mut *lock(&self.state)
        {
            state.stored = true;
        }
    }

    /// Looks whether the log takes messages again.
    pub(super) fn look(&self, now: Instant) {
        if !self.is_refusing.load(Relaxed) {
            return;
        }
        let mut state = lock(&self.state);
        let is_over = |state: &State| state.stored && now.saturating_duration_since(state.last) >= QUIET;
        if state.as_ref().is_some_and(is_over) {
            *state = None;
            self.is_refusing.store(false, Relaxed);
            tracing::info!("cluster: the log takes messages again");
        }
    }

    /// Returns since when and why, if the log refuses messages.
    pub(super) fn refusing(&self) -> Option<Refusing> {
        lock(&self.state).as_ref().map(|state| state.refusing.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_changes_once_however_many_messages_are_refused_and_ends_after_a_quiet_time() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        refusals.stored();
        assert_eq!(refusals.refusing(), None);
        refusals.refused("full", now);
        let since = refusals.refusing().unwrap().since;
        refusals.refused(&"x".repeat(1_000), now + Duration::from_secs(1));
        assert_eq!(refusals.refusing(), Some(Refusing { since, reason: "x".repeat(MAX_REASON) }));
        refusals.look(now + Duration::from_secs(60));
        assert!(refusals.refusing().is_some(), "nothing was stored since");
        refusals.stored();
        refusals.look(now + QUIET);
        assert!(refusals.refusing().is_some(), "a message was refused shortly before");
        refusals.look(now + QUIET + Duration::from_secs(1));
        assert_eq!(refusals.refusing(), None);
    }
}
