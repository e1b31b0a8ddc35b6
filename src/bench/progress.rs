//! A progress bar on standard error, if that is a terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The time between two drawings: drawing takes time that the generator's thread needs for the load.
const PAUSE: Duration = Duration::from_millis(200);

/// The progress of a run. Draws nothing if standard error is not a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    drawn: Instant,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress { bar: ProgressBar::no_length(), drawn: Instant::now() }
    }

    /// Starts a bar for a step that takes `duration`; [`Progress::at`] takes milliseconds.
    pub(super) fn begin(&mut self, name: &str, duration: Duration) {
        self.count(name, duration.as_millis() as usize);
    }

    /// Starts a bar for a step of `count` units.
    pub(super) fn count(&mut self, name: &str, count: usize) {
        let style = ProgressStyle::with_template("{msg:28} {wide_bar} {percent:>3} %");
        self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.reset();
        self.bar.set_length(count as u64);
        self.bar.set_message(name.to_owned());
        self.bar.tick();
    }

    pub(super) fn at(&mut self, position: u64) {
        if self.drawn.elapsed() > PAUSE {
            self.drawn = Instant::now();
            self.bar.set_position(position);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
