//! The three lists: their queries and their rows.

use std::time::{Duration, SystemTime};

use clap::ValueEnum;

use super::super::print::{bytes, count, short_span};
use crate::admin::api::{
    Address, Channel, ChannelQuery, ChannelSort, ClosedConnection, ClosedQuery, ClosedSort, Connection,
    ConnectionQuery, ConnectionSort, DisconnectRequest,
};
use crate::escape::escape_cell;
use crate::terminal::Style;

/// The rows of a query, which are more than a screen shows.
const ROWS: usize = 200;

/// The digits of an id that are shown. They are enough to tell connections apart.
const SHORT_ID: usize = 8;

const TERMINAL: Style = Style { terminal: true, colour: false };

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Channels,
    Connections,
    Closed,
}

pub(super) const KINDS: [Kind; 3] = [Kind::Channels, Kind::Connections, Kind::Closed];

/// A column: its title, its width (0 for the rest of the line) and whether it contains numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column(pub(super) &'static str, pub(super) u16, pub(super) bool);

impl Kind {
    pub(super) fn title(self) -> &'static str {
        match self {
            Kind::Channels => "Channels",
            Kind::Connections => "Connections",
            Kind::Closed => "Closed and refused",
        }
    }

    /// Returns its columns, which fit into 80 characters.
    pub(super) fn columns(self) -> &'static [Column] {
        match self {
            Kind::Channels => &[
                Column("CHANNEL", 0, false),
                Column("READERS", 9, true),
                Column("WRITERS", 9, true),
                Column("MESSAGES", 12, true),
                Column("PER SECOND", 11, true),
            ],
            Kind::Connections => &[
                Column("ID", 8, false),
                Column("SUBJECT", 0, false),
                Column("ADDRESS", 21, false),
                Column("AGE", 6, true),
                Column("QUEUED", 9, true),
                Column("IN", 7, true),
                Column("OUT", 9, true),
            ],
            Kind::Closed => &[
                Column("AGO", 6, true),
                Column("SUBJECT", 10, false),
                Column("ADDRESS", 15, false),
                Column("REASON", 15, false),
                Column("CODE", 4, true),
                Column("MESSAGE", 0, false),
            ],
        }
    }

    /// Returns the names of its orders.
    pub(super) fn sorts(self) -> Vec<String> {
        fn names<T: ValueEnum>() -> Vec<String> {
            let name = |value: &T| value.to_possible_value().map(|name| name.get_name().replace('_', " "));
            T::value_variants().iter().filter_map(name).collect()
        }
        match self {
            Kind::Channels => names::<ChannelSort>(),
            Kind::Connections => names::<ConnectionSort>(),
            Kind::Closed => names::<ClosedSort>(),
        }
    }

    /// Returns the index of its default order: the busiest channels, the slowest connections, the last closed.
    pub(super) fn default_sort(self) -> usize {
        let place = match self {
            Kind::Channels => {
                ChannelSort::value_variants().iter().position(|sort| *sort == ChannelSort::Rate)
            }
            Kind::Connections => {
                ConnectionSort::value_variants().iter().position(|sort| *sort == ConnectionSort::Queued)
            }
            Kind::Closed => ClosedSort::value_variants().iter().position(|sort| *sort == ClosedSort::Newest),
        };
        place.unwrap_or_default()
    }

    /// Returns the help for its filter.
    pub(super) fn filter_help(self) -> &'static str {
        match self {
            Kind::Channels => "the start of the name",
            Kind::Connections => "SUBJECT, ADDRESS, channel=C, id=ID",
            Kind::Closed => "SUBJECT, ADDRESS, reason=R, id=ID",
        }
    }

    /// Checks a filter.
    pub(super) fn check_filter(self, text: &str) -> Result<(), String> {
        match self {
            Kind::Channels => Ok(()),
            Kind::Connections => connection_query(0, text).map(drop),
            Kind::Closed => closed_query(0, text).map(drop),
        }
    }

    /// Returns the request that disconnects a row; `None` in the list of closed connections.
    pub(super) fn disconnect(self, row: &Row) -> Option<DisconnectRequest> {
        let request = DisconnectRequest { dry_run: true, local: true, ..DisconnectRequest::default() };
        match self {
            Kind::Channels => Some(DisconnectRequest { channel: Some(row.key.clone()), ..request }),
            Kind::Connections => Some(DisconnectRequest { ids: vec![row.key.parse().ok()?], ..request }),
            Kind::Closed => None,
        }
    }
}

/// A row: its key, and its cells in the order of the columns, escaped.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) key: String,
    pub(super) cells: Vec<String>,
}

fn chosen<T: ValueEnum + Copy + Default>(place: usize) -> T {
    T::value_variants().get(place).copied().unwrap_or_default()
}

pub(super) fn channel_query(sort: usize, filter: &str) -> ChannelQuery {
    let prefix = (!filter.is_empty()).then(|| filter.to_owned());
    ChannelQuery { prefix, sort: chosen(sort), limit: Some(ROWS), local: true }
}

