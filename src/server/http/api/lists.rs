//! `GET /api/channels`, `/api/channels/{channel}` and `/api/connections`.

use std::sync::Arc;
use std::time::SystemTime;

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::everywhere::{Asked, List, Listed, Visible, list_everywhere};
use super::page::{Page, Query};
use crate::hub::Connection;
use crate::message::{ChannelName, connection_id};
use crate::orders::Coverage;
use crate::server::Server;
use crate::server::http::answer::{Answer, json_answer};
use crate::server::ops::everywhere::{Reach, add_counts_of_others};
use crate::server::ops::list::{ConnectionFilter, counts, each_channel, each_connection};
use crate::server::rejection::Rejection;
use crate::timestamp::{from_unix, rfc3339};
use crate::token::{ApiRight, Claims};

/// The most channels or subjects in one answer.
const MAX_ROWS: usize = 1000;

/// The most connections in one answer.
const MAX_CONNECTIONS: usize = 100;

/// The most channel names in each of the two lists of a connection.
const MAX_NAMES: usize = 100;

/// Lists the channels that have readers and that the token may see, by name.
pub(super) async fn channels(
    server: &Arc<Server>,
    claims: Claims,
    deadline: Instant,
    query: &str,
) -> Result<Answer, Rejection> {
    let query = Query::parse(query)?;
    let reach = Reach::of(server, query.local()?);
    let asked = Asked {
        limit: query.limit(MAX_ROWS)?,
        after: query.after,
        list: List::Channels { prefix: query.prefix },
        visible: Visible::to(&claims),
    };
    let (listed, coverage) = list_everywhere(server, &reach, deadline, list, asked).await?;
    let names: Vec<String> = listed.rows.into_iter().map(|(name, _)| name).collect();
    let (names, mut counted) = server
        .background
        .run(server, deadline, move |server| {
            let counted = counts(server, &names);
            (names, counted)
        })
        .await?;
    let missing = add_counts_of_others(&reach, &names, &mut counted).await;
    let rows: Vec<Value> = names
        .iter()
        .zip(counted)
        .map(|(name, counts)| json!({"channel": name, "readers": counts.readers, "writers": counts.writers}))
        .collect();
    Ok(ok(json!({"channels": rows, "next": listed.next}), missing.or(coverage)))
}

/// Returns the numbers of readers and writers of one channel, and with the right `subjects` its readers' subjects by
/// name.
pub(super) async fn channel(
    server: &Arc<Server>,
    claims: Claims,
    deadline: Instant,
    name: &str,
    query: &str,
) -> Result<Answer, Rejection> {
    let name = decoded(name)
        .ok_or(Rejection::BadRequest("the name of the channel must be percent-encoded UTF-8"))?;
    let channel = ChannelName::new(&name, server.live().settings.limits.channel_name_bytes)
        .map_err(|error| Rejection::BadParameter(error.to_string()))?;
    if !claims.may_see(&name) {
        return Err(Rejection::HiddenChannel(name));
    }
    let query = Query::parse(query)?;
    let reach = Reach::of(server, query.local()?);
    let subjects = claims.api.has(ApiRight::Subjects);
    // Before the readers are asked for, because clients that are among them follow the channel from their own ids.
    let id = server.hub.position(&channel);
    let asked = Asked {
        limit: query.limit(MAX_ROWS)?,
        after: query.after,
        list: List::Channel { name: name.clone(), subjects },
        visible: Visible::to(&claims),
    };
    let (listed, coverage) = list_everywhere(server, &reach, deadline, list, asked).await?;
    let Listed { rows, next, readers, writers } = listed;
    let mut body = json!({"channel": name, "readers": readers, "writers": writers});
    if let Some(id) = id {
        body["id"] = id.to_string().into();
    }
    if subjects {
        body["subjects"] = rows.into_iter().map(|(subject, _)| subject).collect();
        body["next"] = json!(next);
    }
    Ok(ok(body, coverage))
}

/// Lists the connections of a subject, by id.
pub(super) async fn connections(
    server: &Arc<Server>,
    claims: Claims,
    deadline: Instant,
    query: &str,
) -> Result<Answer, Rejection> {
    let query = Query::parse(query)?;
    let limit = query.limit(MAX_CONNECTIONS)?;
    let reach = Reach::of(server, query.local()?);
    let Some(subject) = query.subject else {
        return Err(Rejection::BadRequest("the query needs a subject: ?subject=NAME"));
    };
    let after = query.after.map(|after| {
        connection_id(&after).ok_or(Rejection::BadRequest("after must be the id of a connection"))
    });
    let after = after.transpose()?.map(|id| id.to_string());
    let list_of = List::Connections { subject };
    let asked = Asked { limit, after, list: list_of, visible: Visible::to(&claims) };
    let (listed, coverage) = list_everywhere(server, &reach, deadline, list, asked).await?;
    let rows: Vec<Value> = listed.rows.into_iter().map(|(_, row)| row).collect();
    Ok(ok(json!({"connections": rows, "next": listed.next}), coverage))
}

