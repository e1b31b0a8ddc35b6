//! The lines of a stream of events.

use std::time::SystemTime;

use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::message::{ChannelName, MessageId};
use crate::timestamp::rfc3339;

/// What a line says.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    /// A connection was opened.
    Opened { connection: Uuid, subject: Option<&'a str> },
    /// A connection was closed.
    Closed { connection: Uuid, subject: Option<&'a str>, reason: &'static str, code: u16 },
    /// A channel has its first reader.
    Occupied {
        #[serde(serialize_with = "text")]
        channel: &'a ChannelName,
    },
    /// A channel's last reader has left.
    Vacated {
        #[serde(serialize_with = "text")]
        channel: &'a ChannelName,
    },
    /// A subject has its first connection that reads a channel.
    Joined {
        #[serde(serialize_with = "text")]
        channel: &'a ChannelName,
        subject: &'a str,
    },
    /// The last connection of a subject has left a channel.
    Left {
        #[serde(serialize_with = "text")]
        channel: &'a ChannelName,
        subject: &'a str,
    },
    /// The stream is open, at this position.
    Alive,
    /// The stream cannot continue where the client was.
    Missed { message: &'static str },
    /// The stream ends.
    Ended {
        reason: &'static str,
        message: &'static str,
        /// The events that a reader which was too slow does not get.
        #[serde(skip_serializing_if = "Option::is_none")]
        missed: Option<u64>,
    },
}

impl Event<'static> {
    /// The first line of a stream that should continue after an event, and cannot.
    pub(super) const LOST: Event<'static> =
        Event::Missed { message: "not all events since the last one are kept: load the state again" };
}

impl<'a> Event<'a> {
    /// Returns the channel that it is about.
    pub(super) fn channel(&self) -> Option<&'a ChannelName> {
        match self {
            Event::Occupied { channel }
            | Event::Vacated { channel }
            | Event::Joined { channel, .. }
            | Event::Left { channel, .. } => Some(channel),
            _ => None,
        }
    }
}

/// A line.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    #[serde(flatten)]
    pub(super) event: &'a Event<'a>,
    #[serde(serialize_with = "id", skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<MessageId>,
    #[serde(serialize_with = "at")]
    pub(super) at: SystemTime,
    /// The name of this node, if it is in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<&'a str>,
}

impl Line<'_> {
    /// Returns its JSON text.
    pub(super) fn json(&self) -> Box<str> {
        // It has no map with keys other than text, which alone could fail.
        serde_json::to_string(self).unwrap_or_default().into()
    }
}

fn text<S: Serializer>(channel: &ChannelName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(channel.as_str())
}

fn id<S: Serializer>(id: &Option<MessageId>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&id.unwrap_or(MessageId::NONE))
}

fn at<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&rfc3339(*at))
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object on each line.
    JsonLines,
    /// Server-Sent Events, whose ids are those of the events.
    ServerSent,
}

impl Format {
    /// Returns its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::JsonLines => "application/x-ndjson",
            Format::ServerSent => "text/event-stream",
        }
    }

    pub(super) fn write(self, id: Option<MessageId>, json: &str, bytes: &mut Vec<u8>) {
        if self == Format::ServerSent {
            if let Some(id) = id {
                bytes.extend_from_slice(format!("id: {id}\n").as_bytes());
            }
            bytes.extend_from_slice(b"data: ");
        }
        bytes.extend_from_slice(json.as_bytes());
        bytes.extend_from_slice(if self == Format::ServerSent { b"\n\n" } else { b"\n" });
    }
}
