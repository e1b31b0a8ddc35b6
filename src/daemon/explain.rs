//! Tells what a subject has got of a channel, from its open connections, the closed ones that are remembered, and the history.

use std::time::SystemTime;

use crate::admin::api::{
    ClosedReading, ExplainQuery, Explanation, Judged, KeptHistory, MAX_READINGS, MessageOutcome, ReadPlace,
    Reading, Timestamp,
};
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
    let order = |row: &Reading| {
        let number = row.place.as_ref().map_or(0, |place| MessageId::parse(&place.after).number);
        (row.connected_at.0, row.id, number)
    };
    connections.sort_by_key(order);
    connections.drain(..connections.len().saturating_sub(MAX_READINGS));
}

/// Decides what became of the message.
pub(super) fn judge(explanation: &Explanation, id: MessageId) -> Judged {
    let (verdict, message) = verdict(explanation, id);
    Judged { id: id.to_string(), verdict, message }
}

fn verdict(explanation: &Explanation, id: MessageId) -> (MessageOutcome, String) {
    let mut of_connection = None;
    for row in &explanation.connections {
        let Some(place) = &row.place else { continue };
        let [after, last] = [&place.after, &place.last].map(|id| MessageId::parse(id));
        if after.epoch != id.epoch || !(after.number + 1..=last.number).contains(&id.number) {
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
    match of_connection {
        Some(found) if found.0 != MessageOutcome::NotWritten => found,
        _ if !all_nodes => unknown("not all nodes of the cluster have answered for all their connections"),
        _ if !explanation.complete || explanation.matched > MAX_READINGS as u64 => {
            unknown("not all connections that have ended are remembered ([admin] closed_ring)")
        }
        _ if is_inherited => {
            unknown("it was published before the start of this daemon, which knows no earlier connections")
        }
        Some(found) => found,
        None if last.is_none_or(|last| last.epoch != id.epoch) => {
            unknown("it is of no history that is known")
        }
        None if last.is_some_and(|last| last.number < id.number) => unknown("it was not published yet"),
        None if explanation.connections.iter().any(|row| row.place.is_none()) => {
            unknown("it is not known how far all connections have read this channel")
        }
        None => (
            MessageOutcome::NotWritten,
            "no connection of this subject read the channel when it was published, or has fetched it since"
                .to_owned(),
        ),
    }
}
