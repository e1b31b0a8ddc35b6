//! One line for each connection opened, closed or refused; where they come in masses, a summary in place of the lines.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

use super::record::{MAX_TEXT_BYTES, printable};
use super::sink::quoted;
use crate::timestamp::span;

/// How long lines are counted before a summary says how many there were.
pub const WINDOW: Duration = Duration::from_secs(10);

/// How many lines of one kind and reason are written in full in each window; the ones after are counted.
pub const FULL_LINES: u64 = 20;

/// The longest subject in a line, in bytes; a client's token may hold a longer one.
pub const MAX_SUBJECT_BYTES: usize = 128;

/// A connection that was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Opened<'a> {
    /// Its id.
    pub connection: &'a str,
    /// The `sub` of its token.
    pub subject: Option<&'a str>,
    /// Where it comes from, with the port.
    pub address: &'a str,
}

/// A connection that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Closed<'a> {
    /// Its id.
    pub connection: &'a str,
    /// The `sub` of its token.
    pub subject: Option<&'a str>,
    /// Where it came from, with the port.
    pub address: &'a str,
    /// Why, in the few words that summaries count by: `too slow`.
    pub reason: &'static str,
    /// The close code; 1006 where the connection broke off without one.
    pub code: u16,
    /// Why, as the client was told.
    pub sentence: &'a str,
    /// How long it was open.
    pub duration: Duration,
    /// Messages received from it.
    pub messages_in: u64,
    /// Messages sent to it.
    pub messages_out: u64,
    /// Bytes received from it.
    pub bytes_in: u64,
    /// Bytes sent to it.
    pub bytes_out: u64,
    /// The most messages that ever waited for it.
    pub greatest_queue: u64,
}

/// A request that was not accepted.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// The `sub` of its token, where that was good.
    pub subject: Option<&'a str>,
    /// Where it came from, with the port.
    pub address: &'a str,
    /// The HTTP status of the answer, or the close code.
    pub status: u16,
    /// Why, in the few words that summaries count by: `bad signature`.
    pub reason: &'static str,
    /// Why, as the client was told.
    pub sentence: &'a str,
}

/// The one place that logs what becomes of connections, at level info. It keeps at most one line of each kind and one
/// count of each reason, however many there are.
///
/// [`tick`](Self::tick) is to be called about once a second, [`finish`](Self::finish) before the process ends.
#[derive(Debug, Default)]
pub struct ConnectionLog {
    windows: Mutex<[Window; 3]>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Opened,
    Closed,
    Refused,
}

const KINDS: [Kind; 3] = [Kind::Opened, Kind::Closed, Kind::Refused];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Opened => "opened",
            Kind::Closed => "closed",
            Kind::Refused => "refused",
        }
    }
}

/// What happened since the first event that no summary covers.
#[derive(Debug, Default)]
struct Window {
    start: Option<Instant>,
    counts: Vec<(&'static str, u64)>,
    /// The latest line that was counted and not written.
    last: Option<Line>,
}

impl ConnectionLog {
    /// A connection was accepted.
    pub fn opened(&self, opened: &Opened<'_>, now: Instant) {
        self.add(Kind::Opened, now, || Line {
            connection: Some(opened.connection.to_owned()),
            subject: subject(opened.subject),
            address: opened.address.to_owned(),
            ..Line::default()
        });
    }

    /// A connection has ended.
    pub fn closed(&self, closed: &Closed<'_>, now: Instant) {
        self.add(Kind::Closed, now, || Line {
            connection: Some(closed.connection.to_owned()),
            subject: subject(closed.subject),
            address: closed.address.to_owned(),
            reason: closed.reason,
            code: Some(closed.code),
            sentence: printable(closed.sentence, MAX_TEXT_BYTES),
            traffic: Some(Traffic {
                duration: closed.duration,
                messages_in: closed.messages_in,
                messages_out: closed.messages_out,
                bytes_in: closed.bytes_in,
                bytes_out: closed.bytes_out,
                greatest_queue: closed.greatest_queue,
            }),
            ..Line::default()
        });
    }

