//! Replies to a client on its own connection: errors, its access, acknowledgements.

use std::collections::HashMap;
use std::io::Write;

use super::encode::{encode_text, quote};
use super::{BadMessage, ChannelName, ChannelNames, ChannelPatterns, MessageId};
use crate::frame::Frame;
use crate::timestamp::{from_unix, rfc3339};

/// An error reply. The connection stays open.
#[derive(Debug)]
pub enum ErrorReply<'a> {
    /// The frame is not a valid message.
    BadMessage {
        /// The error.
        error: BadMessage,
        /// The frame's `ack` as JSON text, if it could be read.
        ack: Option<&'a str>,
    },
    /// The token does not allow the client to write to this channel.
    Forbidden {
        /// The channel of the message.
        channel: &'a str,
        /// The message's `ack`, as JSON text.
        ack: Option<&'a str>,
    },
    /// A `join` or a `leave` was refused because of this channel, and changed nothing.
    Denied(&'a ChannelName, Denial),
    /// The token in an `auth` was refused, with the reason. The connection keeps its access.
    Unauthorized(&'a str),
    /// The client sent more `auth`s than this in one second, so this one was ignored.
    TooManyAuths(u32),
    /// The cluster's log cannot store the message now, so it was not published.
    Unavailable {
        /// The channel of the message.
        channel: &'a str,
        /// The message's `ack`, as JSON text.
        ack: Option<&'a str>,
    },
    /// The cluster's log did not confirm the message, which may have been published or not.
    Unanswered {
        /// The channel of the message.
        channel: &'a str,
        /// The message's `ack`, as JSON text.
        ack: Option<&'a str>,
    },
    /// The client asked who reads more channels than this in one second, so this was ignored.
    TooManyPresences(u32),
    /// Over `[limits] messages_per_second` or `bytes_per_second`.
    RateLimited {
        /// The message's `ack`, as JSON text.
        ack: Option<&'a str>,
        /// The rates in force. A reload may have changed them since the last `access`.
        rates: Rates,
    },
}

/// Why a channel cannot be joined or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The token does not allow the client to join it.
    Join,
    /// With it the connection would read more channels than this, `[limits] channels_per_token`.
    TooMany(usize),
    /// The token names it in `read`.
    Leave,
    /// The token does not allow the client to see who reads it.
    Presence,
    /// The client does not read it, so it cannot see who does.
    Unread,
}

/// The rates that one connection must keep; 0 is no limit.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// `[limits] messages_per_second`.
    pub messages: usize,
    /// `[limits] bytes_per_second`, in bytes of payload.
    pub bytes: usize,
}

impl Rates {
    /// Appends `,"messages_per_second":N,"bytes_per_second":N`, each only if there is a limit.
    fn encode(self, out: &mut Vec<u8>) {
        for (key, rate) in [("messages_per_second", self.messages), ("bytes_per_second", self.bytes)] {
            if rate > 0 {
                // Writing to a Vec can't fail.
                let _ = write!(out, ",\"{key}\":{rate}");
            }
        }
    }
}

