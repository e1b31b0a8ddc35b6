//! The lists: open and closed connections, channels, banned subjects.

use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};

use super::cluster::{done_on, listed_from};
use super::complete;
use super::print::{bytes, count, in_json, list, many, short_span};
use super::table::{Column, Table};
use super::{Complaint, Exit, Report};
use crate::admin::api::{
    Address, ChannelQuery, ChannelSort, Channels, ClosedConnection, ClosedConnections, ClosedQuery,
    ClosedSort, Connection, ConnectionQuery, ConnectionSort, Connections, DEFAULT_ROWS, Ending, IdPrefix,
    MAX_ROWS, RefusedQuery, RefusedSubjects, Timestamp,
};
use crate::admin::client::Client;
use crate::escape::{self, escape};
use crate::terminal::{Style, Tone};

/// The digits of an id that a terminal shows. They are enough to tell connections apart, and every command accepts
/// them.
const SHORT_ID: usize = 8;

/// The options of every list.
#[derive(Args, Debug)]
pub(super) struct Rows {
    /// The most rows [default: 100 on a terminal, otherwise 10000]
    #[arg(long, value_name = "N", value_parser = rows)]
    limit: Option<usize>,
    /// In a cluster, list this node only
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    pub(super) watch: Watch,
}

/// The option to repeat a command.
#[derive(Args, Debug)]
pub(super) struct Watch {
    /// Repeat the command at this interval until interrupted
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) watch: Option<Duration>,
}

impl Rows {
    fn limit(&self, style: Style) -> Option<usize> {
        Some(self.limit.unwrap_or(if style.terminal { DEFAULT_ROWS } else { MAX_ROWS }))
    }
}

