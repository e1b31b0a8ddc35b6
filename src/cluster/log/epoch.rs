//! The epoch of the log, which is a record in the log itself, so that all nodes agree on it.
//!
//! One writer wins, because each names the record that it replaces. A record is written again before it ages out.

use std::time::Duration;

use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::{Client, HeaderMap};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::cluster::link::{Reason, SILENCE};

/// A record of the epoch, and its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) epoch: u64,
    /// The epoch before.
    pub(super) replaces: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    epoch: String,
    replaces: Option<String>,
}

/// How a write ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is in the log, under this number.
    At(u64),
    /// Another node has written one since.
    Lost,
}

/// The answer of JetStream.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// JetStream's error of a write that expected another last message ("wrong last sequence").
const WRONG_LAST_SEQUENCE: u64 = 10071;

/// Returns a random epoch. It is never 0, and leaves room so that its hexadecimal form has sixteen digits.
pub(super) fn random() -> u64 {
    Uuid::new_v4().as_u64_pair().0 | 1 << 63
}

/// Parses the payload of a record.
pub(super) fn parse(payload: &[u8], number: u64) -> Option<Record> {
    let text: Text = serde_json::from_slice(payload).ok()?;
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok().filter(|epoch| *epoch != 0);
    let replaces = match &text.replaces {
        Some(replaces) => Some(hexadecimal(replaces)?),
        None => None,
    };
    Some(Record { number, epoch: hexadecimal(&text.epoch)?, replaces })
}

/// Reads the last record of the log.
pub(super) async fn read(stream: &Stream, subject: &str) -> Result<Option<Record>, Reason> {
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => Ok(parse(&message.payload, message.sequence)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(format!("the epoch of the log cannot be read: {error}")),
    }
}

/// Writes a record if the last one is still that with the number `expected`, or there is none if it is 0.
pub(super) async fn write(
    client: &Client,
    subject: &str,
    expected: u64,
    epoch: u64,
    replaces: Option<u64>,
) -> Result<Written, Reason> {
    let text =
        Text { epoch: format!("{epoch:x}"), replaces: replaces.map(|replaces| format!("{replaces:x}")) };
    // A record always has a JSON form.
    let payload = serde_json::to_vec(&text).unwrap_or_default();
    let mut headers = HeaderMap::new();
    headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string().as_str());
    let request = client.request_with_headers(subject.to_owned(), headers, payload.into());
    let limit: Duration = SILENCE;
    let answer = match tokio::time::timeout(limit, request).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(format!("the epoch of the log cannot be written: {error}")),
        Err(_) => return Err("the epoch of the log cannot be written: NATS does not answer".to_owned()),
    };
    match serde_json::from_slice::<Answer>(&answer.payload) {
        Ok(Answer { error: Some(error), .. }) if error.err_code == WRONG_LAST_SEQUENCE => Ok(Written::Lost),
        Ok(Answer { error: Some(error), .. }) => {
            Err(format!("the epoch of the log cannot be written: {}", error.description))
        }
        Ok(Answer { seq, .. }) if seq > 0 => Ok(Written::At(seq)),
        _ => Err("the epoch of the log cannot be written: an answer without a number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_77_a_hostile_record_is_none() {
        assert_eq!(
            parse(br#"{"epoch":"8f","replaces":null}"#, 3),
            Some(Record { number: 3, epoch: 0x8f, replaces: None })
        );
        for payload in
            ["", "[]", "{}", r#"{"epoch":"0"}"#, r#"{"epoch":"x"}"#, r#"{"epoch":"1","replaces":"y"}"#]
        {
            assert_eq!(parse(payload.as_bytes(), 1), None, "{payload}");
        }
    }
}