impl ErrorReply<'_> {
    /// Encodes `{"error": CODE, "channel": NAME, "message": SENTENCE, "ack": TEXT}`. `channel` and `ack` are there if
    /// they apply; `rate_limited` also has the rates.
    pub fn encode(&self) -> Frame {
        let (code, channel, sentence, ack) = match self {
            ErrorReply::BadMessage { error, ack } => ("bad_message", None, error.to_string(), *ack),
            ErrorReply::Forbidden { channel, ack } => {
                let sentence = format!("this token may not write to channel \"{channel}\"");
                ("forbidden", Some(*channel), sentence, *ack)
            }
            ErrorReply::Denied(channel, denial) => {
                let channel = channel.as_str();
                let sentence = match denial {
                    Denial::Join => format!("this token may not join channel \"{channel}\""),
                    Denial::TooMany(max) => {
                        format!(
                            "cannot join channel \"{channel}\": a connection may read at most {max} channels"
                        )
                    }
                    Denial::Leave => {
                        format!("this token names channel \"{channel}\" in read, so it cannot be left")
                    }
                    Denial::Presence => format!("this token may not see who reads channel \"{channel}\""),
                    Denial::Unread => {
                        format!("only readers of channel \"{channel}\" see who reads it: join it first")
                    }
                };
                ("forbidden", Some(channel), sentence, None)
            }
            ErrorReply::Unavailable { channel, ack } => {
                let sentence = "the cluster cannot store messages now, and this one was not published; send it again later";
                ("unavailable", Some(*channel), sentence.to_owned(), *ack)
            }
            ErrorReply::Unanswered { channel, ack } => {
                let sentence =
                    "the cluster did not confirm this message in time: it may have been published or not";
                ("unanswered", Some(*channel), sentence.to_owned(), *ack)
            }
            ErrorReply::Unauthorized(sentence) => ("unauthorized", None, (*sentence).to_owned(), None),
            ErrorReply::TooManyAuths(max) => {
                ("rate_limited", None, format!("a connection may send {max} tokens a second"), None)
            }
            ErrorReply::TooManyPresences(max) => {
                let sentence = format!("a connection may ask who reads {max} channels a second");
                ("rate_limited", None, sentence, None)
            }
            ErrorReply::RateLimited { ack, .. } => {
                let sentence = "too fast: this message exceeds the server's rate and was not published";
                ("rate_limited", None, sentence.to_owned(), *ack)
            }
        };
        encode_text(|out| {
            out.extend_from_slice(b"{\"error\":");
            quote(out, code);
            if let Some(channel) = channel {
                out.extend_from_slice(b",\"channel\":");
                quote(out, channel);
            }
            out.extend_from_slice(b",\"message\":");
            quote(out, &sentence);
            if let Some(ack) = ack {
                out.extend_from_slice(b",\"ack\":");
                out.extend_from_slice(ack.as_bytes());
            }
            if let ErrorReply::RateLimited { rates, .. } = self {
                rates.encode(out);
            }
            out.push(b'}');
        })
    }
}

/// The access that a token grants a connection, sent at the start of philote.v1 and after an `auth`.
#[derive(Debug)]
pub struct AccessReply<'a> {
    /// The connection's id, which is the issuer of its messages.
    pub connection: &'a str,
    /// Its `sub`.
    pub subject: Option<&'a str>,
    /// The channels that it reads.
    pub read: ChannelNames<'a>,
    /// The channels that it writes.
    pub write: ChannelNames<'a>,
    /// The channels that it may join, and those that it may write besides, if its token has the claim `may`.
    pub may: Option<[Option<&'a ChannelPatterns>; 2]>,
    /// Its `exp`, in seconds since 1970.
    pub expires: Option<u64>,
    /// `[websocket] max_message_size`: the most bytes of one frame that it may send.
    pub max_message_size: usize,
    /// The rates that it must keep.
    pub rates: Rates,
    /// For each joined channel that `since` names with an id, whether all missed messages follow.
    pub recovered: &'a [(ChannelName, bool)],
    /// For each joined channel with a history, the id after which the connection receives every message.
    pub ids: &'a [(ChannelName, MessageId)],
}

impl AccessReply<'_> {
    /// Encodes `{"access": {"connection": ..., "subject": ..., "read": [...], "write": [...], "may": {"read": [...],
    /// "write": [...]}, "expires_at": ..., "max_message_size": ..., "messages_per_second": ..., "bytes_per_second": ...,
    /// "recovered": {...}, "ids": {...}}}`. The rates are there if they are limited, `may` if the token has it, and the
    /// last two if they are not empty.
    pub fn encode(&self) -> Frame {
        encode_text(|out| {
            out.extend_from_slice(b"{\"access\":{\"connection\":");
            quote(out, self.connection);
            out.extend_from_slice(b",\"subject\":");
            quote_or_null(out, self.subject);
            out.extend_from_slice(b",\"read\":[");
            separated(out, self.read.iter(), quote);
            out.extend_from_slice(b"],\"write\":[");
            separated(out, self.write.iter(), quote);
            out.push(b']');
            if let Some([read, write]) = self.may {
                out.extend_from_slice(b",\"may\":{\"read\":[");
                separated(out, read.iter().flat_map(|read| read.iter()), |out, pattern| {
                    quote(out, &pattern.to_string())
                });
                out.extend_from_slice(b"],\"write\":[");
                separated(out, write.iter().flat_map(|write| write.iter()), |out, pattern| {
                    quote(out, &pattern.to_string())
                });
                out.extend_from_slice(b"]}");
            }
            out.extend_from_slice(b",\"expires_at\":");
            let expires = self.expires.map(|expires| rfc3339(from_unix(expires)).to_string());
            quote_or_null(out, expires.as_deref());
            // Writing to a Vec can't fail.
            let _ = write!(out, ",\"max_message_size\":{}", self.max_message_size);
            self.rates.encode(out);
            if !self.recovered.is_empty() {
                out.extend_from_slice(b",\"recovered\":{");
                separated(out, self.recovered, |out, (name, recovered)| {
                    quote(out, name.as_str());
                    out.extend_from_slice(if *recovered { b":true" } else { b":false" });
                });
                out.push(b'}');
            }
            if !self.ids.is_empty() {
                out.extend_from_slice(b",\"ids\":{");
                separated(out, self.ids, |out, (name, id)| {
                    quote(out, name.as_str());
                    // Writing to a Vec can't fail.
                    let _ = write!(out, ":\"{id}\"");
                });
                out.push(b'}');
            }
            out.extend_from_slice(b"}}");
        })
    }
}

