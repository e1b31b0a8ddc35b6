//! Makes one list of those of several nodes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::de::DeserializeOwned;

use crate::admin::api::{
    Channel, ChannelQuery, ChannelSort, Channels, ClosedConnection, ClosedConnections, ClosedQuery,
    ClosedSort, Connection, ConnectionQuery, ConnectionSort, Connections, DEFAULT_ROWS, ExplainQuery,
    Explanation, MAX_ROWS, Timestamp,
};
use crate::cluster::steering::Rows;
use crate::daemon::explain::sort;
use crate::message::MessageId;
use crate::orders::Coverage;

/// A list that nodes send each other. `Q` is its query.
pub(super) trait Mergeable<Q>: Rows + DeserializeOwned {
    /// Returns the query of each node's part.
    fn widened(query: &Q) -> Q;
    /// Notes the node of each row.
    fn name(&mut self, _node: &str) {}
    /// Adds the list of another node.
    fn merge(&mut self, other: Self);
    /// Sorts the rows, and keeps those that the query wants.
    fn finish(&mut self, query: &Q);
    /// Says which nodes the list is from.
    fn set_coverage(&mut self, coverage: Option<Coverage>);
}

fn limit(limit: Option<usize>) -> usize {
    limit.unwrap_or(DEFAULT_ROWS).min(MAX_ROWS)
}

