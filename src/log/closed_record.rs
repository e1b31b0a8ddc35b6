//! The record of a closed connection or a rejected request.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

/// How far a connection had read a channel with a history: the numbers of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedPlace {
    /// The channel's name.
    pub channel: Box<str>,
    /// The history.
    pub epoch: u64,
    /// The number after which it was to get all messages.
    pub after: u64,
    /// The number up to which all were written to its socket; `None` if that is not known.
    pub up_to: Option<u64>,
    /// The number of the last message while it read the channel.
    pub last: u64,
}

/// A connection that was closed, or a request that was rejected.
///
/// The log writes a line for it, administrators who follow events receive it, and the server remembers it for lists.
#[derive(Clone, Debug)]
pub struct ClosedRecord {
    /// When it was closed or rejected, by the wall clock.
    pub at: SystemTime,
    /// The connection's id; `None` for a rejected request.
    pub connection: Option<Uuid>,
    /// The client's address.
    pub address: SocketAddr,
    /// The `sub` of its token.
    pub subject: Option<Box<str>>,
    /// Whether the token was valid. If not, `subject` is only a claim.
    pub verified: bool,
    /// The name of the reason, in snake case, which is the same in every version.
    pub reason: &'static str,
    /// The close code, 1006 without a Close frame, or the HTTP status of a rejection.
    pub code: u16,
    /// The sentence that the client received.
    pub sentence: Cow<'static, str>,
    /// How long the connection was open.
    pub duration: Duration,
    /// Messages received from it.
    pub messages_in: u64,
    /// Messages queued for it.
    pub messages_out: u64,
    /// Bytes received from it.
    pub bytes_in: u64,
    /// Bytes sent to it.
    pub bytes_out: u64,
    /// The most messages that were in its queue at once.
    pub greatest_queue: u64,
    /// How far it had read channels with a history, at most 16.
    pub places: Box<[ClosedPlace]>,
}
