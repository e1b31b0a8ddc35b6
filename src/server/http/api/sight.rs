//! What the API shows: channels, who reads them, and a subject's connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::page::{Page, Query};
use crate::hub::Connection;
use crate::message::{ChannelName, connection_id};
use crate::server::Server;
use crate::server::background::Background;
use crate::server::rejection::{Answer, Rejection, json_answer};
use crate::timestamp::{from_unix, rfc3339};
use crate::token::{ApiRight, Claims};

/// The most channels, and the most subjects, in one answer.
const MAX_ROWS: usize = 1000;

/// The most connections in one answer.
const MAX_CONNECTIONS: usize = 100;

/// The most names of channels in each of a connection's two lists.
const MAX_NAMES: usize = 100;

impl Server {
    /// Counts for each of these channels the connections that may write it, which stands in their tokens alone.
    pub fn count_writers<'a>(&self, channels: impl Iterator<Item = &'a str>) -> HashMap<&'a str, u64> {
        let mut writers: HashMap<&str, u64> = channels.map(|channel| (channel, 0)).collect();
        if !writers.is_empty() {
            self.hub.each_connection(|connection| {
                for channel in connection.access().write() {
                    if let Some(count) = writers.get_mut(channel.as_str()) {
                        *count += 1;
                    }
                }
            });
        }
        writers
    }
}

/// The channels that somebody reads, by name.
pub(crate) async fn channels(
    server: &Arc<Server>,
    access: Claims,
    deadline: Instant,
    query: &str,
) -> Result<Answer, Rejection> {
    let query = Query::parse(query)?;
    let mut page = Page::new(query.after.clone(), query.limit(MAX_ROWS)?);
    let body = Background::run(server, deadline, move |server| {
        let prefix = query.prefix.as_deref().unwrap_or_default();
        server.hub.each_channel(|name, stats| {
            let name = name.as_str();
            if name.starts_with(prefix) && access.may_see(name) {
                page.offer(name, || (name.to_owned(), stats.readers));
            }
        });
        let writers = server.count_writers(page.keys().map(String::as_str));
        let (rows, next) = page.write(|name, readers| {
            json!({"channel": name, "readers": readers, "writers": writers.get(name.as_str())})
        });
        json!({"channels": rows, "next": next})
    })
    .await?;
    Ok(ok(&body))
}

/// One channel, read or not: who may read and write it, and with the right its readers' subjects by name.
pub(crate) async fn channel(
    server: &Arc<Server>,
    access: Claims,
    deadline: Instant,
    name: &str,
    query: &str,
) -> Result<Answer, Rejection> {
    let name =
        decoded(name).ok_or(Rejection::BadRequest("the channel's name must be percent-encoded UTF-8"))?;
    ChannelName::check(&name, server.live().settings.limits.channel_name_bytes)
        .map_err(|error| Rejection::BadParameter(error.to_string()))?;
    if !access.may_see(&name) {
        return Err(Rejection::HiddenChannel(name));
    }
    let query = Query::parse(query)?;
    let mut page = Page::new(query.after.clone().map(String::into_boxed_str), query.limit(MAX_ROWS)?);
    let body = Background::run(server, deadline, move |server| {
        let (mut readers, mut writers) = (0_u64, 0_u64);
        server.hub.each_connection(|connection| {
            let theirs = connection.access();
            writers += u64::from(theirs.may_write(&name));
            if theirs.may_read(&name) {
                readers += 1;
                if let Some(subject) = &theirs.subject {
                    page.offer(&**subject, || (subject.clone(), ()));
                }
            }
        });
        let mut body = json!({"channel": name, "readers": readers, "writers": writers});
        if access.api.has(ApiRight::Subjects) {
            let (subjects, next) = page.write(|subject, ()| json!(subject));
            body["subjects"] = json!(subjects);
            body["next"] = json!(next);
        }
        body
    })
    .await?;
    Ok(ok(&body))
}

/// A subject's connections, by id.
pub(crate) async fn connections(
    server: &Arc<Server>,
    access: Claims,
    deadline: Instant,
    query: &str,
) -> Result<Answer, Rejection> {
    let query = Query::parse(query)?;
    let limit = query.limit(MAX_CONNECTIONS)?;
    let Some(subject) = query.subject else {
        return Err(Rejection::BadRequest("say whose connections: ?subject=NAME"));
    };
    let after = query
        .after
        .map(|after| connection_id(&after).ok_or(Rejection::BadRequest("after must be a connection's id")));
    let mut page = Page::new(after.transpose()?, limit);
    let body = Background::run(server, deadline, move |server| {
        server.hub.each_connection(|connection| {
            if connection.access().subject.as_deref() == Some(&subject) {
                page.offer(&connection.id(), || (connection.id(), connection.clone()));
            }
        });
        let (rows, next) = page.write(|_, connection| row(connection, &access));
        json!({"connections": rows, "next": next})
    })
    .await?;
    Ok(ok(&body))
}

fn row(connection: &Connection, seen_by: &Claims) -> Value {
    let access = connection.access();
    let names = |channels: &[ChannelName]| {
        let seen = || channels.iter().map(ChannelName::as_str).filter(|name| seen_by.may_see(name));
        (seen().take(MAX_NAMES).collect::<Value>(), seen().count())
    };
    let ((read, read_count), (write, write_count)) = (names(&access.read), names(access.write()));
    json!({
        "connection": connection.id(),
        "subject": access.subject,
        "connected_at": rfc3339(SystemTime::now() - connection.opened().elapsed()).to_string(),
        "expires_at": access.expires.map(|expires| rfc3339(from_unix(expires)).to_string()),
        "read": read,
        "read_count": read_count,
        "write": write,
        "write_count": write_count,
    })
}

fn ok(body: &Value) -> Answer {
    json_answer(StatusCode::OK, body.to_string())
}

/// The last part of a path, percent-decoded; `None` where that is not UTF-8 or a `%` stands for nothing.
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
    fn names_in_paths_are_decoded_or_refused() {
        assert_eq!(decoded("a+b/c%2Fd%20%C3%BC%25").as_deref(), Some("a+b/c/d ü%"));
        for wrong in ["%", "%a", "%zz", "%+1", "%ff", "a%C3"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }
}