fn micros(at: Timestamp) -> u64 {
    let since = at.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl Rows for Connections {
    fn rows(&self) -> usize {
        self.connections.len()
    }

    fn keep(&mut self, rows: usize) {
        self.connections.truncate(rows);
    }
}

impl Mergeable<ConnectionQuery> for Connections {
    fn widened(query: &ConnectionQuery) -> ConnectionQuery {
        query.clone()
    }

    fn name(&mut self, node: &str) {
        self.connections.iter_mut().for_each(|row| row.node = Some(node.to_owned()));
    }

    fn merge(&mut self, other: Self) {
        self.matched += other.matched;
        self.connections.extend(other.connections);
    }

    fn finish(&mut self, query: &ConnectionQuery) {
        let rank = |row: &Connection| match query.sort {
            ConnectionSort::Newest => micros(row.connected_at),
            ConnectionSort::Oldest => u64::MAX - micros(row.connected_at),
            ConnectionSort::Idle => row.idle_seconds,
            ConnectionSort::Queued => row.queued_bytes,
            ConnectionSort::GreatestQueue => row.greatest_queue,
            ConnectionSort::MessagesIn => row.messages_in,
            ConnectionSort::MessagesOut => row.messages_out,
            ConnectionSort::BytesIn => row.bytes_in,
            ConnectionSort::BytesOut => row.bytes_out,
        };
        self.connections.sort_by_key(|row| Reverse(rank(row)));
        self.keep(limit(query.limit));
    }

    fn set_coverage(&mut self, coverage: Option<Coverage>) {
        self.nodes = coverage;
    }
}

impl Rows for ClosedConnections {
    fn rows(&self) -> usize {
        self.connections.len()
    }

    fn keep(&mut self, rows: usize) {
        self.connections.truncate(rows);
    }
}

impl Mergeable<ClosedQuery> for ClosedConnections {
    fn widened(query: &ClosedQuery) -> ClosedQuery {
        query.clone()
    }

    fn name(&mut self, node: &str) {
        self.connections.iter_mut().for_each(|row| row.node = Some(node.to_owned()));
    }

    fn merge(&mut self, other: Self) {
        self.matched += other.matched;
        self.connections.extend(other.connections);
        for reason in other.reasons {
            match self.reasons.iter_mut().find(|known| known.reason == reason.reason) {
                Some(known) => {
                    known.total += reason.total;
                    known.remembered += reason.remembered;
                }
                None => self.reasons.push(reason),
            }
        }
    }

    fn finish(&mut self, query: &ClosedQuery) {
        let rank = |row: &ClosedConnection| match query.sort {
            ClosedSort::Newest => micros(row.at),
            ClosedSort::Oldest => u64::MAX - micros(row.at),
            ClosedSort::Duration => (row.duration_seconds * 1e6) as u64,
            ClosedSort::GreatestQueue => row.greatest_queue,
            ClosedSort::MessagesIn => row.messages_in,
            ClosedSort::MessagesOut => row.messages_out,
            ClosedSort::BytesIn => row.bytes_in,
            ClosedSort::BytesOut => row.bytes_out,
        };
        self.connections.sort_by_key(|row| Reverse(rank(row)));
        self.keep(limit(query.limit));
    }

    fn set_coverage(&mut self, coverage: Option<Coverage>) {
        self.nodes = coverage;
    }
}

impl Rows for Explanation {
    fn rows(&self) -> usize {
        self.connections.len()
    }

    /// Keeps the newest, which are the last.
    fn keep(&mut self, rows: usize) {
        self.connections.drain(..self.connections.len().saturating_sub(rows));
    }
}

impl Mergeable<ExplainQuery> for Explanation {
    fn widened(query: &ExplainQuery) -> ExplainQuery {
        query.clone()
    }

    fn name(&mut self, node: &str) {
        self.connections.iter_mut().for_each(|row| row.node = Some(node.to_owned()));
    }

    fn merge(&mut self, other: Self) {
        self.matched += other.matched;
        self.connections.extend(other.connections);
        self.since = Timestamp(self.since.0.max(other.since.0));
        self.complete &= other.complete;
        match (&mut self.history, other.history) {
            (Some(own), Some(other)) => {
                // The nodes are not all as far.
                for (own, other) in [(&mut own.last, other.last), (&mut own.before_start, other.before_start)]
                {
                    let [here, there] = [&*own, &other].map(|id| MessageId::parse(id));
                    if here.epoch == there.epoch && here.number < there.number {
                        *own = other;
                    }
                }
            }
            (Some(_), None) => {}
            // A node without readers of the channel keeps it all the same, if the cluster has a log.
            (own @ None, other) => *own = other,
        }
    }

    fn finish(&mut self, _: &ExplainQuery) {
        sort(&mut self.connections);
    }

    fn set_coverage(&mut self, coverage: Option<Coverage>) {
        self.nodes = coverage;
    }
}

impl Rows for Channels {
    fn rows(&self) -> usize {
        self.channels.len()
    }

    fn keep(&mut self, rows: usize) {
        self.channels.truncate(rows);
    }
}

impl Mergeable<ChannelQuery> for Channels {
    /// The first channels of all nodes together may be among the last of each.
    fn widened(query: &ChannelQuery) -> ChannelQuery {
        ChannelQuery { limit: Some(MAX_ROWS), ..query.clone() }
    }

    /// `matched` is the number of different channels, and at least that if a node has more than [`MAX_ROWS`].
    fn merge(&mut self, other: Self) {
        let most = self.matched.max(other.matched);
        let mut rows: BTreeMap<String, Channel> =
            self.channels.drain(..).map(|row| (row.channel.clone(), row)).collect();
        for row in other.channels {
            match rows.get_mut(&row.channel) {
                Some(known) => {
                    known.readers += row.readers;
                    known.writers += row.writers;
                    known.messages = known.messages.max(row.messages);
                    known.messages_per_second = known.messages_per_second.max(row.messages_per_second);
                }
                None => drop(rows.insert(row.channel.clone(), row)),
            }
        }
        self.channels.extend(rows.into_values());
        self.matched = most.max(self.channels.len() as u64);
    }

    fn finish(&mut self, query: &ChannelQuery) {
        let rank = |row: &Channel| match query.sort {
            ChannelSort::Readers => row.readers,
            ChannelSort::Rate => (row.messages_per_second * 1000.0) as u64,
            ChannelSort::Messages => row.messages,
        };
        self.channels.sort_by_key(|row| Reverse(rank(row)));
        self.keep(limit(query.limit));
    }

    fn set_coverage(&mut self, coverage: Option<Coverage>) {
        self.nodes = coverage;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::ReasonCount;

    fn channel(name: &str, readers: u64, messages: u64) -> Channel {
        Channel {
            channel: name.to_owned(),
            readers,
            writers: 1,
            messages,
            messages_per_second: messages as f64,
        }
    }

    #[test]
    fn a_channel_of_two_nodes_is_one_row() {
        let list =
            |channels: Vec<Channel>| Channels { matched: channels.len() as u64, channels, nodes: None };
        let mut all = list(vec![channel("x", 10, 5), channel("z", 8, 7)]);
        all.merge(list(vec![channel("y", 9, 1), channel("z", 8, 7)]));
        let query = ChannelQuery { limit: Some(2), ..ChannelQuery::default() };
        all.finish(&query);
        assert_eq!(all.matched, 3);
        let rows: Vec<_> =
            all.channels.iter().map(|row| (&*row.channel, row.readers, row.messages)).collect();
        assert_eq!(rows, [("z", 16, 7), ("x", 10, 5)], "the first of all is the second of each");
    }

    #[test]
    fn rows_of_all_nodes_are_sorted_and_say_their_node() {
        let row = |at: u64| ClosedConnection {
            at: Timestamp::from_unix(at),
            ending: crate::admin::api::Ending::Refused,
            node: None,
            id: None,
            subject: None,
            subject_verified: false,
            address: "192.0.2.1:1".parse().unwrap(),
            reason: "r".into(),
            code: 401,
            message: String::new(),
            duration_seconds: 0.0,
            messages_in: 0,
            messages_out: 0,
            bytes_in: 0,
            bytes_out: 0,
            greatest_queue: 0,
        };
        let list = |rows: Vec<ClosedConnection>| ClosedConnections {
            matched: 10,
            connections: rows,
            reasons: vec![ReasonCount { reason: "r".into(), total: 3, remembered: 2 }],
            nodes: None,
        };
        let mut all = list(vec![row(5), row(1)]);
        all.name("a");
        let mut other = list(vec![row(7), row(3)]);
        other.name("b");
        all.merge(other);
        let query = ClosedQuery { limit: Some(3), ..ClosedQuery::default() };
        all.finish(&query);
        let nodes: Vec<_> = all.connections.iter().map(|row| row.node.as_deref().unwrap()).collect();
        assert_eq!((nodes, all.matched), (vec!["b", "a", "b"], 20));
        assert_eq!((all.reasons.len(), all.reasons[0].total, all.reasons[0].remembered), (1, 6, 4));
    }
}
