//! `POST /api/disconnect`: what `philotectl disconnect` does, for a backend.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use crate::message::connection_id;
use crate::server::background::Background;
use crate::server::bans::BanError;
use crate::server::rejection::{Answer, Rejection, json_answer};
use crate::server::shutdown::disconnect::Leave;
use crate::server::{Server, unix_now};
use crate::timestamp::{from_unix, rfc3339};
use crate::token::{Claims, MAX_SUBJECT_BYTES};

/// The longest body, in bytes.
const MAX_BODY_BYTES: usize = 4096;

/// The body, as it was written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, deserialize_with = "given")]
    subject: Option<String>,
    #[serde(default, deserialize_with = "given")]
    connection: Option<String>,
    #[serde(default, deserialize_with = "given")]
    refuse_for: Option<String>,
    #[serde(default)]
    reconnect: bool,
}

/// A value that is there, and is no null.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// What it means.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    whom: Whom,
    /// Seconds for which the subject is kept out.
    refuse_for: Option<u64>,
    reconnect: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Whom {
    Subject(String),
    Connection(Uuid),
}

impl Order {
    fn parse(body: &[u8]) -> Result<Order, Rejection> {
        const WHOM: &str = "say whom: {\"subject\": NAME} or {\"connection\": ID}, one of them";
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(Rejection::BadRequest(WHOM));
        }
        let written: Written = serde_json::from_slice(body)
            .map_err(|error| Rejection::BadParameter(format!("the body: {error}")))?;
        let Written { subject, connection, refuse_for, reconnect } = written;
        let refuse_for = refuse_for.map(|text| seconds(&text)).transpose()?;
        let whom = match (subject, connection) {
            (Some(subject), None) if subject.len() <= MAX_SUBJECT_BYTES => Whom::Subject(subject),
            (Some(_), None) => {
                let sentence = format!("a subject has {MAX_SUBJECT_BYTES} bytes at most");
                return Err(Rejection::BadParameter(sentence));
            }
            (None, Some(_)) if refuse_for.is_some() => {
                return Err(Rejection::BadRequest("refuse_for keeps a subject out: give a subject"));
            }
            (None, Some(id)) => Whom::Connection(
                connection_id(&id).ok_or(Rejection::BadRequest("connection must be a connection's id"))?,
            ),
            _ => return Err(Rejection::BadRequest(WHOM)),
        };
        if refuse_for.is_some() && reconnect {
            return Err(Rejection::BadRequest("who is refused can't be asked to reconnect"));
        }
        Ok(Order { whom, refuse_for, reconnect })
    }

    fn carry_out(&self, server: &Arc<Server>) -> Result<(usize, Option<u64>), Rejection> {
        let until = self.refuse_for.map(|seconds| unix_now().saturating_add(seconds));
        let leave = match (&self.whom, until) {
            (Whom::Subject(subject), Some(until)) => Leave::Refused { subject, until },
            _ if self.reconnect => Leave::ToReconnect,
            _ => Leave::ForGood,
        };
        let find = || {
            let mut ids = Vec::new();
            match &self.whom {
                Whom::Connection(id) => ids.push(*id),
                Whom::Subject(subject) => server.hub.each_connection(|connection| {
                    let is_theirs = connection.access().subject.as_deref() == Some(subject);
                    if is_theirs && connection.outbox.closing().is_none() {
                        ids.push(connection.id());
                    }
                }),
            }
            Ok::<_, Rejection>(ids)
        };
        Ok((server.disconnect(&leave, find)?, until))
    }
}

/// In the words of an audit line; quoted, so that no name can pretend to be another line.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.whom {
            Whom::Subject(subject) => write!(f, "subject {subject:?}")?,
            Whom::Connection(id) => write!(f, "connection {id}")?,
        }
        if self.reconnect {
            f.write_str(", to reconnect")?;
        }
        self.refuse_for.map_or(Ok(()), |seconds| write!(f, ", refused for {seconds} s"))
    }
}

impl From<BanError> for Rejection {
    fn from(error: BanError) -> Rejection {
        match error {
            BanError::TooMany => Rejection::RefusedSubjects(crate::server::bans::MAX_BANS),
            BanError::Spreads(max) => Rejection::Spreads(max),
            BanError::NotRemembered(error) => {
                tracing::error!(%error, "{error}");
                Rejection::NotRemembered
            }
        }
    }
}

