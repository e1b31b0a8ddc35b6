//! The lists of connections, closed connections and channels. Filtering and sorting happen in place, and only the shown
//! rows are copied.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::{Duration, SystemTime};

use crate::admin::api::{
    self, Channel, ChannelQuery, ChannelSort, Channels, ClosedConnection, ClosedConnections, ClosedQuery,
    ClosedSort, Connection, ConnectionQuery, ConnectionSort, Connections, DEFAULT_ROWS, Ending, MAX_NAMES,
    MAX_ROWS, Timestamp,
};
use crate::hub;
use crate::log::ClosedRecord;
use crate::message::{ChannelName, ChannelPatterns};
use crate::server::Server;
use crate::server::ops::list::{ConnectionFilter, count_writers, each_channel, each_connection};
use crate::token::NewMay;

/// Selects the `limit` items of highest rank.
struct Top<T> {
    limit: usize,
    heap: BinaryHeap<Reverse<Ranked<T>>>,
    offered: u64,
}

/// An item with its rank. Of items with the same rank, the one offered first counts as higher.
struct Ranked<T> {
    rank: (u64, Reverse<u64>),
    item: T,
}

impl<T> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl<T> Eq for Ranked<T> {}

impl<T> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank)
    }
}

impl<T> Top<T> {
    fn new(limit: Option<usize>) -> Top<T> {
        Top { limit: limit.unwrap_or(DEFAULT_ROWS).min(MAX_ROWS), heap: BinaryHeap::new(), offered: 0 }
    }

    /// Counts an item, and keeps it if it is among the highest so far.
    fn offer(&mut self, rank: u64, item: impl FnOnce() -> T) {
        let rank = (rank, Reverse(self.offered));
        self.offered += 1;
        if self.heap.len() < self.limit {
            self.heap.push(Reverse(Ranked { rank, item: item() }));
        } else if let Some(mut least) = self.heap.peek_mut()
            && least.0.rank < rank
        {
            *least = Reverse(Ranked { rank, item: item() });
        }
    }

    /// Returns the items, highest first.
    fn take(self) -> impl Iterator<Item = T> {
        self.heap.into_sorted_vec().into_iter().map(|Reverse(ranked)| ranked.item)
    }
}

/// Returns the open connections that match a query.
pub(super) fn connections(server: &Server, query: &ConnectionQuery) -> Connections {
    let mut top = Top::new(query.limit);
    let rank = |connection: &hub::Connection| {
        let age = || connection.age().as_micros() as u64;
        let stats = || connection.stats();
        match query.sort {
            ConnectionSort::Newest => u64::MAX - age(),
            ConnectionSort::Oldest => age(),
            ConnectionSort::Idle => u64::from(u32::MAX - connection.last_message()),
            ConnectionSort::Queued => stats().out.queued_bytes as u64,
            ConnectionSort::GreatestQueue => stats().out.greatest_queue as u64,
            ConnectionSort::MessagesIn => stats().messages_in,
            ConnectionSort::MessagesOut => stats().out.messages,
            ConnectionSort::BytesIn => stats().bytes_in,
            ConnectionSort::BytesOut => stats().out.bytes,
        }
    };
    let filter = ConnectionFilter {
        id: query.id.as_ref(),
        channel: query.channel.as_deref(),
        subject: query.subject.as_deref(),
        address: query.address,
    };
    each_connection(server, &filter, |connection| top.offer(rank(connection), || connection.clone()));
    let whole = query.id.as_ref().and_then(api::IdPrefix::whole);
    let names = if whole.is_some() { usize::MAX } else { MAX_NAMES };
    let matched = top.offered;
    let connections = top.take().map(|connection| row(server, &connection, names)).collect();
    Connections { matched, connections, nodes: None }
}

fn row(server: &Server, connection: &hub::Connection, names: usize) -> Connection {
    let (claims, stats, age) = (connection.claims(), connection.stats(), connection.age());
    let mut reads = (Vec::new(), 0, Vec::new(), 0);
    connection.each_channel(|name, joined| {
        reads.1 += 1;
        if reads.0.len() < names {
            reads.0.push(name.as_str().to_owned());
        }
        if joined {
            reads.3 += 1;
            if reads.2.len() < names {
                reads.2.push(name.as_str().to_owned());
            }
        }
    });
    let (read, read_count, joined, joined_count) = reads;
    let patterns = |patterns: Option<&ChannelPatterns>| {
        patterns.iter().flat_map(|patterns| patterns.iter()).map(ToString::to_string).collect()
    };
    let may = claims
        .may()
        .map(|may| NewMay { read: patterns(may.read.as_ref()), write: patterns(may.write.as_ref()) });
    Connection {
        node: None,
        id: connection.id(),
        subject: claims.subject().map(str::to_owned),
        address: connection.address(),
        transport: connection.transport().name().to_owned(),
        connected_at: Timestamp(SystemTime::now() - age),
        age_seconds: age.as_secs(),
        idle_seconds: u64::from(server.now().saturating_sub(connection.last_message())),
        queued_messages: stats.out.queued_messages as u64,
        queued_bytes: stats.out.queued_bytes as u64,
        greatest_queue: stats.out.greatest_queue as u64,
        messages_in: stats.messages_in,
        messages_out: stats.out.messages,
        bytes_in: stats.bytes_in,
        bytes_out: stats.out.bytes,
        read,
        read_count,
        joined,
        joined_count,
        write: claims.write().iter().take(names).map(str::to_owned).collect(),
        write_count: claims.write().len() as u64,
        may: may.unwrap_or_default(),
        expires_at: claims.expires().map(Timestamp::from_unix),
        closing: connection.outbox.closing().map(|reason| reason.name().to_owned()),
        compression: connection.compresses(),
    }
}

