//! Tells what a subject has got of a channel, from its open connections, the closed ones that are remembered, and the history.

use std::time::SystemTime;

use uuid::Uuid;

use crate::admin::api::{
    ClosedReading, ExplainQuery, Explanation, Judged, KeptHistory, MAX_READINGS, MessageOutcome, ReadPlace,
    Reading, Timestamp,
};
use crate::hub::Hub;
use crate::log::ClosedRecord;
use crate::message::MessageId;
use crate::server::Server;
use crate::server::ops::list::{ConnectionFilter, each_connection};

/// Returns what is known on this node. The verdict needs what all nodes know: see [`judge`].
pub(super) fn explain(server: &Server, query: &ExplainQuery) -> Explanation {
    let mut connections = Vec::new();
    let filter = ConnectionFilter { subject: Some(&query.subject), ..ConnectionFilter::default() };
    each_connection(server, &filter, |connection| {
        let reads = connection.reads(&query.channel);
        let row = |reads, place| Reading {
            node: None,
            id: connection.id(),
            address: connection.address(),
            connected_at: Timestamp(SystemTime::now() - connection.age()),
            closed: None,
            reads,
            place,
        };
        let left =
            connection.left_places().into_iter().filter(|place| place.channel.as_str() == query.channel);
        connections.extend(
            left.map(|place| row(false, Some(read_place(place.epoch, place.after, place.up_to, place.last)))),
        );
        if reads {
            let place = server.hub.place(connection, &query.channel);
            connections.push(row(
                true,
                place.map(|place| read_place(place.epoch, place.after, place.up_to, place.last)),
            ));
        }
    });
    server.closed.each(|ended| {
        if ended.verified && ended.subject.as_deref() == Some(&*query.subject) {
            add_ended(&mut connections, ended, &query.channel);
        }
    });
    let history = server.hub.kept(&query.channel).map(|kept| {
        let id = |number| MessageId { epoch: kept.epoch, number }.to_string();
        KeptHistory { after: id(kept.after), last: id(kept.last), before_start: id(kept.inherited) }
    });
    let mut explanation = Explanation {
        subject: query.subject.clone(),
        channel: query.channel.clone(),
        history,
        matched: connections.len() as u64,
        connections,
        since: Timestamp(SystemTime::now() - server.started().elapsed()),
        complete: server
            .closed
            .reasons()
            .iter()
            .all(|reason| reason.closed == 0 || reason.kept == reason.total),
        verdict: None,
        nodes: None,
    };
    sort(&mut explanation.connections);
    explanation
}

fn add_ended(connections: &mut Vec<Reading>, ended: &ClosedRecord, channel: &str) {
    let Some(id) = ended.connection else { return };
    let row = |place| Reading {
        node: None,
        id,
        address: ended.address,
        connected_at: Timestamp(ended.at - ended.duration),
        closed: Some(ClosedReading {
            at: Timestamp(ended.at),
            reason: ended.reason.to_owned(),
            code: ended.code,
            message: ended.sentence.to_string(),
        }),
        reads: false,
        place,
    };
    let before = connections.len();
    let places = ended.places.iter().filter(|place| *place.channel == *channel);
    connections
        .extend(places.map(|place| row(Some(read_place(place.epoch, place.after, place.up_to, place.last)))));
    if connections.len() == before {
        connections.push(row(None));
    }
}

fn read_place(epoch: u64, after: u64, up_to: Option<u64>, last: u64) -> ReadPlace {
    let id = |number| MessageId { epoch, number }.to_string();
    ReadPlace { after: id(after), up_to: up_to.map(id), last: id(last) }
}

/// Sorts connections, oldest first, and keeps the newest.
pub(super) fn sort(connections: &mut Vec<Reading>) {
    // Other nodes tell whole seconds. Of those that came in the same one, the first is the one that ended first or had less.
    let second = |at: Timestamp| at.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let order = |row: &Reading| {
        let ended = row.closed.as_ref().map_or(u64::MAX, |closed| second(closed.at));
        let number = row.place.as_ref().map_or(0, |place| MessageId::parse(&place.after).number);
        (second(row.connected_at), ended, number, row.id)
    };
    connections.sort_by_key(order);
    connections.drain(..connections.len().saturating_sub(MAX_READINGS));
}

/// Replaces the numbers of other channels' messages, which share them in a cluster, by that of the channel's last message
/// before, so that nobody seems to have missed them.
pub(super) fn count_only_own(hub: &Hub, explanation: &mut Explanation) {
    for place in explanation.connections.iter_mut().filter_map(|row| row.place.as_mut()) {
        for id in [&mut place.after, &mut place.last].into_iter().chain(&mut place.up_to) {
            *id = hub.floor(&explanation.channel, MessageId::parse(id)).to_string();
        }
    }
}

