//! The destinations of records: text or JSON on standard error, or the journal.

use std::io::{self, IsTerminal, Write};

use serde::Serializer;
use tracing::{Event, Level, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Layered, SubscriberExt};

use super::record::{FieldValue, Record};
use super::{Format, OWN_TARGET};

/// The prefix of field names in the journal: `PHILOTE_CONNECTION`.
const JOURNAL_PREFIX: &str = "PHILOTE";

/// syslog's number of the facility `daemon`. rsyslog uses it to sort records from the journal.
const FACILITY_DAEMON: &str = "3";

/// A destination of records.
pub(super) enum Sink {
    Text { out: Box<dyn Write + Send>, colour: bool },
    Json { out: Box<dyn Write + Send> },
    Journal(Box<Layered<tracing_journald::Layer, Registry>>),
}

impl Sink {
    /// Opens the destination for a format. `Auto` must already be resolved.
    pub(super) fn open(format: Format) -> io::Result<Sink> {
        match format {
            Format::Auto | Format::Text => Ok(Sink::text()),
            Format::Json => Ok(Sink::Json { out: Box::new(io::stderr()) }),
            Format::Journald => Sink::journal(),
        }
    }

    pub(super) fn text() -> Sink {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let colour =
            io::stderr().is_terminal() && variable("NO_COLOR").is_empty() && variable("TERM") != "dumb";
        Sink::Text { out: Box::new(io::stderr()), colour }
    }

    /// Opens the journal. Blocks while journald is stopped and its socket is full, like each write.
    fn journal() -> io::Result<Sink> {
        let priorities = PriorityMappings {
            info: Priority::Informational,
            debug: Priority::Debug,
            ..PriorityMappings::new()
        };
        let layer = tracing_journald::layer()?
            .with_field_prefix(Some(JOURNAL_PREFIX.to_owned()))
            .with_priority_mappings(priorities)
            .with_syslog_identifier("philote".to_owned())
            .with_custom_fields([("SYSLOG_FACILITY", FACILITY_DAEMON)]);
        Ok(Sink::Journal(Box::new(tracing_subscriber::registry().with(layer))))
    }

    /// Writes one record. tracing-journald does not report errors of the journal.
    pub(super) fn write(&mut self, record: &Record) -> io::Result<()> {
        match self {
            Sink::Text { out, colour } => out.write_all(text_line(record, *colour).as_bytes()),
            Sink::Json { out } => out.write_all(&json_line(record)?),
            Sink::Journal(journal) => {
                send_again(record, &**journal);
                Ok(())
            }
        }
    }
}

/// Sends the record to a subscriber as the original event. The subscriber is not the dispatcher of any thread, so its
/// level does not influence which levels are enabled.
fn send_again(record: &Record, subscriber: &impl Subscriber) {
    let values: Vec<Option<&dyn tracing::Value>> = record
        .values
        .iter()
        .map(|value| {
            value.as_ref().map(|value| match value {
                FieldValue::Text(text) => text as &dyn tracing::Value,
                FieldValue::Unsigned(number) => number,
                FieldValue::Signed(number) => number,
                FieldValue::Float(number) => number,
                FieldValue::Flag(flag) => flag,
            })
        })
        .collect();
    subscriber.event(&Event::new(record.metadata, &record.metadata.fields().value_set_all(&values)));
}

/// Formats `2026-11-05T12:00:00Z INFO  message key=value`, with colours for the level and the fields on a terminal.
fn text_line(record: &Record, colour: bool) -> String {
    let (name, ansi) = match *record.metadata.level() {
        Level::ERROR => ("ERROR", 31),
        Level::WARN => ("WARN ", 33),
        Level::INFO => ("INFO ", 32),
        Level::DEBUG => ("DEBUG", 34),
        Level::TRACE => ("TRACE", 35),
    };
    let paint = |text: &str, ansi: u8| match colour {
        true => format!("\x1b[{ansi}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let time = humantime::format_rfc3339_seconds(record.time);
    let mut line = format!("{} {} {}", paint(&time.to_string(), 2), paint(name, ansi), record.message());
    // Our own messages already contain what their fields contain.
    if !record.metadata.target().starts_with(OWN_TARGET) {
        for (name, value) in record.fields() {
            let value = value.to_string();
            let bare = !value.is_empty() && !value.contains([' ', '"', '=']);
            let value = if bare { value } else { quoted(&value) };
            line.push(' ');
            line.push_str(&paint(&format!("{name}={value}"), 2));
        }
    }
    line.push('\n');
    line
}

/// Puts text in quotation marks, and escapes those in the text.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\\\""))
}

/// Formats `{"time":"2026-11-05T12:00:00.000000Z","level":"info","message":"...", ...}` with the fields.
fn json_line(record: &Record) -> io::Result<Vec<u8>> {
    let text = |text: String| FieldValue::Text(text);
    let head = [
        ("time", text(humantime::format_rfc3339_micros(record.time).to_string())),
        ("level", text(record.metadata.level().as_str().to_ascii_lowercase())),
        ("message", text(record.message())),
    ];
    // A field must not have the name of one of these three.
    let field_name = |name: &str| match head.iter().any(|(taken, _)| *taken == name) {
        true => format!("field_{name}"),
        false => name.to_owned(),
    };
    let mut line = Vec::with_capacity(256);
    serde_json::Serializer::new(&mut line).collect_map(
        head.iter()
            .map(|(name, value)| ((*name).to_owned(), value))
            .chain(record.fields().map(|(name, value)| (field_name(name), value))),
    )?;
    line.push(b'\n');
    Ok(line)
}
