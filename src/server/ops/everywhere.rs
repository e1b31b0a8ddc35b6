//! Orders to all nodes of a cluster: how far an order reaches, and the parts that are the same for both front ends.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::bans;
use super::disconnect::{DisconnectError, Disconnected, check, close_banned, resolve};
use super::list::ChannelCounts;
use crate::cluster::Cluster;
use crate::cluster::steering::{Rows, Wait};
use crate::orders::{Coverage, DisconnectOrder, IdPrefix};
use crate::server::bans::BanRecord;
use crate::server::{Server, unix_now};

/// The kinds of requests to other nodes that `remote` carries out.
pub(super) const RESOLVE: &str = "resolve";
pub(super) const DISCONNECT: &str = "disconnect";
pub(super) const LIFT: &str = "lift";
pub(super) const BANS: &str = "bans";
pub(super) const COUNTS: &str = "counts";

/// The pauses before bans are exchanged again with nodes that did not answer when a link came up.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];

/// The most pages of one exchange of bans. A page has at least one ban, and usually thousands.
const MAX_PAGES: usize = 256;

/// Bytes that the counts of a channel take in a message besides its name.
const COUNTS_BYTES: usize = 128;

/// Bytes that a ban takes in a message besides its subject.
const BAN_BYTES: usize = 128;

/// How far an order reaches.
pub enum Reach<'a> {
    /// To this server only, which is in no cluster or was asked for itself.
    Here,
    /// To this node only, although it is in a cluster.
    Only(Coverage),
    /// To all nodes.
    All(&'a Cluster),
}

impl Reach<'_> {
    /// Returns how far an order to this server reaches; `local` is to this server only.
    pub fn of(server: &Server, local: bool) -> Reach<'_> {
        match &server.cluster {
            Some(cluster) if !local => match cluster.steering() {
                Some(_) => Reach::All(cluster),
                None => Reach::Only(Coverage::only(
                    &cluster.node().name,
                    "steering across nodes is off, because cluster.secret_file is not set",
                )),
            },
            _ => Reach::Here,
        }
    }

    /// Asks the other nodes, and returns the name and the part of each that answered.
    pub async fn gather<Q: Serialize, T: DeserializeOwned>(
        &self,
        kind: &str,
        query: &Q,
    ) -> (Vec<(String, T)>, Option<Coverage>) {
        match self {
            Reach::Here => (Vec::new(), None),
            Reach::Only(coverage) => (Vec::new(), Some(coverage.clone())),
            Reach::All(cluster) => match cluster.gather(kind, query, Wait::ForKnown).await {
                Some(gathered) => (gathered.parts, Some(gathered.coverage)),
                None => (Vec::new(), None),
            },
        }
    }
}

/// An order to close connections, as nodes send it to each other.
#[derive(Serialize, Deserialize)]
pub(super) struct DisconnectAsked {
    pub(super) order: DisconnectOrder,
    pub(super) dry_run: bool,
}

impl Rows for Disconnected {}

/// How many connections have ids that begin with each of several prefixes, and one of them.
pub(super) type Resolved = Vec<(u32, Option<Uuid>)>;

impl Rows for Resolved {}

/// Replaces the abbreviated ids in an order by whole ones. An abbreviation may match one connection on all nodes together.
///
/// # Errors
/// The order is invalid, or one matches several.
pub async fn resolve_everywhere(
    server: &Server,
    reach: &Reach<'_>,
    order: DisconnectOrder,
) -> Result<DisconnectOrder, DisconnectError> {
    check(&order)?;
    let (whole, prefixes): (Vec<IdPrefix>, Vec<IdPrefix>) =
        order.ids.iter().cloned().partition(|id| id.whole().is_some());
    if prefixes.is_empty() || !matches!(reach, Reach::All(_)) {
        return Ok(order);
    }
    let mut found = resolve(server, &prefixes);
    let (parts, _) = reach.gather::<_, Resolved>(RESOLVE, &prefixes).await;
    for (_, part) in parts {
        for ((count, id), (more, other)) in found.iter_mut().zip(part) {
            *count += more;
            *id = id.or(other);
        }
    }
    let mut ids = whole;
    for (prefix, (count, id)) in prefixes.into_iter().zip(found) {
        if count > 1 {
            return Err(DisconnectError::Ambiguous { prefix, count });
        }
        ids.push(id.map_or(prefix, IdPrefix::from));
    }
    Ok(DisconnectOrder { ids, ..order })
}