/// The reply to a `join`.
#[derive(Debug)]
pub struct JoinedReply<'a> {
    /// The channels that it names, which the connection reads now.
    pub channels: &'a [ChannelName],
    /// Of those that `since` names with an id and that it did not read before, whether all missed messages follow.
    pub recovered: &'a [(ChannelName, bool)],
    /// Of those with a history that it did not read before, the id after which it receives every message.
    pub ids: &'a [(ChannelName, MessageId)],
}

impl JoinedReply<'_> {
    /// Encodes `{"joined": {NAME: {"id": ID, "recovered": true}, ...}}`; `id` and `recovered` are there if they apply.
    pub fn encode(&self) -> Frame {
        let ids: HashMap<&ChannelName, MessageId> = self.ids.iter().map(|(name, id)| (name, *id)).collect();
        let recovered: HashMap<&ChannelName, bool> =
            self.recovered.iter().map(|(name, recovered)| (name, *recovered)).collect();
        encode_text(|out| {
            out.extend_from_slice(b"{\"joined\":{");
            separated(out, self.channels, |out, name| {
                quote(out, name.as_str());
                // Writing to a Vec can't fail.
                let _ = match (ids.get(name), recovered.get(name)) {
                    (Some(id), Some(recovered)) => {
                        write!(out, ":{{\"id\":\"{id}\",\"recovered\":{recovered}}}")
                    }
                    (Some(id), None) => write!(out, ":{{\"id\":\"{id}\"}}"),
                    (None, Some(recovered)) => write!(out, ":{{\"recovered\":{recovered}}}"),
                    (None, None) => write!(out, ":{{}}"),
                };
            });
            out.extend_from_slice(b"}}");
        })
    }
}

/// Encodes `{"left": [NAME, ...]}`: channels that the connection does not read any more.
pub fn encode_left(channels: &[ChannelName]) -> Frame {
    encode_text(|out| {
        out.extend_from_slice(b"{\"left\":[");
        separated(out, channels, |out, name| quote(out, name.as_str()));
        out.extend_from_slice(b"]}");
    })
}

/// The readers to which a message was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderCount {
    /// All of them.
    All(usize),
    /// Those on this node. The others are not known.
    Here(usize),
}

/// Encodes the reply to a message that the cluster's log has stored, with the readers on this node.
pub fn ack_reply(ack: &str, readers: usize, id: Option<MessageId>) -> Frame {
    encode_text(|out| write_ack(out, ack, ReaderCount::Here(readers), id))
}

/// Encodes the same reply as JSON text. Its `ack` is null if the message has none.
pub fn published_reply(ack: Option<&str>, readers: ReaderCount, id: Option<MessageId>) -> Vec<u8> {
    let mut out = Vec::new();
    write_ack(&mut out, ack.unwrap_or("null"), readers, id);
    out
}

/// Appends the reply to a message with an `ack`, whose JSON text it repeats: `{"ack": TEXT, "readers": N, "id": ID}`,
/// where `id` is there if the channel has a history. In a cluster `readers` is null, and `readers_here` is the number.
pub(super) fn write_ack(out: &mut Vec<u8>, ack: &str, readers: ReaderCount, id: Option<MessageId>) {
    out.extend_from_slice(b"{\"ack\":");
    out.extend_from_slice(ack.as_bytes());
    // Writing to a Vec can't fail.
    let _ = match readers {
        ReaderCount::All(readers) => write!(out, ",\"readers\":{readers}"),
        ReaderCount::Here(readers) => write!(out, ",\"readers\":null,\"readers_here\":{readers}"),
    };
    if let Some(id) = id {
        // Writing to a Vec can't fail.
        let _ = write!(out, ",\"id\":\"{id}\"");
    }
    out.push(b'}');
}

fn quote_or_null(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => quote(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

pub(super) fn separated<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, item);
    }
}
