//! A progress bar on standard error, where that is a terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two looks at the bar: drawing costs, and the generator's thread has other work.
const PAUSE: Duration = Duration::from_millis(200);

/// How far a run has come. Draws nothing where standard error is no terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    drawn: Instant,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress { bar: ProgressBar::no_length(), drawn: Instant::now() }
    }

    /// Begins something that takes `duration`; [`Progress::at`] is given milliseconds.
    pub(super) fn begin(&mut self, name: &str, duration: Duration) {
        self.count(name, duration.as_millis() as usize);
    }

    /// Begins something of which there are `count`.
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
