//! One line for each connection that is opened, closed or rejected. When there are many, a summary replaces most lines.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

#[cfg(test)]
mod tests;

use super::closed_record::ClosedRecord;
use super::record::{MAX_TEXT_BYTES, printable};
use super::sink::quoted;
use crate::timestamp::span;

/// How long lines are counted before a summary reports their number.
pub const WINDOW: Duration = Duration::from_secs(10);

/// How many lines of one kind and reason are written in each window. Further ones are counted.
pub const FULL_LINES: u64 = 20;

/// The longest subject in a line, in bytes. A token may contain a longer one.
pub const MAX_LOGGED_SUBJECT_BYTES: usize = 128;

/// A connection that was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Opened<'a> {
    /// Its id.
    pub connection: Uuid,
    /// The `sub` of its token.
    pub subject: Option<&'a str>,
    /// The client's address.
    pub address: SocketAddr,
}

/// Logs connections that are opened, closed or rejected, at level info. It keeps at most one line of each kind and one
/// count of each reason in memory.
///
/// Call [`tick`](Self::tick) about once a second, and [`finish`](Self::finish) before the process ends.
#[derive(Debug, Default)]
pub struct ConnectionLog {
    windows: Mutex<[Window; 3]>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Opened,
    Closed,
    Rejected,
}

const KINDS: [Kind; 3] = [Kind::Opened, Kind::Closed, Kind::Rejected];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Opened => "opened",
            Kind::Closed => "closed",
            Kind::Rejected => "refused",
        }
    }
}

/// What happened since the first event that is not in a summary yet.
#[derive(Debug, Default)]
struct Window {
    start: Option<Instant>,
    counts: Vec<(&'static str, u64)>,
    /// The latest line that was counted and not written.
    last: Option<Line>,
}

impl ConnectionLog {
    /// Logs that a connection was accepted.
    pub fn opened(&self, opened: &Opened<'_>, now: Instant) {
        self.add(Kind::Opened, now, || Line {
            connection: Some(opened.connection),
            subject: opened.subject.map(printable_subject),
            address: opened.address,
            ended: None,
        });
    }

    /// Logs that a connection was closed or a request rejected. The subject of an invalid token is not logged.
    pub fn closed(&self, record: &ClosedRecord, now: Instant) {
        let kind = if record.connection.is_some() { Kind::Closed } else { Kind::Rejected };
        self.add(kind, now, || Line {
            connection: record.connection,
            subject: record.subject.as_deref().filter(|_| record.verified).map(printable_subject),
            address: record.address,
            ended: Some(ClosedRecord {
                sentence: printable(&record.sentence, MAX_TEXT_BYTES).into(),
                ..record.clone()
            }),
        });
    }

    /// Writes the summaries of windows that have ended.
    pub fn tick(&self, now: Instant) {
        self.end_windows(|window| window.is_over(now), now);
    }

    /// Writes all remaining summaries.
    pub fn finish(&self, now: Instant) {
        self.end_windows(|_| true, now);
    }

    fn add(&self, kind: Kind, now: Instant, line: impl FnOnce() -> Line) {
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let line = line();
        // Nothing is written under the lock, because all workers use it.
        let (ended, full) = {
            let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
            let window = &mut windows[kind as usize];
            let ended = window.is_over(now).then(|| std::mem::take(window));
            (ended, window.count(line, now))
        };
        if let Some(ended) = ended {
            ended.summarise(kind, now);
        }
        if let Some(full) = full {
            full.write(kind);
        }
    }

    fn end_windows(&self, is_over: impl Fn(&Window) -> bool, now: Instant) {
        for kind in KINDS {
            let ended = {
                let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
                let window = &mut windows[kind as usize];
                is_over(window).then(|| std::mem::take(window))
            };
            if let Some(ended) = ended {
                ended.summarise(kind, now);
            }
        }
    }
}

impl Window {
    fn is_over(&self, now: Instant) -> bool {
        self.start.is_some_and(|start| now.saturating_duration_since(start) >= WINDOW)
    }