    /// A request was not accepted.
    pub fn refused(&self, refused: &Refused<'_>, now: Instant) {
        self.add(Kind::Refused, now, || Line {
            subject: subject(refused.subject),
            address: refused.address.to_owned(),
            reason: refused.reason,
            status: Some(refused.status),
            sentence: printable(refused.sentence, MAX_TEXT_BYTES),
            ..Line::default()
        });
    }

    /// Writes the summaries whose window is over.
    pub fn tick(&self, now: Instant) {
        self.end_windows(|window| window.is_over(now), now);
    }

    /// Writes what a summary still owes, however short its window was.
    pub fn finish(&self, now: Instant) {
        self.end_windows(|_| true, now);
    }

    fn add(&self, kind: Kind, now: Instant, line: impl FnOnce() -> Line) {
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let line = line();
        // Nothing is written under the lock: every worker comes by here.
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

    /// Counts a line, and gives it back if it is to be written in full.
    fn count(&mut self, line: Line, now: Instant) -> Option<Line> {
        self.start.get_or_insert(now);
        let known = self.counts.iter().position(|(reason, _)| *reason == line.reason);
        let place = known.unwrap_or_else(|| {
            self.counts.push((line.reason, 0));
            self.counts.len() - 1
        });
        let count = &mut self.counts[place].1;
        *count += 1;
        if *count <= FULL_LINES {
            return Some(line);
        }
        self.last = Some(line);
        None
    }

    /// If lines were counted in place of being written: the last one in full, and how many there were of each reason.
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

/// What one line says, owned, because it may be written later. The reason of what was opened is empty.
#[derive(Debug, Default)]
struct Line {
    connection: Option<String>,
    subject: Option<String>,
    address: String,
    reason: &'static str,
    code: Option<u16>,
    status: Option<u16>,
    sentence: String,
    traffic: Option<Traffic>,
}

#[derive(Debug)]
struct Traffic {
    duration: Duration,
    messages_in: u64,
    messages_out: u64,
    bytes_in: u64,
    bytes_out: u64,
    greatest_queue: u64,
}

impl Line {
    fn write(&self, kind: Kind) {
        let traffic = self.traffic.as_ref();
        tracing::info!(
            event = kind.name(),
            connection = self.connection,
            subject = self.subject,
            address = self.address,
            reason = (!self.reason.is_empty()).then_some(self.reason),
            code = self.code,
            status = self.status,
            duration = traffic.map(|traffic| traffic.duration.as_secs_f64()),
            messages_in = traffic.map(|traffic| traffic.messages_in),
            messages_out = traffic.map(|traffic| traffic.messages_out),
            bytes_in = traffic.map(|traffic| traffic.bytes_in),
            bytes_out = traffic.map(|traffic| traffic.bytes_out),
            greatest_queue = traffic.map(|traffic| traffic.greatest_queue),
            "{}",
            self.sentence(kind)
        );
    }

    /// `closed ID of "SUBJECT" from ADDRESS: SENTENCE (CODE, open 5 min 3 s, ...)`.
    fn sentence(&self, kind: Kind) -> String {
        let mut text = kind.name().to_owned();
        if let Some(connection) = &self.connection {
            text += &format!(" {connection}");
        }
        if let Some(subject) = &self.subject {
            text += &format!(" of {}", quoted(subject));
        }
        if text.len() > kind.name().len() {
            text += " from";
        }
        text += &format!(" {}", self.address);
        if !self.sentence.is_empty() {
            text += &format!(": {}", self.sentence);
        }
        if let Some(status) = self.status {
            text += &format!(" ({status})");
        }
        if let (Some(code), Some(traffic)) = (self.code, &self.traffic) {
            let open = span(traffic.duration);
            text += &format!(
                " ({code}, open {open}, in {} messages of {} bytes, out {} of {})",
                grouped(traffic.messages_in),
                grouped(traffic.bytes_in),
                grouped(traffic.messages_out),
                grouped(traffic.bytes_out),
            );
        }
        text
    }
}

fn subject(subject: Option<&str>) -> Option<String> {
    subject.map(|subject| printable(subject, MAX_SUBJECT_BYTES))
}

/// `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
