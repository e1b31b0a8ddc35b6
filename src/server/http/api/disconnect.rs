//! `POST /api/disconnect`: closes the connections of a subject, or one connection.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use tokio::time::Instant;

use super::lists::ok;
use crate::message::connection_id;
use crate::orders::{Actor, DisconnectOrder, audit};
use crate::server::Server;
use crate::server::accept::pending::Waiting;
use crate::server::bans::{BanError, MAX_BANS};
use crate::server::http::answer::Answer;
use crate::server::ops::disconnect::{DisconnectError, disconnect};
use crate::server::ops::everywhere::{Reach, disconnect_others};
use crate::server::rejection::Rejection;
use crate::timestamp::{from_unix, rfc3339};
use crate::token::Claims;

/// The longest body, in bytes.
const MAX_BODY_BYTES: usize = 4096;

/// The body of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(default, deserialize_with = "string")]
    subject: Option<String>,
    #[serde(default, deserialize_with = "string")]
    connection: Option<String>,
    #[serde(default, deserialize_with = "string")]
    refuse_for: Option<String>,
    #[serde(default)]
    reconnect: bool,
    #[serde(default)]
    local: bool,
}

/// Parses a string; `null` is an error.
fn string<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// Parses a body into an order for one subject or one connection, and whether it is for this node only.
fn parse(body: &[u8]) -> Result<(DisconnectOrder, bool), Rejection> {
    const USAGE: &str = "the body must be {\"subject\": NAME} or {\"connection\": ID}";
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Rejection::BadRequest(USAGE));
    }
    let body: Body = serde_json::from_slice(body)
        .map_err(|error| Rejection::BadParameter(format!("the body is invalid: {error}")))?;
    let Body { subject, connection, refuse_for, reconnect, local } = body;
    let ids = match (&subject, connection) {
        (Some(_), None) => Vec::new(),
        (None, Some(id)) => {
            let id = connection_id(&id);
            vec![id.ok_or(Rejection::BadRequest("connection must be the id of a connection"))?.into()]
        }
        _ => return Err(Rejection::BadRequest(USAGE)),
    };
    let ban_seconds = refuse_for.map(|text| seconds(&text)).transpose()?;
    if local && ban_seconds.is_some() {
        return Err(Rejection::BadRequest(
            "local and refuse_for exclude each other: all nodes learn of a ban",
        ));
    }
    Ok((DisconnectOrder { ids, subject, ban_seconds, reconnect, ..DisconnectOrder::default() }, local))
}

impl From<DisconnectError> for Rejection {
    fn from(error: DisconnectError) -> Rejection {
        match error {
            DisconnectError::Invalid(sentence) => Rejection::BadParameter(sentence),
            DisconnectError::Ambiguous { .. } => Rejection::BadParameter(error.to_string()),
            DisconnectError::TooManyInProgress(max) => Rejection::Spreads(max),
            DisconnectError::Ban(BanError::TooMany) => Rejection::RefusedSubjects(MAX_BANS),
            DisconnectError::Ban(BanError::NotRemembered(error)) => {
                tracing::error!(%error, "{error}");
                Rejection::NotRemembered
            }
        }
    }
}

/// Parses a duration such as `90s` or `24h`, a number with one unit, and returns its seconds.
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
    // A sign and a leading zero are not allowed.
    let plain = (1..=6).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse::<u64>().ok().filter(|_| plain && !number.starts_with('0'));
    number.map(|number| number * unit).ok_or(WRONG)
}

/// Closes connections, and writes an audit line.
pub(super) async fn answer(
    server: &Arc<Server>,
    waiting: &Waiting,
    claims: Claims,
    client: SocketAddr,
    deadline: Instant,
    request: Request<Incoming>,
) -> Result<Answer, Rejection> {
    let (order, local) = parse(&super::body(request, waiting, MAX_BODY_BYTES, deadline).await?)?;
    let to_others = order.clone();
    let work = move |server: &Arc<Server>| {
        let outcome = disconnect(server, &order).map_err(Rejection::from);
        // The audit line is written here, because this runs to its end even if the client disconnects.
        let text = match &outcome {
            Ok(done) => format!("done, {} being closed", done.matched),
            Err(rejection) => rejection.to_string(),
        };
        let key = claims.key.as_ref().map_or("no key", |key| key.name());
        let actor = Actor::Token { subject: claims.subject(), key, address: client };
        audit(actor, "disconnect", &format!("of {order}"), &text);
        outcome
    };
    let done = server.background.run(server, deadline, work).await.flatten()?;
    let everywhere = {
        let server = server.clone();
        async move { disconnect_others(&Reach::of(&server, local), to_others, false, done).await }
    };
    // A task of its own, which the other nodes hear even if the client disconnects.
    let (done, coverage) = tokio::spawn(everywhere).await.map_err(|_| Rejection::Internal)?;
    let until = done.banned_until.map(|until| rfc3339(from_unix(until)).to_string());
    Ok(ok(json!({"disconnected": done.matched, "refused_until": until}), coverage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_selects_a_subject_or_a_connection() {
        const ID: &str = "5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a";
        let parse = |text: &str| parse(text.as_bytes()).map(|(order, _)| order);
        let day = parse(r#" {"subject": "al\nice", "refuse_for": "24h", "reconnect": false}"#).unwrap();
        assert_eq!(day.to_string(), "subject \"al\\nice\", banned for 86400 s");
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
            r#"{"connection": "5f0c6b0e"}"#,
            r#"{"subject": "alice", "reconnect": null}"#,
            r#"{"subject": "alice", "refuse_for": "1h", "local": true}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_duration_is_a_number_with_a_unit() {
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
