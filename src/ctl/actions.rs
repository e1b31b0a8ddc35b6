//! The commands `disconnect`, `publish` and `log-level`.

use std::io::{self, BufRead, IsTerminal};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::cluster::done_on;
use super::complete;
use super::print::{in_json, many};
use super::values::positive;
use super::{Complaint, Exit, Report};
use crate::admin::api::{
    Address, DisconnectRequest, Disconnected, IdPrefix, Level, Message, PublishRequest, Published,
};
use crate::admin::client::Client;
use crate::escape::escape;

/// The most lines of standard input in one request, and their bytes. They fit into a request even if every character
/// must be escaped.
const LINES_PER_REQUEST: usize = 256;
const BYTES_PER_REQUEST: usize = 64 * 1024;

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("whom").required(true).multiple(true).args(["ids", "channel", "subject", "address", "all"]))]
pub(super) struct DisconnectArgs {
    /// The ids, or the starts of ids
    #[arg(value_name = "ID", add = complete::connections())]
    ids: Vec<IdPrefix>,
    /// Connections that read or may write this channel
    #[arg(long, add = complete::channels())]
    channel: Option<String>,
    /// Connections of this subject
    #[arg(long)]
    subject: Option<String>,
    /// Connections from this address
    #[arg(long)]
    address: Option<Address>,
    /// All connections
    #[arg(long, conflicts_with_all = ["ids", "channel", "subject", "address"])]
    all: bool,
    /// Only print how many connections would be closed
    #[arg(long)]
    dry_run: bool,
    /// Close with code 1012, which asks clients to reconnect, instead of 4403, which asks them not to
    #[arg(long)]
    reconnect: bool,
    /// Ban the subject for this long; the ban outlasts a restart of the daemon
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = positive,
        requires = "subject",
        conflicts_with_all = ["reconnect", "ids", "channel", "address"]
    )]
    refuse_for: Option<Duration>,
    /// In a cluster, act on this node only
    #[arg(long, conflicts_with = "refuse_for")]
    local: bool,
}

#[derive(Args, Debug)]
pub(super) struct PublishArgs {
    /// The channel
    #[arg(add = complete::channels())]
    channel: String,
    /// The message; without it, each line of standard input is a message
    message: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct LevelArgs {
    /// The new log level, until the next restart; without it, the level is printed
    #[arg(value_enum)]
    level: Option<Level>,
}

/// Runs `philotectl disconnect`.
pub(super) async fn disconnect(
    client: &Client,
    args: &DisconnectArgs,
    json: bool,
) -> Result<Report, Complaint> {
    let request = DisconnectRequest {
        ids: args.ids.clone(),
        channel: args.channel.clone(),
        subject: args.subject.clone(),
        address: args.address,
        all: args.all,
        dry_run: args.dry_run,
        reconnect: args.reconnect,
        refuse_for: args.refuse_for.map(|length| length.as_secs().max(1)),
        local: args.local,
    };
    let answer = client.disconnect(&request).await?;
    // A ban succeeds even if the subject has no connection.
    let done = answer.matched > 0 || answer.refused_until.is_some();
    let exit = if done { Exit::Done } else { Exit::NothingMatched };
    let report = in_json(json, &answer).unwrap_or_else(|| Report::new(disconnected(&request, &answer)));
    Ok(done_on(Report { exit, ..report }, answer.nodes.as_ref()))
}

fn disconnected(request: &DisconnectRequest, answer: &Disconnected) -> String {
    let count = many(answer.matched, "connection");
    let mut text = match (answer.matched, answer.dry_run) {
        (0, _) => "no connection matches".to_owned(),
        (_, true) => format!("{count} would be disconnected"),
        (1, false) => format!("{count} is being disconnected"),
        (_, false) => format!("{count} are being disconnected"),
    };
    if let (Some(subject), Some(until)) = (&request.subject, answer.refused_until) {
        let would = if answer.dry_run { "would be" } else { "is" };
        text += &format!("; {} {would} banned until {until}", escape(subject));
    }
    text + "\n"
}

/// Runs `philotectl publish`.
pub(super) async fn publish(client: &Client, args: &PublishArgs, json: bool) -> Result<Report, Complaint> {
    let message = |data: String| Message { channel: args.channel.clone(), data: Some(data) };
    let mut tally = Tally::default();
    if let Some(data) = &args.message {
        let request = PublishRequest { messages: vec![message(data.clone())] };
        tally.add(&client.publish(&request).await?);
    } else {
        if io::stdin().is_terminal() {
            eprintln!("each line is published to {}; end with Ctrl-D", escape(&args.channel));
        }
        let lines = read_lines();
        while let Some(batch) = next_batch(&lines) {
            let messages: Vec<Message> = batch?.into_iter().map(message).collect();
            tally.add(&client.publish(&PublishRequest { messages }).await?);
        }
    }
    Ok(in_json(json, &tally).unwrap_or_else(|| {
        let messages = many(tally.messages, "message");
        let each = if tally.messages == 1 { "" } else { " in all" };
        let here = if tally.on_this_node { " on this node" } else { "" };
        Report::new(format!("{messages} queued for {}{here}{each}\n", many(tally.readers, "reader")))
    }))
}

/// The result of `publish`.
#[derive(Default, serde::Serialize)]
struct Tally {
    messages: u64,
    /// A message to ten readers counts ten times.
    readers: u64,
    /// Whether these are only the readers on this node of a cluster.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    on_this_node: bool,
}

impl Tally {
    fn add(&mut self, published: &Published) {
        self.messages += published.published.len() as u64;
        for message in &published.published {
            self.readers += message.readers.or(message.readers_here).unwrap_or_default();
            self.on_this_node |= message.readers.is_none();
        }
    }
}

/// Reads lines on a separate thread, so that the terminal never waits for the daemon.
fn read_lines() -> Receiver<io::Result<String>> {
    let (sender, lines) = sync_channel(LINES_PER_REQUEST);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Waits for the next line, and returns it with those that have already arrived; `None` at the end of the input.
fn next_batch(lines: &Receiver<io::Result<String>>) -> Option<Result<Vec<String>, Complaint>> {
    let unread = |error: io::Error| Complaint {
        message: format!("cannot read messages from standard input: {error}"),
        hint: None,
        exit: Exit::Failed,
    };
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut next = lines.recv().ok();
    while let Some(line) = next {
        match line {
            Ok(line) => {
                bytes += line.len();
                batch.push(line);
            }
            Err(error) => return Some(Err(unread(error))),
        }
        if batch.len() == LINES_PER_REQUEST || bytes > BYTES_PER_REQUEST {
            break;
        }
        next = lines.try_recv().ok();
    }
    (!batch.is_empty()).then_some(Ok(batch))
}

/// Runs `philotectl log-level`.
pub(super) async fn log_level(client: &Client, args: &LevelArgs, json: bool) -> Result<Report, Complaint> {
    let answer = match args.level {
        Some(level) => client.set_log_level(level).await?,
        None => client.log_level().await?,
    };
    Ok(in_json(json, &answer).unwrap_or_else(|| {
        let name = |level: Level| format!("{level:?}").to_lowercase();
        let settings = if answer.level == answer.configured {
            String::new()
        } else {
            format!("; the setting is {}", name(answer.configured))
        };
        Report::new(format!("{}{settings}\n", name(answer.level)))
    }))
}