    /// Counts a line, and returns it if it must be written.
    fn count(&mut self, line: Line, now: Instant) -> Option<Line> {
        self.start.get_or_insert(now);
        let known = self.counts.iter().position(|(reason, _)| *reason == line.reason());
        let index = known.unwrap_or_else(|| {
            self.counts.push((line.reason(), 0));
            self.counts.len() - 1
        });
        let count = &mut self.counts[index].1;
        *count += 1;
        if *count <= FULL_LINES {
            return Some(line);
        }
        self.last = Some(line);
        None
    }

    /// If lines were counted and not written, writes the last of them and the number of lines for each reason.
    fn summarise(mut self, kind: Kind, now: Instant) {
        let (Some(last), Some(start)) = (self.last, self.start) else { return };
        last.write(kind);
        let seconds = now.saturating_duration_since(start).min(WINDOW).as_secs_f64().ceil().max(1.0);
        let total: u64 = self.counts.iter().map(|(_, count)| count).sum();
        self.counts.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
        let reasons: Vec<String> = self
            .counts
            .iter()
            .filter(|(reason, _)| !reason.is_empty())
            .map(|(reason, count)| format!("{} {reason}", grouped(*count)))
            .collect();
        let colon = if reasons.is_empty() { "" } else { ": " };
        let (name, count, reasons) = (kind.name(), grouped(total), reasons.join(", "));
        tracing::info!(event = name, count = total, "{name} {count} in {seconds} s{colon}{reasons}");
    }
}

/// The data of a line, which may be written later.
#[derive(Debug)]
struct Line {
    connection: Option<Uuid>,
    subject: Option<String>,
    address: SocketAddr,
    /// The record of a closed connection or rejected request.
    ended: Option<ClosedRecord>,
}

impl Line {
    /// Returns the name of the reason, or an empty string for an opened connection.
    fn reason(&self) -> &'static str {
        self.ended.as_ref().map_or("", |ended| ended.reason)
    }

    fn write(&self, kind: Kind) {
        let rejected = self.ended.as_ref().filter(|ended| ended.connection.is_none());
        let closed = self.ended.as_ref().filter(|ended| ended.connection.is_some());
        tracing::info!(
            event = kind.name(),
            connection = self.connection.map(|id| id.to_string()),
            subject = self.subject,
            address = crate::escape::address(self.address),
            reason = self.ended.as_ref().map(|ended| ended.reason),
            code = closed.map(|ended| ended.code),
            status = rejected.map(|ended| ended.code),
            duration = closed.map(|ended| ended.duration.as_secs_f64()),
            messages_in = closed.map(|ended| ended.messages_in),
            messages_out = closed.map(|ended| ended.messages_out),
            bytes_in = closed.map(|ended| ended.bytes_in),
            bytes_out = closed.map(|ended| ended.bytes_out),
            greatest_queue = closed.map(|ended| ended.greatest_queue),
            "{}",
            self.sentence(kind)
        );
    }

    /// Formats `closed ID of "SUBJECT" from ADDRESS: SENTENCE (CODE, open 5 min 3 s, ...)`.
    fn sentence(&self, kind: Kind) -> String {
        let mut text = kind.name().to_owned();
        if let Some(connection) = self.connection {
            text += &format!(" {connection}");
        }
        if let Some(subject) = &self.subject {
            text += &format!(" of {}", quoted(subject));
        }
        if text.len() > kind.name().len() {
            text += " from";
        }
        text += &format!(" {}", crate::escape::address(self.address));
        let Some(ended) = &self.ended else { return text };
        text += &format!(": {} ({}", ended.sentence, ended.code);
        if ended.connection.is_some() {
            let open = span(ended.duration);
            text += &format!(
                ", open {open}, in {} messages of {} bytes, out {} of {}",
                grouped(ended.messages_in),
                grouped(ended.bytes_in),
                grouped(ended.messages_out),
                grouped(ended.bytes_out),
            );
        }
        text + ")"
    }
}

fn printable_subject(subject: &str) -> String {
    printable(subject, MAX_LOGGED_SUBJECT_BYTES)
}

/// Formats a number with commas: `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
