//! `GET /api/channels`, `/api/channels/{channel}` and `/api/connections`.

use std::sync::Arc;
use std::time::SystemTime;

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::page::{Page, Query};
use crate::hub::Connection;
use crate::message::{ChannelName, connection_id};
use crate::server::Server;
use crate::server::http::answer::{Answer, json_answer};
use crate::server::ops::list::{ConnectionFilter, count_writers, each_channel, each_connection};
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
    let mut page = Page::new(query.after.clone(), query.limit(MAX_ROWS)?);
    let body = server
        .background
        .run(server, deadline, move |server| {
            each_channel(server, query.prefix.as_deref(), |name, stats| {
                let name = name.as_str();
                if claims.may_see(name) {
                    page.offer(name, || (name.to_owned(), stats.readers));
                }
            });
            let writers = count_writers(server, page.keys().map(String::as_str));
            let (rows, next) = page.write(|name, readers| {
                json!({"channel": name, "readers": readers, "writers": writers.get(name.as_str())})
            });
            json!({"channels": rows, "next": next})
        })
        .await?;
    Ok(ok(&body))
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
    ChannelName::check(&name, server.live().settings.limits.channel_name_bytes)
        .map_err(|error| Rejection::BadParameter(error.to_string()))?;
    if !claims.may_see(&name) {
        return Err(Rejection::HiddenChannel(name));
    }
    let query = Query::parse(query)?;
    let mut page = Page::new(query.after.clone().map(String::into_boxed_str), query.limit(MAX_ROWS)?);
    let body = server
        .background
        .run(server, deadline, move |server| {
            let (mut readers, mut writers) = (0_u64, 0_u64);
            server.hub.each_connection(|connection| {
                let user = connection.claims();
                writers += u64::from(user.may_write(&name));
                if connection.reads(&name) {
                    readers += 1;
                    if let Some(subject) = &user.subject {
                        page.offer(&**subject, || (subject.clone(), ()));
                    }
                }
            });
            let mut body = json!({"channel": name, "readers": readers, "writers": writers});
            if claims.api.has(ApiRight::Subjects) {
                let (subjects, next) = page.write(|subject, ()| json!(subject));
                body["subjects"] = json!(subjects);
                body["next"] = json!(next);
            }
            body
        })
        .await?;
    Ok(ok(&body))
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
    let Some(subject) = query.subject else {
        return Err(Rejection::BadRequest("the query needs a subject: ?subject=NAME"));
    };
    let after = query.after.map(|after| {
        connection_id(&after).ok_or(Rejection::BadRequest("after must be the id of a connection"))
    });
    let mut page = Page::new(after.transpose()?, limit);
    let body = server
        .background
        .run(server, deadline, move |server| {
            let filter = ConnectionFilter { subject: Some(&subject), ..ConnectionFilter::default() };
            each_connection(server, &filter, |connection| {
                page.offer(&connection.id(), || (connection.id(), connection.clone()));
            });
            let (rows, next) = page.write(|_, connection| row(connection, &claims));
            json!({"connections": rows, "next": next})
        })
        .await?;
    Ok(ok(&body))
}

/// Writes a connection, with the channels that the token may see.
fn row(connection: &Connection, viewer: &Claims) -> Value {
    let claims = connection.claims();
    let names = |channels: &[ChannelName]| {
        let visible = || channels.iter().map(ChannelName::as_str).filter(|name| viewer.may_see(name));
        (visible().take(MAX_NAMES).collect::<Value>(), visible().count())
    };
    let (mut read, mut joined) = (Vec::new(), Vec::new());
    connection.each_channel(|name, was_joined| {
        read.push(name.clone());
        if was_joined {
            joined.push(name.clone());
        }
    });
    let [(read, read_count), (joined, joined_count), (write, write_count)] =
        [&read, &joined, claims.write()].map(names);
    json!({
        "connection": connection.id(),
        "subject": claims.subject,
        "connected_at": rfc3339(SystemTime::now() - connection.opened().elapsed()).to_string(),
        "expires_at": claims.expires.map(|expires| rfc3339(from_unix(expires)).to_string()),
        "read": read,
        "read_count": read_count,
        "joined": joined,
        "joined_count": joined_count,
        "write": write,
        "write_count": write_count,
    })
}

fn ok(body: &Value) -> Answer {
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