/// Has the other nodes carry out an order to close connections, and adds theirs to `done`.
pub async fn disconnect_others(
    reach: &Reach<'_>,
    order: DisconnectOrder,
    dry_run: bool,
    mut done: Disconnected,
) -> (Disconnected, Option<Coverage>) {
    let asked = DisconnectAsked { order, dry_run };
    let (parts, coverage) = reach.gather::<_, Disconnected>(DISCONNECT, &asked).await;
    done.matched += parts.iter().map(|(_, part)| part.matched).sum::<usize>();
    (done, coverage)
}

/// Whether a ban was lifted.
#[derive(Serialize, Deserialize)]
pub(super) struct WasBanned(pub(super) bool);

impl Rows for WasBanned {}

/// Has the other nodes lift the ban of a subject, and returns whether one of them had it.
pub async fn lift_others(reach: &Reach<'_>, subject: &str) -> (bool, Option<Coverage>) {
    let (parts, coverage) = reach.gather::<_, WasBanned>(LIFT, &subject).await;
    (parts.iter().any(|(_, WasBanned(was))| *was), coverage)
}

impl Rows for Vec<ChannelCounts> {}

/// Adds the counts of the other nodes to those of this one. Nodes that do not answer are missing in the counts.
pub async fn add_counts_of_others(
    reach: &Reach<'_>,
    channels: &[String],
    counts: &mut [ChannelCounts],
) -> Option<Coverage> {
    let Reach::All(cluster) = reach else { return None };
    // Counts have about 100 bytes each, and JSON may write one byte of a name as six.
    let room = cluster.max_payload() / 2;
    let mut missing: Option<Coverage> = None;
    let mut start = 0;
    while start < channels.len() {
        let mut bytes = 0;
        let fits = channels[start..].iter().take_while(|channel| {
            bytes += COUNTS_BYTES + 6 * channel.len();
            bytes <= room
        });
        let end = start + fits.count().max(1);
        let (parts, coverage) = reach.gather::<_, Vec<ChannelCounts>>(COUNTS, &&channels[start..end]).await;
        for (_, part) in parts {
            counts[start..end].iter_mut().zip(part).for_each(|(counts, more)| counts.add(&more));
        }
        let complete = |coverage: &Coverage| coverage.unanswered.is_empty() && coverage.failed.is_empty();
        missing = missing.or(coverage.filter(|coverage| !complete(coverage)));
        start = end;
    }
    missing
}

/// A page of bans that a node sends, and where the page begins that it wants in return.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct BansAsked {
    pub(super) known: Vec<(Box<str>, BanRecord)>,
    pub(super) wanted: bool,
    pub(super) after: Option<Box<str>>,
}

/// A page of bans.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct BanPage {
    pub(super) records: Vec<(Box<str>, BanRecord)>,
    /// Whether there are more.
    pub(super) more: bool,
}

impl Rows for BanPage {}

impl BanPage {
    /// Returns the page after a subject, of at most `room` bytes.
    pub(super) fn after(server: &Server, subject: Option<&str>, room: usize) -> BanPage {
        // One more than can fit, which tells whether there are more.
        let mut records = bans::records_after(server, subject, room / BAN_BYTES + 2);
        let mut bytes = BAN_BYTES;
        let fits = |(subject, _): &(Box<str>, BanRecord)| {
            // JSON may write one byte of a subject as six.
            bytes += BAN_BYTES + 6 * subject.len();
            bytes <= room
        };
        let count = records.iter().take_while({
            let mut fits = fits;
            move |record| fits(record)
        });
        let count = count.count().max(1);
        let more = records.len() > count;
        records.truncate(count);
        BanPage { records, more }
    }
}

