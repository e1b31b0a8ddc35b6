//! Finds connections and channels.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::hub::{ChannelStats, Connection};
use crate::message::ChannelName;
use crate::orders::{Address, IdPrefix};
use crate::server::Server;

/// Selects the open connections that match all of the given filters.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionFilter<'a> {
    /// The id, or the start of it.
    pub id: Option<&'a IdPrefix>,
    /// A channel that the connection reads or may write.
    pub channel: Option<&'a str>,
    /// The `sub` of its token.
    pub subject: Option<&'a str>,
    /// The client's address.
    pub address: Option<Address>,
}

impl ConnectionFilter<'_> {
    /// Whether a connection matches.
    pub fn matches(&self, connection: &Connection) -> bool {
        let claims = connection.claims();
        let uses = |channel| connection.reads(channel) || claims.may_write(channel);
        self.id.is_none_or(|id| id.matches(&connection.id()))
            && self.subject.is_none_or(|subject| claims.subject() == Some(subject))
            && self.address.is_none_or(|address| address.matches(connection.address()))
            && self.channel.is_none_or(uses)
    }
}

/// Calls `visit` for each open connection that matches. A whole id is looked up; all else visits every connection.
pub fn each_connection(
    server: &Server,
    filter: &ConnectionFilter<'_>,
    mut visit: impl FnMut(&Arc<Connection>),
) {
    let mut visit_match = |connection: &Arc<Connection>| {
        if filter.matches(connection) {
            visit(connection);
        }
    };
    match filter.id.and_then(IdPrefix::whole) {
        Some(id) => server.hub.connection(&id).iter().for_each(visit_match),
        None => server.hub.each_connection(|connection| visit_match(connection)),
    }
}

/// Calls `visit` for each channel that has readers and whose name starts with `prefix`.
pub fn each_channel(
    server: &Server,
    prefix: Option<&str>,
    mut visit: impl FnMut(&ChannelName, ChannelStats),
) {
    let prefix = prefix.unwrap_or_default();
    server.hub.each_channel(|name, stats| {
        if name.as_str().starts_with(prefix) {
            visit(name, stats);
        }
    });
}

/// What is counted of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelCounts {
    /// Connections that read it.
    pub readers: u64,
    /// Connections that may write it.
    pub writers: u64,
    /// Messages since it has had readers.
    pub messages: u64,
    /// Messages per second.
    pub messages_per_second: f64,
}

impl ChannelCounts {
    /// Adds the counts of another node. Each message reaches all nodes, so messages are not added.
    pub fn add(&mut self, other: &ChannelCounts) {
        self.readers += other.readers;
        self.writers += other.writers;
        self.messages = self.messages.max(other.messages);
        self.messages_per_second = self.messages_per_second.max(other.messages_per_second);
    }
}

/// Returns the counts of these channels.
pub fn counts(server: &Server, channels: &[String]) -> Vec<ChannelCounts> {
    let mut counts: HashMap<&str, ChannelCounts> =
        channels.iter().map(|channel| (channel.as_str(), ChannelCounts::default())).collect();
    for (channel, writers) in count_writers(server, channels.iter().map(String::as_str)) {
        counts.entry(channel).or_default().writers = writers;
    }
    server.hub.each_channel(|name, stats| {
        if let Some(counts) = counts.get_mut(name.as_str()) {
            counts.readers = stats.readers;
            counts.messages = stats.messages;
            counts.messages_per_second = f64::from(stats.messages_per_second);
        }
    });
    channels.iter().map(|channel| counts.get(channel.as_str()).copied().unwrap_or_default()).collect()
}

/// Counts for each of these channels the connections that may write it.
///
/// Only the connections' tokens say so, and therefore this visits every connection.
pub fn count_writers<'a>(server: &Server, channels: impl Iterator<Item = &'a str>) -> HashMap<&'a str, u64> {
    let mut channels: Vec<&str> = channels.collect();
    channels.sort_unstable();
    let index: HashMap<&str, usize> =
        channels.iter().enumerate().map(|(at, channel)| (*channel, at)).collect();
    let mut counts = vec![0_u64; channels.len()];
    if !channels.is_empty() {
        server.hub.each_connection(|connection| {
            let claims = connection.claims();
            let may = claims.may().and_then(|may| may.write.as_ref());
            for channel in claims.write().iter() {
                if let Some(at) = index.get(channel)
                    && !may.is_some_and(|may| may.matches(channel))
                {
                    counts[*at] += 1;
                }
            }
            if let Some(may) = may {
                may.each_match(&channels, |at| counts[at] += 1);
            }
        });
    }
    channels.into_iter().zip(counts).collect()
}