pub(super) fn connection_query(sort: usize, filter: &str) -> Result<ConnectionQuery, String> {
    let mut query = ConnectionQuery {
        sort: chosen::<ConnectionSort>(sort),
        limit: Some(ROWS),
        local: true,
        ..ConnectionQuery::default()
    };
    match read(filter)? {
        None => {}
        Some(Word::Subject(subject)) => query.subject = Some(subject),
        Some(Word::Address(address)) => query.address = Some(address),
        Some(Word::Named("id", value)) => query.id = Some(value.parse().map_err(str::to_owned)?),
        Some(Word::Named("channel", value)) => query.channel = Some(value.to_owned()),
        Some(Word::Named(name, _)) => return Err(format!("connections are not filtered by {name}")),
    }
    Ok(query)
}

pub(super) fn closed_query(sort: usize, filter: &str) -> Result<ClosedQuery, String> {
    let mut query = ClosedQuery {
        sort: chosen::<ClosedSort>(sort),
        limit: Some(ROWS),
        local: true,
        ..ClosedQuery::default()
    };
    match read(filter)? {
        None => {}
        Some(Word::Subject(subject)) => query.subject = Some(subject),
        Some(Word::Address(address)) => query.address = Some(address),
        Some(Word::Named("id", value)) => query.id = Some(value.parse().map_err(str::to_owned)?),
        Some(Word::Named("reason", value)) => query.reason = Some(value.to_owned()),
        Some(Word::Named(name, _)) => return Err(format!("closed connections are not filtered by {name}")),
    }
    Ok(query)
}

enum Word<'a> {
    Subject(String),
    Address(Address),
    Named(&'a str, &'a str),
}

/// Parses a filter: `NAME=VALUE` with a name that a list knows, otherwise an address, otherwise a subject.
fn read(filter: &str) -> Result<Option<Word<'_>>, String> {
    let filter = filter.trim();
    if filter.is_empty() {
        return Ok(None);
    }
    Ok(Some(match filter.split_once('=') {
        Some(("subject", value)) => Word::Subject(value.to_owned()),
        Some(("address", value)) => Word::Address(value.parse().map_err(str::to_owned)?),
        Some((name @ ("id" | "channel" | "reason"), value)) => Word::Named(name, value),
        _ => filter.parse().map_or_else(|_| Word::Subject(filter.to_owned()), Word::Address),
    }))
}

pub(super) fn channel_row(channel: &Channel) -> Row {
    Row {
        key: channel.channel.clone(),
        cells: vec![
            escape_cell(&channel.channel),
            count(TERMINAL, channel.readers),
            count(TERMINAL, channel.writers),
            count(TERMINAL, channel.messages),
            format!("{:.1}", channel.messages_per_second),
        ],
    }
}

pub(super) fn connection_row(connection: &Connection) -> Row {
    let id = connection.id.to_string();
    let subject = match &connection.closing {
        Some(reason) => format!("(closing: {reason})"),
        None => connection.subject.clone().unwrap_or_default(),
    };
    Row {
        cells: vec![
            id[..SHORT_ID].to_owned(),
            escape_cell(&subject),
            crate::escape::address(connection.address),
            short_span(Duration::from_secs(connection.age_seconds)),
            bytes(TERMINAL, connection.queued_bytes),
            count(TERMINAL, connection.messages_in),
            count(TERMINAL, connection.messages_out),
        ],
        key: id,
    }
}

pub(super) fn closed_row(ended: &ClosedConnection) -> Row {
    let ago = SystemTime::now().duration_since(ended.at.0).unwrap_or_default();
    let subject = match &ended.subject {
        Some(subject) if !ended.subject_verified => format!("({subject})"),
        Some(subject) => subject.clone(),
        None => String::new(),
    };
    Row {
        // A rejected request has no id; its port distinguishes it from others in the same second.
        key: format!("{} {}", ended.at, ended.address),
        cells: vec![
            short_span(ago),
            escape_cell(&subject),
            ended.address.ip().to_string(),
            escape_cell(&ended.reason),
            ended.code.to_string(),
            escape_cell(&ended.message),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_subject_an_address_or_a_named_value() {
        let query = |text: &str| connection_query(0, text);
        assert_eq!(query(" ").unwrap().subject, None);
        assert_eq!(query("alice").unwrap().subject.as_deref(), Some("alice"));
        assert_eq!(query("a=b").unwrap().subject.as_deref(), Some("a=b"));
        assert_eq!(query("192.0.2.7:80").unwrap().address, Some("192.0.2.7:80".parse().unwrap()));
        assert_eq!(query("channel=a=b").unwrap().channel.as_deref(), Some("a=b"));
        assert_eq!(query("id=5f0c").unwrap().id, Some("5f0c".parse().unwrap()));
        for (text, message) in [
            ("id=alice", "give a connection's id, or the start of one"),
            ("reason=origin", "connections are not filtered by reason"),
            ("address=home", "give an address such as 192.0.2.7, 192.0.2.7:51234 or 2001:db8::7"),
        ] {
            assert_eq!(query(text).unwrap_err(), message);
        }
        assert_eq!(closed_query(0, "reason=origin").unwrap().reason.as_deref(), Some("origin"));
        assert!(closed_query(0, "channel=c").is_err());
    }

    #[test]
    fn the_default_orders_show_what_needs_attention() {
        let names = KINDS.map(|kind| kind.sorts()[kind.default_sort()].clone());
        assert_eq!(names, ["rate", "queued", "newest"]);
    }
}