/// Tells the other nodes the bans of this one, and adds theirs. Returns `None` if the bans of this node are its own. Nodes whose
/// bans exceed [`MAX_PAGES`] are named as cut, and in the log.
pub async fn exchange_bans(server: &Arc<Server>, reach: &Reach<'_>, wait: Wait) -> Option<Coverage> {
    let cluster = match reach {
        Reach::Here => return None,
        Reach::Only(coverage) => return Some(coverage.clone()),
        Reach::All(cluster) => cluster,
    };
    let room = cluster.max_payload() / 2;
    let mut asked = BansAsked { wanted: true, ..BansAsked::default() };
    let mut told = BanPage { more: true, ..BanPage::default() };
    let mut last: Option<Box<str>> = None;
    let mut wait = wait;
    let mut cut = Coverage::default();
    for _ in 0..MAX_PAGES {
        if told.more {
            told = BanPage::after(server, last.as_deref(), room);
            last = told.records.last().map(|(subject, _)| subject.clone()).or(last);
            asked.known = std::mem::take(&mut told.records);
        } else {
            asked.known.clear();
        }
        let gathered = cluster.gather::<_, BanPage>(BANS, &asked, wait).await?;
        wait = Wait::ForKnown;
        let with_more = gathered.parts.iter().filter(|(_, page)| page.more);
        cut.cut = with_more.clone().map(|(node, _)| node.clone()).collect();
        // Every node has told its bans up to here.
        let ends = with_more.filter_map(|(_, page)| page.records.last()).map(|(subject, _)| subject.clone());
        asked.after = ends.min();
        asked.wanted = asked.after.is_some();
        for (node, page) in gathered.parts {
            merge(server, &node, page.records).await;
        }
        if !asked.wanted && !told.more {
            return Some(gathered.coverage);
        }
        if told.more {
            cut.cut.push(cluster.node().name.clone());
        }
        cut = Coverage { cut: cut.cut, ..gathered.coverage };
    }
    cut.cut.sort_unstable();
    tracing::warn!(
        "cluster: not all bans of {} reach the other nodes, because they take more than {MAX_PAGES} messages of {room} bytes: \
         raise max_payload of NATS",
        cut.cut.join(", ")
    );
    Some(cut)
}

/// Adds the bans that a node knows, and closes the connections of subjects that are banned only now. Writes to the disk, and
/// to the log what could not be done. The caller must be in the context of the runtime that runs the connections.
pub(super) fn add_bans(server: &Arc<Server>, node: &str, others: Vec<(Box<str>, BanRecord)>) {
    let others = others.into_iter().filter(|(subject, _)| bans::check_subject(subject).is_ok());
    let closed = server.bans.merge(others, unix_now()).map_err(DisconnectError::from).and_then(|banned| {
        if banned.is_empty() {
            return Ok(());
        }
        let closing = close_banned(server, &banned)?;
        tracing::info!(
            "cluster: node {node} has told the bans of {} subjects, of whose connections {closing} are being closed",
            banned.len()
        );
        Ok(())
    });
    if let Err(error) = closed {
        tracing::warn!("cluster: the bans of node {node} are not all in force: {error}");
    }
}

/// Adds the bans of another node on a thread that may block.
async fn merge(server: &Arc<Server>, node: &str, records: Vec<(Box<str>, BanRecord)>) {
    let (server, node) = (server.clone(), node.to_owned());
    let merged = tokio::task::spawn_blocking(move || add_bans(&server, &node, records));
    let _ = merged.await;
}

/// Exchanges bans after a link came up, and again with nodes that did not answer.
pub async fn exchange_bans_on_link(server: Arc<Server>) {
    let reach = Reach::of(&server, false);
    let mut coverage = exchange_bans(&server, &reach, Wait::ForUnknown).await;
    for pause in AGAIN_AFTER {
        let complete = |coverage: &Coverage| coverage.unanswered.is_empty() && coverage.failed.is_empty();
        // A node may have become known meanwhile.
        tokio::time::sleep(pause).await;
        let known = server.cluster.as_ref().map_or(0, |cluster| cluster.nodes().len());
        let heard = coverage.as_ref().map_or(0, |coverage| coverage.answered.len().saturating_sub(1));
        if coverage.as_ref().is_some_and(complete) && heard >= known {
            return;
        }
        coverage = exchange_bans(&server, &reach, Wait::ForKnown).await;
    }
}
