//! The output of philotectl: aligned columns and readable units on a terminal, tabs and exact numbers in a pipe.

use std::time::Duration;

use serde::Serialize;

use super::Report;
use crate::escape::{escape, escape_json};
use crate::terminal::Style;

/// Returns the answer as one JSON document if `wanted`.
pub(super) fn in_json(wanted: bool, answer: &impl Serialize) -> Option<Report> {
    let text = wanted.then(|| serde_json::to_string_pretty(answer).ok()).flatten()?;
    Some(Report::new(escape_json(&text).into_owned() + "\n"))
}

/// Labelled values, one per line.
pub(super) struct Facts {
    style: Style,
    rows: Vec<(&'static str, String)>,
}

impl Facts {
    pub(super) fn new(style: Style) -> Self {
        Self { style, rows: Vec::new() }
    }

    /// Adds a line. `value` may contain colours; text from clients must already be escaped in it.
    pub(super) fn add(&mut self, label: &'static str, value: impl Into<String>) {
        self.rows.push((label, value.into()));
    }

    /// Adds a line unless `values` is empty.
    pub(super) fn add_list(&mut self, label: &'static str, values: &[String]) {
        if !values.is_empty() {
            self.add(label, list(values));
        }
    }

    /// Formats the lines: aligned on a terminal, with a tab between label and value otherwise.
    pub(super) fn render(&self) -> String {
        let widest = self.rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        let line = |(label, value): &(&str, String)| {
            if self.style.terminal {
                format!("{label:widest$}  {value}\n")
            } else {
                format!("{label}\t{value}\n")
            }
        };
        self.rows.iter().map(line).collect()
    }
}

/// Formats names in one line.
pub(super) fn list(values: &[String]) -> String {
    escape(&values.join(", ")).into_owned()
}

/// Formats a number of bytes: `12.3 MiB` on a terminal, `12897484` otherwise.
pub(super) fn bytes(style: Style, bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if !style.terminal {
        return bytes.to_string();
    }
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.96 would be shown as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Formats a number: `1,234,567` on a terminal, `1234567` otherwise.
pub(super) fn count(style: Style, number: u64) -> String {
    let digits = number.to_string();
    if !style.terminal {
        return digits;
    }
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Formats a duration in few characters: `45s`, `5m03s`, `3h07m`, `2d04h`.
pub(super) fn short_span(length: Duration) -> String {
    let seconds = length.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if minutes == 0 => format!("{seconds}s"),
        () if hours == 0 => format!("{minutes}m{:02}s", seconds % 60),
        () if days == 0 => format!("{hours}h{:02}m", minutes % 60),
        () => format!("{days}d{:02}h", hours % 24),
    }
}

/// Formats a number with a noun: `1 connection`, `2 connections`.
pub(super) fn many(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMINAL: Style = Style { terminal: true, colour: false };
    const PIPE: Style = Style { terminal: false, colour: false };

    #[test]
    fn a_terminal_has_columns_and_a_pipe_has_tabs() {
        let facts = |style| {
            let mut facts = Facts::new(style);
            facts.add("pid", "7");
            facts.add_list("listening", &["[::]:6380".into(), "bad\x1b".into()]);
            facts.add_list("none", &[]);
            facts.render()
        };
        assert_eq!(facts(TERMINAL), "pid        7\nlistening  [::]:6380, bad\\u{1b}\n");
        assert_eq!(facts(PIPE), "pid\t7\nlistening\t[::]:6380, bad\\u{1b}\n");
    }

    #[test]
    fn only_a_terminal_has_units() {
        assert_eq!(bytes(PIPE, 1 << 20), "1048576");
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (12_897_484, "12.3 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes(TERMINAL, number), text);
        }
        for (number, text) in [(7, "7"), (100, "100"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(TERMINAL, number), text);
        }
        assert_eq!(count(PIPE, 1000), "1000");
        for (seconds, text) in [(0, "0s"), (59, "59s"), (303, "5m03s"), (11_259, "3h07m"), (187_300, "2d04h")]
        {
            assert_eq!(short_span(Duration::from_secs(seconds)), text);
        }
    }
}