/// Seconds of a duration such as `90s` or `24h`: one number and its unit.
fn seconds(text: &str) -> Result<u64, Rejection> {
    const WRONG: Rejection =
        Rejection::BadRequest("refuse_for must be a duration such as \"30m\" or \"24h\"");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(WRONG)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        _ => return Err(WRONG),
    };
    // A sign or a leading zero is no part of it.
    let plain = (1..=6).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse::<u64>().ok().filter(|_| plain && !number.starts_with('0'));
    number.map(|number| number * unit).ok_or(WRONG)
}

/// Sends connections away, and leaves a line in the log that says on whose order.
pub(crate) async fn disconnect(
    server: &Arc<Server>,
    access: Claims,
    client: SocketAddr,
    deadline: Instant,
    request: Request<Incoming>,
) -> Result<Answer, Rejection> {
    let order = Order::parse(&crate::server::http::api::body(request, MAX_BODY_BYTES, deadline).await?)?;
    let work = move |server: &Arc<Server>| {
        let outcome = order.carry_out(server);
        // Here, because whoever asked may hang up, and what is awaited then is never seen.
        audit(&order, &access, client, outcome.as_ref().map(|(count, _)| *count));
        outcome
    };
    let (count, until) = Background::run(server, deadline, work).await.flatten()?;
    let until = until.map(|until| rfc3339(from_unix(until)).to_string());
    let body = json!({"disconnected": count, "refused_until": until});
    Ok(json_answer(StatusCode::OK, body.to_string()))
}

/// Leaves the line.
fn audit(what: &Order, access: &Claims, client: SocketAddr, outcome: Result<usize, &Rejection>) {
    let said = match outcome {
        Ok(count) => format!("done, {count} being closed"),
        Err(rejection) => rejection.to_string(),
    };
    let subject = access.subject.as_deref();
    let whose = subject.map_or_else(|| "a token without a subject".into(), |subject| format!("{subject:?}"));
    let key = access.key.as_ref().map_or("no key", |key| key.name());
    tracing::info!(
        target: "philote::audit",
        token_subject = subject, token_key = key, address = %client, command = "disconnect", outcome = said,
        "api: disconnect of {what} by {whose} ({key}) from {client}: {said}",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_says_whom_and_how_and_nothing_that_contradicts_it() {
        const ID: &str = "5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a";
        let parse = |text: &str| Order::parse(text.as_bytes());
        let day = parse(r#" {"subject": "al\nice", "refuse_for": "24h", "reconnect": false}"#).unwrap();
        assert_eq!(day.to_string(), "subject \"al\\nice\", refused for 86400 s");
        let back = parse(&format!(r#"{{"connection": "{ID}", "reconnect": true}}"#)).unwrap();
        assert_eq!(back.to_string(), format!("connection {ID}, to reconnect"));
        for wrong in [
            "",
            "[]",
            r#"["alice", null, null, true]"#,
            "{}",
            r#"{"subject": null}"#,
            r#"{"subject": 7}"#,
            r#"{"subjet": "alice"}"#,
            r#"{"subject": "a", "subject": "b"}"#,
            &format!(r#"{{"subject": "alice", "connection": "{ID}"}}"#),
            &format!(r#"{{"connection": "{ID}", "refuse_for": "1h"}}"#),
            r#"{"connection": "5f0c6b0e"}"#,
            r#"{"subject": "alice", "refuse_for": "1h", "reconnect": true}"#,
            r#"{"subject": "alice", "reconnect": null}"#,
            &json!({"subject": "x".repeat(MAX_SUBJECT_BYTES + 1)}).to_string(),
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_duration_is_a_number_and_its_unit() {
        for (text, expected) in
            [("1s", 1), ("30m", 1800), ("24h", 86_400), ("7d", 604_800), ("999999w", 604_799_395_200)]
        {
            assert_eq!(seconds(text).ok(), Some(expected), "{text}");
        }
        for wrong in
            ["", "s", "0s", "01s", "24", "1000000s", "-1s", "+1s", "1.5h", "1h 30m", "1ms", "1ü", "é"]
        {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