fn rows(text: &str) -> Result<usize, String> {
    let fits = text.parse().ok().filter(|rows| (1..=MAX_ROWS).contains(rows));
    fits.ok_or_else(|| format!("give a number from 1 to {MAX_ROWS}"))
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.strip_suffix('s').unwrap_or(text).parse().ok();
    let sensible = seconds.filter(|seconds| (0.1..=86_400.0).contains(seconds));
    sensible.map(Duration::from_secs_f64).ok_or_else(|| "give a number of seconds, 0.1 at least".to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum State {
    /// Open connections.
    Open,
    /// Closed connections and rejected requests, with the reason.
    Closed,
}

#[derive(Args, Debug)]
pub(super) struct ConnectionsArgs {
    /// Which connections to list [default: open; closed with --reason]
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Show only the connection whose id starts with this
    #[arg(long, add = complete::connections())]
    id: Option<IdPrefix>,
    /// Show only connections that read or may write this channel
    #[arg(long, add = complete::channels())]
    channel: Option<String>,
    /// Show only connections of this subject
    #[arg(long)]
    subject: Option<String>,
    /// Show only connections from this address
    #[arg(long)]
    address: Option<Address>,
    /// Show only connections closed for this reason, such as slow_consumer
    #[arg(long)]
    reason: Option<String>,
    /// The order, greatest first [default: newest]
    #[arg(long, value_name = "BY", value_parser = sorts())]
    sort: Option<String>,
    #[command(flatten)]
    pub(super) rows: Rows,
}

/// The orders of open and closed connections, each once.
fn sorts() -> Vec<clap::builder::PossibleValue> {
    let mut all: Vec<_> =
        ConnectionSort::value_variants().iter().filter_map(ValueEnum::to_possible_value).collect();
    all.extend(ClosedSort::Duration.to_possible_value());
    all
}

#[derive(Args, Debug)]
pub(super) struct ChannelsArgs {
    /// Show only channels whose name starts with this
    #[arg(long)]
    prefix: Option<String>,
    /// The order, greatest first
    #[arg(long, value_name = "BY", value_enum, default_value_t)]
    sort: ChannelSort,
    #[command(flatten)]
    pub(super) rows: Rows,
}

#[derive(Args, Debug)]
pub(super) struct RefusedArgs {
    /// Lift the ban of this subject
    #[arg(long, value_name = "SUBJECT", add = complete::refused(), conflicts_with = "watch")]
    remove: Option<String>,
    /// In a cluster, list what this node knows, without asking the others
    #[arg(long, conflicts_with = "remove")]
    local: bool,
    #[command(flatten)]
    pub(super) watch: Watch,
}

/// Runs `philotectl connections`.
pub(super) async fn connections(
    client: &Client,
    args: &ConnectionsArgs,
    json: bool,
    style: Style,
) -> Result<Report, Complaint> {
    let usage = |message: String| Complaint {
        message,
        hint: Some("see: philotectl connections --help".into()),
        exit: Exit::Usage,
    };
    let implied = if args.reason.is_some() { State::Closed } else { State::Open };
    let sort = args.sort.as_deref().unwrap_or("newest");
    let limit = args.rows.limit(style);
    match args.state.unwrap_or(implied) {
        State::Open => {
            if args.reason.is_some() {
                return Err(usage("open connections have no --reason: use --state closed".into()));
            }
            let query = ConnectionQuery {
                id: args.id.clone(),
                channel: args.channel.clone(),
                subject: args.subject.clone(),
                address: args.address,
                sort: ConnectionSort::from_str(sort, false)
                    .map_err(|_| usage(format!("open connections are not sorted by {sort}")))?,
                limit,
                local: args.rows.local,
            };
            let answer = client.connections(&query).await?;
            let report = in_json(json, &answer).unwrap_or_else(|| open(&answer, style));
            Ok(listed_from(report, answer.nodes.as_ref()))
        }
        State::Closed => {
            if args.channel.is_some() {
                return Err(usage("closed connections have no --channel".into()));
            }
            let query = ClosedQuery {
                id: args.id.clone(),
                subject: args.subject.clone(),
                address: args.address,
                reason: args.reason.clone(),
                sort: ClosedSort::from_str(sort, false)
                    .map_err(|_| usage(format!("closed connections are not sorted by {sort}")))?,
                limit,
                local: args.rows.local,
            };
            let answer = client.closed(&query).await?;
            let report = in_json(json, &answer).unwrap_or_else(|| closed(&answer, style));
            Ok(listed_from(report, answer.nodes.as_ref()))
        }
    }
}

const NODE: Column = Column::whole("NODE");

/// The columns of a list, and the node if it is of all nodes of a cluster. It is the last, so that the others have the same
/// place in every output.
fn columns(columns: &[Column], with_node: bool) -> Vec<Column> {
    columns.iter().copied().chain(with_node.then_some(NODE)).collect()
}

const OPEN: [Column; 12] = [
    Column::whole("ID"),
    Column::text("SUBJECT"),
    Column::whole("ADDRESS").spare(1),
    Column::figure("AGE"),
    Column::figure("IDLE").spare(3),
    Column::figure("QUEUED"),
    Column::figure("MOST QUEUED").spare(4),
    Column::figure("IN"),
    Column::figure("OUT"),
    Column::text("CHANNELS").spare(2),
    Column::whole("COMPRESSED").spare(5),
    Column::whole("TRANSPORT").spare(6),
];

fn open(answer: &Connections, style: Style) -> Report {
    let one = style.terminal && answer.matched == 1;
    let columns = columns(&OPEN, answer.connections.iter().any(|row| row.node.is_some()));
    let mut table = Table::new(&columns);
    for connection in &answer.connections {
        let row = vec![
            id(connection.id, style, one),
            connection.subject.clone().unwrap_or_default(),
            escape::address(connection.address),
            seconds_cell(style, connection.age_seconds),
            seconds_cell(style, connection.idle_seconds),
            bytes(style, connection.queued_bytes),
            count(style, connection.greatest_queue),
            count(style, connection.messages_in),
            count(style, connection.messages_out),
            channels_cell(connection),
            if connection.compression { "yes" } else { "no" }.to_owned(),
            connection.transport.clone(),
        ];
        table.add(row.into_iter().chain(connection.node.clone()).collect());
    }
    let text = if one { table.render_one(style) } else { table.render(style) };
    listed(text, answer.connections.len(), answer.matched, "connection", style)
}

/// Formats `reads chat, news, 7 more; writes chat`, or the reason if the connection is being closed.
fn channels_cell(connection: &Connection) -> String {
    if let Some(reason) = &connection.closing {
        return format!("(closing: {reason})");
    }
    let names = |names: &[String], count: u64| match count - (names.len() as u64).min(count) {
        0 => names.join(", "),
        more => format!("{}, {more} more", names.join(", ")),
    };
    let read = names(&connection.read, connection.read_count);
    // What the token allows by the beginning of a name comes last.
    let writes = [&connection.write[..], &connection.may.write[..]].concat();
    if connection.read == writes {
        return read;
    }
    let write = names(&writes, connection.write_count + connection.may.write.len() as u64);
    match (read.is_empty(), write.is_empty()) {
        (false, true) => format!("reads {read}"),
        (true, false) => format!("writes {write}"),
        (true, true) => String::new(),
        (false, false) => format!("reads {read}; writes {write}"),
    }
}

const CLOSED: [Column; 13] = [
    Column::figure("AGO"),
    Column::whole("ID").spare(4),
    Column::text("SUBJECT"),
    Column::whole("ADDRESS").spare(5),
    Column::whole("REASON"),
    Column::figure("CODE"),
    Column::figure("OPEN").spare(3),
    Column::figure("MOST QUEUED").spare(6),
    Column::figure("IN").spare(8),
    Column::figure("OUT").spare(7),
    Column::figure("BYTES IN").spare(10),
    Column::figure("BYTES OUT").spare(9),
    Column::text("MESSAGE").at_least(24),
];

fn closed(answer: &ClosedConnections, style: Style) -> Report {
    let one = style.terminal && answer.matched == 1;
    let columns = columns(&CLOSED, answer.connections.iter().any(|row| row.node.is_some()));
    let mut table = Table::new(&columns);
    for ended in &answer.connections {
        let open = ended.ending == Ending::Closed;
        let figure = |number: String| if open { number } else { String::new() };
        let row = vec![
            when(ended.at, style, one),
            ended.id.map(|found| id(found, style, one)).unwrap_or_default(),
            claimed(ended, style),
            escape::address(ended.address),
            ended.reason.clone(),
            ended.code.to_string(),
            figure(duration_cell(style, ended.duration_seconds)),
            figure(count(style, ended.greatest_queue)),
            figure(count(style, ended.messages_in)),
            figure(count(style, ended.messages_out)),
            figure(bytes(style, ended.bytes_in)),
            figure(bytes(style, ended.bytes_out)),
            ended.message.clone(),
        ];
        table.add(row.into_iter().chain(ended.node.clone()).collect());
    }
    let text = if one { table.render_one(style) } else { table.render(style) };
    let mut report = listed(text, answer.connections.len(), answer.matched, "connection", style);
    let forgotten: Vec<String> = answer
        .reasons
        .iter()
        .filter(|reason| reason.total > reason.remembered)
        .map(|reason| format!("{} {}", count(style, reason.total - reason.remembered), reason.reason))
        .collect();
    if style.terminal && !forgotten.is_empty() {
        let line = format!("no longer remembered, only counted: {}", list(&forgotten));
        report.text += &(style.paint(Tone::Faint, &line) + "\n");
    }
    report
}

/// Formats the subject, in parentheses if the token was not valid.
fn claimed(ended: &ClosedConnection, style: Style) -> String {
    match &ended.subject {
        Some(subject) if style.terminal && !ended.subject_verified => format!("({subject})"),
        Some(subject) => subject.clone(),
        None => String::new(),
    }
}

/// Runs `philotectl channels`.
pub(super) async fn channels(
    client: &Client,
    args: &ChannelsArgs,
    json: bool,
    style: Style,
) -> Result<Report, Complaint> {
    let query = ChannelQuery {
        prefix: args.prefix.clone(),
        sort: args.sort,
        limit: args.rows.limit(style),
        local: args.rows.local,
    };
    let answer = client.channels(&query).await?;
    let report = in_json(json, &answer).unwrap_or_else(|| channel_table(&answer, style));
    Ok(listed_from(report, answer.nodes.as_ref()))
}

fn channel_table(answer: &Channels, style: Style) -> Report {
    const COLUMNS: [Column; 5] = [
        Column::text("CHANNEL"),
        Column::figure("READERS"),
        Column::figure("WRITERS"),
        Column::figure("MESSAGES"),
        Column::figure("PER SECOND"),
    ];
    let mut table = Table::new(&COLUMNS);
    for channel in &answer.channels {
        table.add(vec![
            channel.channel.clone(),
            count(style, channel.readers),
            count(style, channel.writers),
            count(style, channel.messages),
            format!("{:.1}", channel.messages_per_second),
        ]);
    }
    listed(table.render(style), answer.channels.len(), answer.matched, "channel", style)
}

/// Runs `philotectl refused`.
pub(super) async fn refused(
    client: &Client,
    args: &RefusedArgs,
    json: bool,
    style: Style,
) -> Result<Report, Complaint> {
    let Some(subject) = &args.remove else {
        let answer = client.refused(&RefusedQuery { local: args.local }).await?;
        let report = in_json(json, &answer).unwrap_or_else(|| refused_table(&answer, style));
        return Ok(listed_from(report, answer.nodes.as_ref()));
    };
    let answer = client.lift(subject).await?;
    let exit = if answer.matched == 0 { Exit::NothingMatched } else { Exit::Done };
    let report = in_json(json, &answer).unwrap_or_else(|| {
        let outcome = if answer.matched == 0 { "was not banned" } else { "is no longer banned" };
        Report::new(format!("{} {outcome}\n", escape(subject)))
    });
    Ok(done_on(Report { exit, ..report }, answer.nodes.as_ref()))
}

fn refused_table(answer: &RefusedSubjects, style: Style) -> Report {
    const COLUMNS: [Column; 2] = [Column::text("SUBJECT"), Column::whole("UNTIL")];
    let mut table = Table::new(&COLUMNS);
    for refused in &answer.refused {
        table.add(vec![refused.subject.clone(), refused.until.to_string()]);
    }
    let rows = answer.refused.len();
    listed(table.render(style), rows, rows as u64, "banned subject", style)
}

/// Adds how many rows are shown: below the list on a terminal; otherwise on standard error, and only if some are
/// missing.
fn listed(text: String, shown: usize, matched: u64, thing: &str, style: Style) -> Report {
    let footer = format!("showing {} of {}", count(style, shown as u64), {
        let number = count(style, matched);
        many(matched, thing).replacen(&matched.to_string(), &number, 1)
    });
    if style.terminal {
        return Report::new(text + &style.paint(Tone::Faint, &footer) + "\n");
    }
    let aside = (matched > shown as u64).then_some(footer);
    Report { aside, ..Report::new(text) }
}

fn id(id: uuid::Uuid, style: Style, whole: bool) -> String {
    let mut text = id.to_string();
    if style.terminal && !whole {
        text.truncate(SHORT_ID);
    }
    text
}

fn seconds_cell(style: Style, seconds: u64) -> String {
    if style.terminal { short_span(Duration::from_secs(seconds)) } else { seconds.to_string() }
}

fn duration_cell(style: Style, seconds: f64) -> String {
    if style.terminal { short_span(Duration::from_secs_f64(seconds.max(0.0))) } else { seconds.to_string() }
}

/// Formats a time: how long ago on a terminal, otherwise exactly.
fn when(at: Timestamp, style: Style, whole: bool) -> String {
    let ago = SystemTime::now().duration_since(at.0).unwrap_or_default();
    match (style.terminal, whole) {
        (true, false) => short_span(ago),
        (true, true) => format!("{} ({at})", short_span(ago)),
        (false, _) => at.to_string(),
    }
}