/// Returns the page of this node.
fn list(server: &Server, asked: &Asked) -> Listed {
    match &asked.list {
        List::Channels { prefix } => names_of_channels(server, prefix.as_deref(), asked),
        List::Channel { name, subjects } => readers_of(server, name, *subjects, asked),
        List::Connections { subject } => connections_of(server, subject, asked),
    }
}

/// Carries out a request of another node.
pub(super) fn carry_out(server: &Server, kind: &str, body: &[u8], room: usize) -> Option<Vec<u8>> {
    super::everywhere::carry_out(kind, body, room, |asked| list(server, asked))
}

fn names_of_channels(server: &Server, prefix: Option<&str>, asked: &Asked) -> Listed {
    let mut page = Page::new(asked.after.clone(), asked.limit);
    each_channel(server, prefix, |name, _| {
        let name = name.as_str();
        if asked.visible.contains(name) {
            page.offer(name, || (name.to_owned(), ()));
        }
    });
    listed(&page, |name, ()| json!(name))
}

fn readers_of(server: &Server, channel: &str, subjects: bool, asked: &Asked) -> Listed {
    let mut page = Page::new(asked.after.clone(), asked.limit);
    let (mut readers, mut writers) = (0_u64, 0_u64);
    server.hub.each_connection(|connection| {
        let user = connection.claims();
        writers += u64::from(user.may_write(channel));
        if connection.reads(channel) {
            readers += 1;
            if let Some(subject) = user.subject().filter(|_| subjects) {
                page.offer(subject, || (subject.to_owned(), ()));
            }
        }
    });
    Listed { readers, writers, ..listed(&page, |subject, ()| json!(subject)) }
}

fn connections_of(server: &Server, subject: &str, asked: &Asked) -> Listed {
    // Ids have the same order as their texts.
    let mut page = Page::new(asked.after.clone(), asked.limit);
    let filter = ConnectionFilter { subject: Some(subject), ..ConnectionFilter::default() };
    each_connection(server, &filter, |connection| {
        let id = connection.id().to_string();
        page.offer(&id, || (id.clone(), connection.clone()));
    });
    listed(&page, |_, connection| row(connection, &asked.visible))
}

fn listed<V>(page: &Page<String, V>, row: impl Fn(&String, &V) -> Value) -> Listed {
    let (rows, next) = page.write(row);
    let rows = page.keys().cloned().zip(rows).collect();
    Listed { rows, next: next.cloned(), ..Listed::default() }
}

/// Writes a connection, with the channels that the token may see.
fn row(connection: &Connection, visible: &Visible) -> Value {
    let claims = connection.claims();
    let names = |channels: Vec<&str>| {
        let visible = || channels.iter().copied().filter(|name| visible.contains(name));
        (visible().take(MAX_NAMES).collect::<Value>(), visible().count())
    };
    let (mut read, mut joined): (Vec<ChannelName>, Vec<ChannelName>) = Default::default();
    connection.each_channel(|name, was_joined| {
        read.push(name.clone());
        if was_joined {
            joined.push(name.clone());
        }
    });
    let [read, joined] = [&read, &joined].map(|all| all.iter().map(ChannelName::as_str).collect());
    let [(read, read_count), (joined, joined_count), (write, write_count)] =
        [read, joined, claims.write().to_vec()].map(names);
    json!({
        "connection": connection.id(),
        "subject": claims.subject(),
        "transport": connection.transport().name(),
        "connected_at": rfc3339(SystemTime::now() - connection.age()).to_string(),
        "expires_at": claims.expires().map(|expires| rfc3339(from_unix(expires)).to_string()),
        "read": read,
        "read_count": read_count,
        "joined": joined,
        "joined_count": joined_count,
        "write": write,
        "write_count": write_count,
    })
}

/// Answers with a document; in a cluster it says which nodes it is from.
pub(super) fn ok(mut body: Value, coverage: Option<Coverage>) -> Answer {
    if let Some(coverage) = coverage {
        body["nodes"] = json!(coverage);
    }
    json_answer(StatusCode::OK, body.to_string())
}

/// Decodes percent-encoding; `None` if the result is not UTF-8 or a `%` is not followed by two digits.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_path_is_decoded() {
        assert_eq!(decoded("a+b/c%2Fd%20%C3%BC%25").as_deref(), Some("a+b/c/d ü%"));
        for wrong in ["%", "%a", "%zz", "%+1", "%ff", "a%C3"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }
}
