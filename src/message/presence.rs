//! What a client is told about the subjects that read a channel.

use std::io::Write;

use super::encode::{encode_text, quote};
use super::reply::separated;
use crate::frame::Frame;

/// A subject that reads a channel.
#[derive(Clone, Copy, Debug)]
pub struct Present<'a> {
    /// The `sub` of its tokens.
    pub subject: &'a str,
    /// Its connections that read the channel; 0 shortly after the last one has left.
    pub connections: usize,
    /// The claim `info` of its token, as JSON text.
    pub info: Option<&'a str>,
}

/// Everybody who reads a channel.
#[derive(Debug)]
pub struct PresenceReply<'a> {
    /// The channel.
    pub channel: &'a str,
    /// The subjects; `None` if there are too many to name.
    pub subjects: Option<&'a [Present<'a>]>,
    /// How many subjects there are.
    pub count: usize,
    /// Connections whose tokens have no subject.
    pub anonymous: usize,
    /// Nodes of a cluster whose readers are missing, because they did not answer in time.
    pub unanswered: &'a [&'a str],
    /// Nodes of a cluster of whose subjects some are missing, because there are too many.
    pub cut: &'a [&'a str],
}

impl PresenceReply<'_> {
    /// Encodes `{"presence": {"channel": NAME, "subjects": {SUBJECT: CONNECTIONS, ...}, "info": {SUBJECT: OBJECT, ...},
    /// "count": N, "anonymous": N, "unanswered": [NODE, ...], "cut": [NODE, ...]}}`. `subjects`, `info` and the lists of
    /// nodes are there if they apply.
    pub fn encode(&self) -> Frame {
        encode_text(|out| {
            begin(out, self.channel);
            if let Some(subjects) = self.subjects {
                out.extend_from_slice(b",\"subjects\":{");
                separated(out, subjects, |out, present| {
                    quote(out, present.subject);
                    // Writing to a Vec can't fail.
                    let _ = write!(out, ":{}", present.connections);
                });
                out.push(b'}');
                write_info(out, subjects);
            }
            count(out, self.count, Some(self.anonymous));
            for (key, nodes) in [("unanswered", self.unanswered), ("cut", self.cut)] {
                if !nodes.is_empty() {
                    // Writing to a Vec can't fail.
                    let _ = write!(out, ",\"{key}\":[");
                    separated(out, nodes, |out, node| quote(out, node));
                    out.push(b']');
                }
            }
            out.extend_from_slice(b"}}");
        })
    }
}

/// What has changed since the client was told last.
#[derive(Debug)]
pub struct PresenceChange<'a> {
    /// The channel.
    pub channel: &'a str,
    /// The subjects that have joined.
    pub joined: &'a [Present<'a>],
    /// The subjects that have left.
    pub left: &'a [&'a str],
    /// How many subjects there are now.
    pub count: usize,
    /// Connections whose tokens have no subject, if their number has changed.
    pub anonymous: Option<usize>,
}

impl PresenceChange<'_> {
    /// Encodes `{"presence": {"channel": NAME, "joined": [...], "left": [...], "info": {...}, "count": N, "anonymous": N}}`.
    pub fn encode(&self) -> Frame {
        encode_text(|out| {
            begin(out, self.channel);
            out.extend_from_slice(b",\"joined\":[");
            separated(out, self.joined, |out, present| quote(out, present.subject));
            out.extend_from_slice(b"],\"left\":[");
            separated(out, self.left, |out, subject| quote(out, subject));
            out.push(b']');
            write_info(out, self.joined);
            count(out, self.count, self.anonymous);
            out.extend_from_slice(b"}}");
        })
    }
}

fn begin(out: &mut Vec<u8>, channel: &str) {
    out.extend_from_slice(b"{\"presence\":{\"channel\":");
    quote(out, channel);
}

fn write_info(out: &mut Vec<u8>, subjects: &[Present<'_>]) {
    let mut informed =
        subjects.iter().filter_map(|present| Some((present.subject, present.info?))).peekable();
    if informed.peek().is_some() {
        out.extend_from_slice(b",\"info\":{");
        separated(out, informed, |out, (subject, info)| {
            quote(out, subject);
            out.push(b':');
            out.extend_from_slice(info.as_bytes());
        });
        out.push(b'}');
    }
}

fn count(out: &mut Vec<u8>, count: usize, anonymous: Option<usize>) {
    // Writing to a Vec can't fail.
    let _ = write!(out, ",\"count\":{count}");
    if let Some(anonymous) = anonymous {
        let _ = write!(out, ",\"anonymous\":{anonymous}");
    }
}