/// Returns the closed connections and refused requests that match a query.
pub(super) fn closed(server: &Server, query: &ClosedQuery) -> ClosedConnections {
    let mut top = Top::new(query.limit);
    let matches = |ended: &ClosedRecord| {
        let is_id = |id: &api::IdPrefix| ended.connection.is_some_and(|connection| id.matches(&connection));
        query.id.as_ref().is_none_or(is_id)
            && query.reason.as_deref().is_none_or(|reason| reason == ended.reason)
            && query.subject.as_deref().is_none_or(|subject| ended.subject.as_deref() == Some(subject))
            && query.address.is_none_or(|address| address.matches(ended.address))
    };
    let rank = |ended: &ClosedRecord| {
        let since = || ended.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        match query.sort {
            ClosedSort::Newest => since(),
            ClosedSort::Oldest => u64::MAX - since(),
            ClosedSort::Duration => ended.duration.as_micros() as u64,
            ClosedSort::GreatestQueue => ended.greatest_queue,
            ClosedSort::MessagesIn => ended.messages_in,
            ClosedSort::MessagesOut => ended.messages_out,
            ClosedSort::BytesIn => ended.bytes_in,
            ClosedSort::BytesOut => ended.bytes_out,
        }
    };
    server.closed.each(|ended| {
        if matches(ended) {
            top.offer(rank(ended), || ended.clone());
        }
    });
    let reasons = server.closed.reasons().into_iter().map(|count| api::ReasonCount {
        reason: count.reason.to_owned(),
        total: count.total,
        remembered: count.kept,
    });
    ClosedConnections {
        matched: top.offered,
        connections: top.take().map(|ended| ended_row(&ended)).collect(),
        reasons: reasons.collect(),
        nodes: None,
    }
}

/// Returns the row of a closed connection.
pub(super) fn ended_row(ended: &ClosedRecord) -> ClosedConnection {
    ClosedConnection {
        at: Timestamp(ended.at),
        ending: if ended.connection.is_some() { Ending::Closed } else { Ending::Refused },
        node: None,
        id: ended.connection,
        subject: ended.subject.as_deref().map(str::to_owned),
        subject_verified: ended.verified && ended.subject.is_some(),
        address: ended.address,
        reason: ended.reason.to_owned(),
        code: ended.code,
        message: ended.sentence.to_string(),
        duration_seconds: Duration::from_millis(ended.duration.as_millis() as u64).as_secs_f64(),
        messages_in: ended.messages_in,
        messages_out: ended.messages_out,
        bytes_in: ended.bytes_in,
        bytes_out: ended.bytes_out,
        greatest_queue: ended.greatest_queue,
    }
}

/// Returns the channels that match a query.
pub(super) fn channels(server: &Server, query: &ChannelQuery) -> Channels {
    let mut top = Top::new(query.limit);
    each_channel(server, query.prefix.as_deref(), |name, stats| {
        let rank = match query.sort {
            ChannelSort::Readers => stats.readers,
            ChannelSort::Rate => (f64::from(stats.messages_per_second) * 1000.0) as u64,
            ChannelSort::Messages => stats.messages,
        };
        top.offer(rank, || (name.clone(), stats));
    });
    let matched = top.offered;
    let shown: Vec<_> = top.take().collect();
    let writers = count_writers(server, shown.iter().map(|(name, _)| name.as_str()));
    let row = |(name, stats): &(ChannelName, hub::ChannelStats)| Channel {
        channel: name.as_str().to_owned(),
        readers: stats.readers,
        writers: writers.get(name.as_str()).copied().unwrap_or_default(),
        messages: stats.messages,
        messages_per_second: f64::from(stats.messages_per_second),
    };
    Channels { matched, channels: shown.iter().map(row).collect(), nodes: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_ranks_come_first_and_only_they_are_kept() {
        let mut top = Top::new(Some(3));
        let mut made = 0;
        for rank in [5, 1, 9, 7, 9, 2] {
            top.offer(rank, || {
                made += 1;
                rank * 10 + made
            });
            assert!(top.heap.len() <= 3);
        }
        assert_eq!(top.offered, 6);
        assert_eq!(made, 5, "only kept items are created");
        assert_eq!(
            top.take().collect::<Vec<_>>(),
            [93, 95, 74],
            "of equal ranks the first offered comes first"
        );
        let mut none = Top::new(Some(0));
        none.offer(1, || ());
        assert_eq!((none.offered, none.take().count()), (1, 0));
        assert_eq!(Top::<()>::new(Some(usize::MAX)).limit, MAX_ROWS);
    }
}
