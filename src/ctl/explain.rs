//! `philotectl explain`: what a subject has got of a channel.

use clap::Args;

use super::cluster::listed_from;
use super::complete;
use super::print::{in_json, many};
use super::{Complaint, Exit, Report};
use crate::admin::api::{ExplainQuery, Explanation, MessageOutcome, ReadPlace, Reading};
use crate::admin::client::Client;
use crate::escape::escape;
use crate::terminal::{Style, Tone};

#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// The subject, as in the claim sub of its tokens
    #[arg(long)]
    subject: String,
    /// The channel
    #[arg(long, add = complete::channels())]
    channel: String,
    /// The id of one message, such as 5f0c-41; exit status 6 unless it was written to a socket of the subject
    #[arg(long)]
    id: Option<String>,
    /// In a cluster, only connections of this node
    #[arg(long)]
    local: bool,
}

/// Runs `philotectl explain`.
pub(super) async fn explain(
    client: &Client,
    args: &ExplainArgs,
    json: bool,
    style: Style,
) -> Result<Report, Complaint> {
    let ExplainArgs { subject, channel, id, local } = args;
    let (subject, channel) = (subject.clone(), channel.clone());
    let answer = client.explain(&ExplainQuery { subject, channel, id: id.clone(), local: *local }).await?;
    let report = in_json(json, &answer).unwrap_or_else(|| Report::new(text(&answer, style)));
    let report = listed_from(report, answer.nodes.as_ref());
    let is_written = answer.verdict.as_ref().is_none_or(|judged| judged.verdict == MessageOutcome::Written);
    Ok(if is_written { report } else { Report { exit: Exit::NothingMatched, ..report } })
}

fn text(answer: &Explanation, style: Style) -> String {
    let mut text = lines(&answer.connections).concat();
    if answer.connections.is_empty() {
        text = format!("no connection of {} is open or remembered\n", escape(&answer.subject));
    }
    if let Some(judged) = &answer.verdict {
        let (tone, word) = match judged.verdict {
            MessageOutcome::Written => (Tone::Good, "written"),
            MessageOutcome::Waiting => (Tone::Bad, "waiting"),
            MessageOutcome::NotWritten => (Tone::Bad, "not written"),
            MessageOutcome::Unknown => (Tone::Faint, "unknown"),
        };
        text += &format!("{}: {}: {}\n", judged.id, style.paint(tone, word), escape(&judged.message));
    }
    let mut footer = match &answer.history {
        Some(history) => {
            format!("the channel is at {} and keeps what came after {}", history.last, history.after)
        }
        None => "the channel has no history, so its messages have no ids".to_owned(),
    };
    let shown = answer.connections.len() as u64;
    if answer.matched > shown {
        footer += &format!("; showing {shown} of {}", many(answer.matched, "connection"));
    }
    if !answer.complete {
        footer += "; some connections that have ended are no longer remembered";
    }
    footer += &format!("; nothing is known from before {}", answer.since);
    text + &style.paint(Tone::Faint, &footer) + "\n"
}

/// Describes the connections, which are in order of time.
fn lines(connections: &[Reading]) -> Vec<String> {
    // The history, and the number up to which the earlier connections have got all that they were to get.
    let mut covered: Option<(&str, u64)> = None;
    let mut is_back = false;
    let mut lines = Vec::with_capacity(connections.len());
    for row in connections {
        lines.push(line(row, covered, is_back));
        is_back = row.closed.is_some();
        if let Some((epoch, up_to)) = row.place.as_ref().and_then(|place| place.up_to.as_deref()).map(parts) {
            let before = covered.filter(|(before, _)| *before == epoch).map_or(0, |(_, up_to)| up_to);
            covered = Some((epoch, up_to.max(before)));
        }
    }
    lines
}

fn line(row: &Reading, covered: Option<(&str, u64)>, is_back: bool) -> String {
    let node = row.node.as_ref().map_or_else(String::new, |node| format!(" on node {}", escape(node)));
    let came = if is_back { "back" } else { "connected" };
    let until = row.closed.as_ref().map_or_else(String::new, |closed| format!(" to {}", closed.at));
    let place = match &row.place {
        None if row.reads => {
            ", reads the channel, whose messages have no numbers without a history".to_owned()
        }
        None => ", no place in this channel is known".to_owned(),
        Some(place) => read(place, row, covered),
    };
    let end = row
        .closed
        .as_ref()
        .map_or_else(String::new, |closed| format!("; closed {}, {}", closed.code, escape(&closed.message)));
    format!("{came} {}{until}{node}{place}{end}\n", row.connected_at)
}

/// Describes how far a connection has read, and what is missing between it and the earlier ones.
fn read(place: &ReadPlace, row: &Reading, covered: Option<(&str, u64)>) -> String {
    let had = if row.reads { "has" } else { "had" };
    let left = if row.closed.is_none() && !row.reads { ", and left it" } else { "" };
    let ((epoch, after), last) = (parts(&place.after), parts(&place.last).1);
    let gap = match covered {
        Some((before, _)) if before != epoch => ", in another history".to_owned(),
        Some((_, up_to)) if after > up_to => format!(", missed {} to {after}", up_to + 1),
        Some((_, up_to)) if last > up_to => ", recovered".to_owned(),
        _ => String::new(),
    };
    let written = match place.up_to.as_deref().map(parts) {
        Some((_, up_to)) if up_to == after => format!("{had} nothing after {after} of {last}"),
        Some((_, up_to)) => format!("{had} {} up to {up_to} of {last}", after + 1),
        None => format!("joined after {after}, and how far it got of {last} is not known"),
    };
    format!("{gap}, {written}{left}")
}

/// Returns the epoch and the number of an id.
fn parts(id: &str) -> (&str, u64) {
    let (epoch, number) = id.split_once('-').unwrap_or((id, ""));
    (epoch, number.parse().unwrap_or_default())
}
