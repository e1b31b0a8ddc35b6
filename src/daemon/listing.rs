//! The lists of what is alive and what has ended: filtered and sorted where it is, and only what is shown is copied.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::admin::api::{
    self, Channel, ChannelQuery, ChannelSort, Channels, ClosedConnection, ClosedConnections, ClosedQuery,
    ClosedSort, Connection, ConnectionQuery, ConnectionSort, Connections, DEFAULT_ROWS, Ending, MAX_NAMES,
    MAX_ROWS, Timestamp,
};
use crate::hub;
use crate::message::ChannelName;
use crate::server::{ClosedRecord, Server};

/// The greatest of many, in room for `limit` of them.
struct Greatest<T> {
    limit: usize,
    heap: BinaryHeap<Reverse<Ranked<T>>>,
    offered: u64,
}

/// Something with its rank. Of equals the first one offered stays in front.
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

impl<T> Greatest<T> {
    fn new(limit: Option<usize>) -> Greatest<T> {
        Greatest { limit: limit.unwrap_or(DEFAULT_ROWS).min(MAX_ROWS), heap: BinaryHeap::new(), offered: 0 }
    }

    /// Counts something, and keeps it if it is among the greatest so far.
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

    /// The greatest, in order.
    fn take(self) -> impl Iterator<Item = T> {
        self.heap.into_sorted_vec().into_iter().map(|Reverse(ranked)| ranked.item)
    }
}

/// Whether all that is asked for holds of a connection.
pub(super) fn is_meant(
    connection: &hub::Connection,
    channel: Option<&str>,
    subject: Option<&str>,
    address: Option<api::Address>,
) -> bool {
    let access = connection.access();
    let concerns = |channel| access.may_read(channel) || access.may_write(channel);
    subject.is_none_or(|subject| access.subject.as_deref() == Some(subject))
        && address.is_none_or(|address| address.matches(connection.address()))
        && channel.is_none_or(concerns)
}

/// The open connections that are asked for.
pub(super) fn connections(server: &Server, query: &ConnectionQuery) -> Connections {
    let mut greatest = Greatest::new(query.limit);
    let rank = |connection: &hub::Connection| {
        let age = || connection.opened().elapsed().as_micros() as u64;
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
    let (channel, subject) = (query.channel.as_deref(), query.subject.as_deref());
    let mut offer = |connection: &Arc<hub::Connection>| {
        if is_meant(connection, channel, subject, query.address) {
            greatest.offer(rank(connection), || connection.clone());
        }
    };
    let whole = query.id.as_ref().and_then(api::IdPrefix::whole);
    match (whole, &query.id) {
        (Some(id), _) => server.hub.connection(&id).iter().for_each(offer),
        (None, Some(prefix)) => server.hub.each_connection(|connection| {
            if prefix.matches(&connection.id()) {
                offer(connection);
            }
        }),
        (None, None) => server.hub.each_connection(offer),
    }
    let names = if whole.is_some() { usize::MAX } else { MAX_NAMES };
    let matched = greatest.offered;
    let connections = greatest.take().map(|connection| row(server, &connection, names)).collect();
    Connections { matched, connections }
}

fn row(server: &Server, connection: &hub::Connection, names: usize) -> Connection {
    let (access, stats, age) = (connection.access(), connection.stats(), connection.opened().elapsed());
    let some = |channels: &[ChannelName]| {
        channels.iter().take(names).map(|channel| channel.as_str().to_owned()).collect()
    };
    Connection {
        id: connection.id(),
        subject: access.subject.as_deref().map(str::to_owned),
        address: connection.address(),
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
        read: some(&access.read),
        read_count: access.read.len() as u64,
        write: some(access.write()),
        write_count: access.write().len() as u64,
        expires_at: access.expires.map(Timestamp::from_unix),
        closing: connection.outbox.closing().map(|reason| reason.name().to_owned()),
    }
}

/// The ended connections and refused requests that are asked for.
pub(super) fn closed(server: &Server, query: &ClosedQuery) -> ClosedConnections {
    let mut greatest = Greatest::new(query.limit);
    let is_meant = |ended: &ClosedRecord| {
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
            ClosedSort::GreatestQueue => ended.greatest_queue as u64,
            ClosedSort::MessagesIn => ended.messages_in,
            ClosedSort::MessagesOut => ended.messages_out,
            ClosedSort::BytesIn => ended.bytes_in,
            ClosedSort::BytesOut => ended.bytes_out,
        }
    };
    server.closed.each(|ended| {
        if is_meant(ended) {
            greatest.offer(rank(ended), || ended.clone());
        }
    });
    let reasons = server.closed.reasons().into_iter().map(|count| api::ReasonCount {
        reason: count.reason.to_owned(),
        total: count.total,
        remembered: count.kept,
    });
    ClosedConnections {
        matched: greatest.offered,
        connections: greatest.take().map(|ended| ended_row(&ended)).collect(),
        reasons: reasons.collect(),
    }
}

/// An ended connection as the administrator sees it.
pub(super) fn ended_row(ended: &ClosedRecord) -> ClosedConnection {
    ClosedConnection {
        at: Timestamp(ended.at),
        ending: if ended.connection.is_some() { Ending::Closed } else { Ending::Refused },
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
        greatest_queue: ended.greatest_queue as u64,
    }
}

/// The channels that are asked for.
pub(super) fn channels(server: &Server, query: &ChannelQuery) -> Channels {
    let mut greatest = Greatest::new(query.limit);
    server.hub.each_channel(|name, stats| {
        if query.prefix.as_deref().is_none_or(|prefix| name.as_str().starts_with(prefix)) {
            let rank = match query.sort {
                ChannelSort::Readers => stats.readers,
                ChannelSort::Rate => (f64::from(stats.messages_per_second) * 1000.0) as u64,
                ChannelSort::Messages => stats.messages,
            };
            greatest.offer(rank, || (name.clone(), stats));
        }
    });
    let matched = greatest.offered;
    let shown: Vec<_> = greatest.take().collect();
    let writers = server.count_writers(shown.iter().map(|(name, _)| name.as_str()));
    let row = |(name, stats): &(ChannelName, hub::ChannelStats)| Channel {
        channel: name.as_str().to_owned(),
        readers: stats.readers,
        writers: writers.get(name.as_str()).copied().unwrap_or_default(),
        messages: stats.messages,
        messages_per_second: f64::from(stats.messages_per_second),
    };
    Channels { matched, channels: shown.iter().map(row).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_come_first_and_no_more_are_kept() {
        let mut greatest = Greatest::new(Some(3));
        let mut made = 0;
        for rank in [5, 1, 9, 7, 9, 2] {
            greatest.offer(rank, || {
                made += 1;
                rank * 10 + made
            });
            assert!(greatest.heap.len() <= 3);
        }
        assert_eq!(greatest.offered, 6);
        assert_eq!(made, 5, "what is not kept is not made");
        assert_eq!(greatest.take().collect::<Vec<_>>(), [93, 95, 74], "of equals the first comes first");
        let mut none = Greatest::new(Some(0));
        none.offer(1, || ());
        assert_eq!((none.offered, none.take().count()), (1, 0));
        assert_eq!(Greatest::<()>::new(Some(usize::MAX)).limit, MAX_ROWS);
    }
}
