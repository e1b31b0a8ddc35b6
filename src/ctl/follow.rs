//! `philotectl events`: prints one line for each event until interrupted.

use std::io::{self, Write};

use clap::Args;

use super::complete;
use super::print::many;
use super::{Complaint, Exit, Report};
use crate::admin::api::{ClosedConnection, Ending, Event, EventQuery};
use crate::admin::client::Client;
use crate::escape::{self, escape, escape_json};
use crate::installation;
use crate::terminal::{Style, Tone};

#[derive(Args, Debug)]
pub(super) struct EventsArgs {
    /// Also show published messages
    #[arg(long)]
    messages: bool,
    /// Show only the messages of this channel
    #[arg(long, requires = "messages", add = complete::channels())]
    channel: Option<String>,
}

/// Runs `philotectl events`.
pub(super) async fn events(
    client: &Client,
    args: &EventsArgs,
    json: bool,
    style: Style,
) -> Result<Report, Complaint> {
    let query = EventQuery { messages: args.messages, channel: args.channel.clone() };
    let mut events = client.events(&query).await?;
    if !json {
        // A user who is about to cause an event must know when this is listening.
        eprintln!("following events; end with Ctrl-C");
    }
    while let Some(event) = events.next().await? {
        let text = match json {
            true => document(&event),
            false => match line(&event, style) {
                Some(line) => line,
                None => continue,
            },
        };
        let mut stdout = io::stdout().lock();
        match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
            Ok(()) => {}
            // The reader wants no more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Report::new("")),
            Err(error) => {
                let message = format!("cannot write to standard output: {error}");
                return Err(Complaint { message, hint: None, exit: Exit::Failed });
            }
        }
    }
    let message = "philote has stopped".into();
    Err(Complaint { message, hint: Some(installation::start_it("philote")), exit: Exit::NotRunning })
}

/// Formats an event as JSON in one line.
fn document(event: &Event) -> String {
    escape_json(&serde_json::to_string(event).unwrap_or_default()).into_owned()
}

/// Formats an event in one line; `None` for an event that this program does not know.
fn line(event: &Event, style: Style) -> Option<String> {
    let faint = |text: String| style.paint(Tone::Faint, &text);
    let text = match event {
        Event::Connected { at, id, subject, address } => {
            format!(
                "{} connected {id}{} from {}",
                faint(at.to_string()),
                of(subject.as_deref()),
                escape::address(*address)
            )
        }
        Event::Ended(ended) => format!("{} {}", faint(ended.at.to_string()), ending(ended)),
        Event::Reloaded { at, error: Some(error), .. } => {
            let refused = format!("the reload changed nothing: {}", escape(error));
            format!("{} {}", faint(at.to_string()), style.paint(Tone::Bad, &refused))
        }
        Event::Reloaded { at, applied, needs_restart, error: None } => {
            let mut text = format!("{} reloaded", faint(at.to_string()));
            if !applied.is_empty() {
                text += &format!("; applied {}", escape(&applied.join(", ")));
            }
            if !needs_restart.is_empty() {
                text += &format!("; needs a restart: {}", escape(&needs_restart.join(", ")));
            }
            text
        }
        Event::SecretChanged { at, secrets } => {
            format!("{} secret changed; {} in use", faint(at.to_string()), many(*secrets, "secret"))
        }
        Event::Message { at, issuer, subject, channel, data, readers } => format!(
            "{} message on {} from {}{} to {}: {}",
            faint(at.to_string()),
            escape(channel),
            escape(issuer),
            of(subject.as_deref()),
            many(*readers, "reader"),
            escape(data.as_deref().unwrap_or_default())
        ),
        Event::Missed { missed } => {
            let missed = format!("{} missed: this program reads too slowly", many(*missed, "event"));
            style.paint(Tone::Bad, &missed)
        }
        Event::Unknown => return None,
    };
    Some(text)
}

fn of(subject: Option<&str>) -> String {
    subject.map(|subject| format!(" of {}", escape(subject))).unwrap_or_default()
}

/// Formats `closed ID of SUBJECT from ADDRESS: REASON (CODE), SENTENCE`.
fn ending(ended: &ClosedConnection) -> String {
    let what = match (ended.ending, ended.id) {
        (Ending::Closed, Some(id)) => format!("closed {id}"),
        (Ending::Closed, None) => "closed".into(),
        (Ending::Refused, _) => "refused".into(),
    };
    let subject = match &ended.subject {
        Some(subject) if !ended.subject_verified => format!(" (claims to be {})", escape(subject)),
        subject => of(subject.as_deref()),
    };
    let ClosedConnection { address, code, .. } = ended;
    let from = escape::address(*address);
    format!("{what}{subject} from {from}: {} ({code}), {}", escape(&ended.reason), escape(&ended.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::Timestamp;

    const PIPE: Style = Style { terminal: false, colour: false };

    #[test]
    fn an_event_is_one_line_whatever_a_client_sent() {
        let at = Timestamp::from_unix(1_795_344_300);
        let message = Event::Message {
            at,
            issuer: "5f0c".into(),
            subject: Some("eve\n".into()),
            channel: "chat".into(),
            data: Some("a\x1b[2J\nb".into()),
            readers: 1,
        };
        assert_eq!(
            line(&message, PIPE).unwrap(),
            "2026-11-22T10:45:00Z message on chat from 5f0c of eve\\n to 1 reader: a\\u{1b}[2J\\nb"
        );
        let Event::Message { at, issuer, subject, channel, readers, .. } = message else { unreachable!() };
        let data = Some("\u{9b}31m\u{202e}\u{e0041}".to_owned());
        let message = document(&Event::Message { at, issuer, subject, channel, data, readers });
        assert!(message.contains(r#""data":"\u009b31m\u202e\udb40\udc41""#), "{message}");
        let missed = line(&Event::Missed { missed: 7 }, PIPE).unwrap();
        assert_eq!(missed, "7 events missed: this program reads too slowly");
        assert_eq!(line(&Event::Unknown, PIPE), None);
    }
}
