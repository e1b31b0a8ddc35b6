//! A limit on what others may cause in a time. Anyone who may publish to the subjects of the cluster can send any number of
//! messages a second.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// At most a number in each window of time.
#[derive(Debug)]
pub(super) struct Limit {
    most: u32,
    window: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    began: Option<Instant>,
    /// What was let through in this window.
    count: u32,
    /// What was refused and not reported.
    refused: u64,
}

impl Limit {
    pub(super) fn new(most: u32, window: Duration) -> Limit {
        Limit { most, window, state: Mutex::default() }
    }

    /// Counts one, and returns whether it is within the limit.
    pub(super) fn takes(&self, now: Instant) -> bool {
        let mut state = lock(&self.state);
        if self.is_over(&state, now) {
            (state.began, state.count) = (Some(now), 0);
        }
        let takes = state.count < self.most;
        state.count += u32::from(takes);
        state.refused += u64::from(!takes);
        takes
    }

    /// Returns how many were refused since the last report, when the window is over.
    pub(super) fn report(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        if !self.is_over(&state, now) {
            return None;
        }
        Some(std::mem::take(&mut state.refused)).filter(|refused| *refused > 0)
    }

    fn is_over(&self, state: &State, now: Instant) -> bool {
        state.began.is_none_or(|began| now.saturating_duration_since(began) >= self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_limit_is_reported_once_when_its_window_is_over() {
        let (limit, now) = (Limit::new(3, Duration::from_secs(10)), Instant::now());
        assert_eq!((0..8).filter(|_| limit.takes(now)).count(), 3);
        let later = now + Duration::from_secs(9);
        assert_eq!((limit.takes(later), limit.report(later)), (false, None));
        let over = now + Duration::from_secs(10);
        assert_eq!((limit.report(over), limit.report(over)), (Some(6), None));
        assert!(limit.takes(over));
    }
}