/// Whose connections an explanation is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// A daemon in no cluster.
    Daemon,
    /// One node of a cluster.
    Node,
    /// All nodes of a cluster.
    Cluster,
}

/// Decides what became of the message. `is_of_channel` is false if the history shows that it is one of another channel.
pub(super) fn judge(explanation: &Explanation, id: MessageId, is_of_channel: bool, scope: Scope) -> Judged {
    let (verdict, message) = if is_of_channel {
        verdict(explanation, id, scope)
    } else {
        (MessageOutcome::Unknown, "the channel has no message with this id".to_owned())
    };
    Judged { id: id.to_string(), verdict, message }
}

fn verdict(explanation: &Explanation, id: MessageId, scope: Scope) -> (MessageOutcome, String) {
    let (mut of_connection, mut behind) = (None, None);
    for row in &explanation.connections {
        let Some(place) = &row.place else { continue };
        let [after, last] = [&place.after, &place.last].map(|id| MessageId::parse(id));
        if after.epoch != id.epoch || !(after.number + 1..=last.number).contains(&id.number) {
            // It was asked before the message came there.
            if row.reads && last.epoch == id.epoch && last.number < id.number {
                behind = Some(row.id);
            }
            continue;
        }
        let found = match (&place.up_to, &row.closed) {
            (Some(up_to), _) if MessageId::parse(up_to).number >= id.number => {
                return (
                    MessageOutcome::Written,
                    format!("it was written to the socket of connection {}", row.id),
                );
            }
            (None, _) => {
                (MessageOutcome::Unknown, format!("it is not known how far connection {} has got", row.id))
            }
            (_, None) => (
                MessageOutcome::Waiting,
                format!("it is queued for connection {}, whose socket is full", row.id),
            ),
            (_, Some(closed)) => {
                let why =
                    format!("connection {} was closed before: {} {}", row.id, closed.code, closed.message);
                (MessageOutcome::NotWritten, why)
            }
        };
        of_connection = Some(found);
    }
    match of_connection {
        Some(found) if found.0 != MessageOutcome::NotWritten => found,
        found => unwritten(explanation, id, scope, found, behind),
    }
}

/// Decides whether a message that is written to no known connection, and waits for none, is written to none at all.
fn unwritten(
    explanation: &Explanation,
    id: MessageId,
    scope: Scope,
    of_connection: Option<(MessageOutcome, String)>,
    behind: Option<Uuid>,
) -> (MessageOutcome, String) {
    let unknown = |why: &str| (MessageOutcome::Unknown, why.to_owned());
    let all_nodes = explanation.nodes.as_ref().is_none_or(|nodes| {
        nodes.unanswered.is_empty() && nodes.failed.is_empty() && nodes.cut.is_empty() && nodes.note.is_none()
    });
    let history = explanation.history.as_ref();
    let [last, before_start] = [
        history.map(|history| MessageId::parse(&history.last)),
        history.map(|history| MessageId::parse(&history.before_start)),
    ];
    let is_inherited =
        before_start.is_some_and(|before| before.epoch == id.epoch && id.number <= before.number);
    let is_published = last.is_some_and(|last| last.epoch == id.epoch && last.number >= id.number);
    match (of_connection, behind) {
        _ if !all_nodes => unknown("not all nodes of the cluster have answered for all their connections"),
        _ if !explanation.complete || explanation.matched > MAX_READINGS as u64 => {
            unknown("not all connections that have ended are remembered ([admin] closed_ring)")
        }
        _ if is_inherited => unknown(match scope {
            Scope::Daemon => {
                "it was published before the start of this daemon, which knows no earlier connections"
            }
            Scope::Node | Scope::Cluster => {
                "it was published while a node was there that has left the cluster or started again since, whose connections \
                 are no longer remembered"
            }
        }),
        (_, Some(behind)) if is_published => unknown(&format!(
            "connection {behind} reads the channel, and the message had not come that far yet: ask again"
        )),
        (Some(found), _) => found,
        _ if last.is_none_or(|last| last.epoch != id.epoch) => unknown("it is of no history that is known"),
        _ if !is_published => unknown("it was not published yet"),
        _ if explanation.connections.iter().any(|row| row.place.is_none()) => {
            unknown("it is not known how far all connections have read this channel")
        }
        _ => {
            let here = if scope == Scope::Node { "on this node, " } else { "" };
            let why = format!(
                "{here}no connection of this subject read the channel when it was published, or has fetched it since"
            );
            (MessageOutcome::NotWritten, why)
        }
    }
}
