//! Why a request or a connection is rejected, and the answer or Close that tells its client.

use std::fmt;

use hyper::StatusCode;

use crate::close::CloseReason;
use crate::frame::Frame;
use crate::timestamp::{from_unix, rfc3339};
use crate::token::{TokenError, UnixSeconds};

/// Why a request or a connection is rejected. `Display` is the sentence that the client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// A malformed request or upgrade.
    BadRequest(&'static str),
    /// A body that cannot be published: which message, and why.
    BadMessage(String),
    /// A parameter or a body that the route does not take: which, and why.
    BadParameter(String),
    /// A method that the route does not take; the methods that it takes.
    Method(&'static str),
    /// A plain GET where a WebSocket is served; the scheme of its URL.
    UpgradeRequired(&'static str),
    /// A version of the WebSocket protocol other than 13.
    Version,
    /// No such route under `/api/`.
    NotFound,
    /// A WebSocket at a path of the API.
    NotHere,
    /// A body over the limit, in bytes.
    BodyTooLarge(usize),
    /// A request head that is too long or has too many lines.
    HeadTooLarge,
    /// The request head did not arrive in time.
    Timeout,
    /// All of `max_connections` are taken.
    Full(usize),
    /// All connections are taken that the limit on open files leaves.
    OutOfDescriptors {
        /// That limit.
        limit: usize,
        /// The connections that it leaves.
        max: usize,
    },
    /// Too many connections have not shown a token yet, or too many of this address.
    Pending(usize),
    /// Too many connections are kept open for the next requests of backends.
    Kept(usize),
    /// The daemon stops.
    Draining,
    /// A developer asked the server to refuse connections for a short time (`--dev`).
    Refusing,
    /// No valid token.
    Token(TokenError),
    /// The token is valid but does not open the API.
    NotApi,
    /// The token opens only other parts of the API; the right that is missing.
    ApiRight(&'static str),
    /// The token does not allow publishing on this channel.
    Channel(String),
    /// The token does not allow seeing this channel.
    HiddenChannel(String),
    /// Too many subjects are banned already.
    RefusedSubjects(usize),
    /// Too many orders to disconnect many connections are in progress.
    Spreads(usize),
    /// Too many requests of this kind are in progress, and none ended in time.
    Busy(usize),
    /// All places of streams of events are taken.
    Streams(usize),
    /// Posted messages exceed the rate of one connection.
    TooFast,
    /// The log of the cluster cannot store the message now.
    NotStored,
    /// The log of the cluster did not confirm the message.
    NotConfirmed,
    /// The ban could not be written to the disk.
    NotRemembered,
    /// The `Host` of a request to a server for development does not name this machine.
    DevHost(String),
    /// A page of another origin.
    Origin(String),
    /// A client of philote.v1 that sent no token in time.
    TokenTimeout,
    /// A client of philote.v1 that sent more pings than this before its token.
    Pings(usize),
    /// The first messages of clients without a token hold as many bytes as they may.
    FirstMessages(usize),
    /// The requests to the API hold as many bytes as they may.
    Requests(usize),
    /// A client of philote.v1 that sent something else before its token.
    TokenFirst,
    /// Frames of a client of philote.v1 broke the protocol before its token came.
    Frames(CloseReason),
    /// An administrator has banned the token's subject until this time.
    Subject {
        /// Seconds since 1970.
        until: UnixSeconds,
    },
    /// The address has `connections_per_address` connections.
    PerAddress(usize),
    /// The subject has `connections_per_subject` connections.
    PerSubject(usize),
    /// The address exceeds `handshakes_per_second`.
    Handshakes(usize),
    /// No TLS, or no version that both sides speak; what is wrong.
    Tls(String),
    /// HTTP without TLS on a port for TLS.
    PlainHttp,
    /// The header of the PROXY protocol is missing or malformed.
    ProxyHeader,
    /// The server has a fault.
    Internal,
}

/// A rejection, with the subject as far as it is known.
pub(crate) struct Rejected {
    pub(crate) rejection: Rejection,
    /// The `sub` of the token. Unverified if the token itself was rejected.
    pub(crate) subject: Option<Box<str>>,
    /// The client is told by a close code and not by an HTTP status, as on philote.v1.
    pub(crate) by_close: bool,
}

impl Rejected {
    /// Returns the close code or the HTTP status that the client is told.
    pub(crate) fn code(&self) -> u16 {
        if self.by_close { self.rejection.close_code() } else { self.rejection.status().as_u16() }
    }
}

impl From<Rejection> for Rejected {
    fn from(rejection: Rejection) -> Rejected {
        Rejected { rejection, subject: None, by_close: false }
    }
}

impl Rejection {
    /// Adds the subject of the request.
    pub(crate) fn of(self, subject: Option<Box<str>>) -> Rejected {
        Rejected { rejection: self, subject, by_close: false }
    }

    /// Returns the HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Rejection::BadRequest(_)
            | Rejection::BadMessage(_)
            | Rejection::BadParameter(_)
            | Rejection::Tls(_)
            | Rejection::PlainHttp
            | Rejection::ProxyHeader => StatusCode::BAD_REQUEST,
            Rejection::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Rejection::UpgradeRequired(_) | Rejection::Version => StatusCode::UPGRADE_REQUIRED,
            Rejection::NotFound | Rejection::NotHere => StatusCode::NOT_FOUND,
            Rejection::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Rejection::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Rejection::Timeout => StatusCode::REQUEST_TIMEOUT,
            Rejection::Full(_)
            | Rejection::OutOfDescriptors { .. }
            | Rejection::Pending(_)
            | Rejection::Kept(_)
            | Rejection::FirstMessages(_)
            | Rejection::Requests(_)
            | Rejection::Draining
            | Rejection::Refusing
            | Rejection::Spreads(_)
            | Rejection::Streams(_)
            | Rejection::NotStored
            | Rejection::NotConfirmed
            | Rejection::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            Rejection::Token(_) | Rejection::TokenTimeout | Rejection::TokenFirst | Rejection::Frames(_) => {
                StatusCode::UNAUTHORIZED
            }
            Rejection::NotApi
            | Rejection::ApiRight(_)
            | Rejection::Channel(_)
            | Rejection::HiddenChannel(_)
            | Rejection::DevHost(_)
            | Rejection::Origin(_)
            | Rejection::Subject { .. } => StatusCode::FORBIDDEN,
            Rejection::RefusedSubjects(_) => StatusCode::CONFLICT,
            Rejection::PerAddress(_)
            | Rejection::PerSubject(_)
            | Rejection::Handshakes(_)
            | Rejection::TooFast
            | Rejection::Pings(_) => StatusCode::TOO_MANY_REQUESTS,
            Rejection::Internal | Rejection::NotRemembered => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the close code on philote.v1.
    fn close_code(&self) -> u16 {
        match self {
            Rejection::Full(_)
            | Rejection::OutOfDescriptors { .. }
            | Rejection::Pending(_)
            | Rejection::FirstMessages(_)
            | Rejection::Draining
            | Rejection::Refusing => 1013,
            Rejection::Token(_) | Rejection::TokenTimeout | Rejection::TokenFirst => 4401,
            Rejection::Frames(reason) => reason.code(),
            Rejection::PerAddress(_)
            | Rejection::PerSubject(_)
            | Rejection::Handshakes(_)
            | Rejection::TooFast
            | Rejection::Pings(_) => 4429,
            Rejection::Internal => 1011,
            _ => 4403,
        }
    }

    /// Returns whether the same client may be admitted a little later.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self.close_code(), 1013 | 4429)
    }

    /// Returns the Close on philote.v1.
    pub(crate) fn close(&self) -> Frame {
        Frame::close_with(self.close_code(), &self.to_string())
    }

    /// Returns the `error` of the answer's body.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Rejection::BadRequest(_) | Rejection::BadParameter(_) | Rejection::PlainHttp => "bad_request",
            Rejection::Tls(_) => "tls_handshake",
            Rejection::ProxyHeader => "proxy_header",
            Rejection::BadMessage(_) => "bad_message",
            Rejection::Method(_) => "method_not_allowed",
            Rejection::UpgradeRequired(_) | Rejection::Version => "upgrade_required",
            Rejection::NotFound | Rejection::NotHere => "not_found",
            Rejection::BodyTooLarge(_) => "body_too_large",
            Rejection::HeadTooLarge => "head_too_large",
            Rejection::Timeout => "request_timeout",
            Rejection::Full(_)
            | Rejection::OutOfDescriptors { .. }
            | Rejection::Pending(_)
            | Rejection::Kept(_)
            | Rejection::FirstMessages(_)
            | Rejection::Requests(_)
            | Rejection::Draining
            | Rejection::Refusing
            | Rejection::Spreads(_)
            | Rejection::Streams(_)
            | Rejection::NotStored
            | Rejection::Busy(_) => "unavailable",
            Rejection::NotConfirmed => "unanswered",
            Rejection::Token(_) | Rejection::TokenTimeout | Rejection::TokenFirst | Rejection::Frames(_) => {
                "unauthorized"
            }
            Rejection::NotApi
            | Rejection::ApiRight(_)
            | Rejection::Channel(_)
            | Rejection::HiddenChannel(_)
            | Rejection::DevHost(_)
            | Rejection::Origin(_)
            | Rejection::Subject { .. } => "forbidden",
            Rejection::RefusedSubjects(_) => "conflict",
            Rejection::PerAddress(_)
            | Rejection::PerSubject(_)
            | Rejection::Handshakes(_)
            | Rejection::TooFast
            | Rejection::Pings(_) => "rate_limited",
            Rejection::Internal | Rejection::NotRemembered => "internal_error",
        }
    }

    /// Returns a stable name in snake case, for logs and counters. It is finer than the code.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Rejection::Full(_) => "max_connections",
            Rejection::OutOfDescriptors { .. } => "descriptor_limit",
            Rejection::Pending(_) => "max_pending",
            Rejection::Kept(_) => "max_kept",
            Rejection::Draining => "draining",
            Rejection::Refusing => "dev_fault",
            Rejection::Token(error) => error.name(),
            Rejection::TokenTimeout => "token_timeout",
            Rejection::TokenFirst => "token_not_first",
            Rejection::Pings(_) => "pings_before_token",
            Rejection::FirstMessages(_) => "first_messages",
            Rejection::Requests(_) => "max_request_bytes",
            Rejection::Frames(reason) => reason.name(),
            Rejection::NotApi | Rejection::ApiRight(_) => "not_api",
            Rejection::Channel(_) | Rejection::HiddenChannel(_) => "channel",
            Rejection::DevHost(_) => "host",
            Rejection::Origin(_) => "origin",
            Rejection::Subject { .. } => "subject_refused",
            Rejection::PerAddress(_) => "connections_per_address",
            Rejection::PerSubject(_) => "connections_per_subject",
            Rejection::Handshakes(_) => "handshakes_per_second",
            other => other.code(),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::BadRequest(sentence) => f.write_str(sentence),
            Rejection::BadMessage(sentence) | Rejection::BadParameter(sentence) => f.write_str(sentence),
            Rejection::Method(allowed) => write!(f, "this route takes {allowed} only"),
            Rejection::UpgradeRequired(scheme) => {
                write!(f, "this is a WebSocket server: connect with {scheme}")
            }
            Rejection::Version => f.write_str("only version 13 of the WebSocket protocol is spoken here"),
            Rejection::NotFound => f.write_str("there is no such route in the API"),
            Rejection::NotHere => f.write_str(
                "no WebSocket is served at or below /api and /health: connect to any other path, such as /",
            ),
            Rejection::BodyTooLarge(max) => write!(f, "the body may have {max} bytes at most"),
            Rejection::HeadTooLarge => f.write_str("the request head may have 16 KiB and 100 lines at most"),
            Rejection::Tls(reason) => write!(f, "the TLS handshake failed: {reason}"),
            Rejection::PlainHttp => f.write_str("this port speaks TLS: connect with wss:// or https://"),
            Rejection::ProxyHeader => f.write_str(
                "this listener expects a header of the PROXY protocol first (proxy_protocol = true)",
            ),
            Rejection::Timeout => f.write_str("the request did not arrive in time"),
            Rejection::Full(max) => write!(f, "the server is full: max_connections is {max}"),
            Rejection::OutOfDescriptors { limit, max } => {
                write!(f, "the server is full: its limit of {limit} open files leaves {max} connections")
            }
            Rejection::Pending(max) => write!(
                f,
                "too many connections without a token: at most {max} may wait, three quarters of them from one address"
            ),
            Rejection::Kept(max) => {
                write!(f, "{max} connections with a token are kept open, and this one was idle longest")
            }
            Rejection::Draining => f.write_str("the server is stopping"),
            Rejection::Refusing => {
                f.write_str("a developer asked this server to refuse connections for a short time")
            }
            Rejection::Token(error) => error.fmt(f),
            Rejection::TokenTimeout => f.write_str("no token: send {\"auth\": TOKEN} as the first frame"),
            Rejection::Pings(max) => write!(f, "more than {max} pings before the token: send it first"),
            Rejection::FirstMessages(max) => {
                write!(
                    f,
                    "first messages of clients without a token fill {max} bytes, or three quarters of them are from one \
                     address; reconnect later"
                )
            }
            Rejection::Requests(max) => {
                write!(
                    f,
                    "nothing was done: requests to the API and unread answers fill {max} bytes, or three quarters of them \
                     are of one address; try again later"
                )
            }
            Rejection::TokenFirst => f.write_str("the first message must be {\"auth\": TOKEN}"),
            Rejection::Frames(reason) => f.write_str(reason.sentence()),
            Rejection::NotApi => {
                f.write_str("this token does not open the API: it needs the claim \"api\": true")
            }
            Rejection::ApiRight(right) => {
                write!(f, "this token does not open this part of the API: claim \"api\" lacks \"{right}\"")
            }
            Rejection::HiddenChannel(channel) => write!(f, "this token may not see channel \"{channel}\""),
            Rejection::RefusedSubjects(max) => write!(f, "{max} subjects are refused already"),
            Rejection::Spreads(max) => {
                write!(f, "nothing was done: {max} orders to disconnect many connections are in progress")
            }
            Rejection::Busy(max) => {
                write!(f, "nothing was done: {max} requests like this are in progress already")
            }
            Rejection::Streams(max) => write!(f, "{max} streams of events are open already"),
            Rejection::TooFast => {
                f.write_str("too fast: this message exceeds the server's rate and was not published")
            }
            Rejection::NotStored => f.write_str(
                "the cluster cannot store messages now, and this one was not published; send it again later",
            ),
            Rejection::NotConfirmed => f.write_str(
                "the cluster did not confirm this message in time: it may have been published or not",
            ),
            Rejection::NotRemembered => f.write_str(
                "nothing was done: the refused subjects could not be saved; the server's log has the reason",
            ),
            Rejection::Channel(channel) => write!(f, "this token may not publish on channel \"{channel}\""),
            Rejection::DevHost(host) => {
                write!(f, "a server for development is reached as localhost or 127.0.0.1, not as {host}")
            }
            Rejection::Origin(origin) => write!(f, "pages of the origin {origin} may not connect here"),
            Rejection::Subject { until } => {
                let until = rfc3339(from_unix(*until));
                write!(f, "an administrator refuses this token's subject until {until}")
            }
            Rejection::PerAddress(max) => {
                write!(f, "this address has too many connections: connections_per_address is {max}")
            }
            Rejection::PerSubject(max) => {
                write!(f, "this token's subject has too many connections: connections_per_subject is {max}")
            }
            Rejection::Handshakes(rate) => {
                write!(f, "this address connects too often: handshakes_per_second is {rate}")
            }
            Rejection::Internal => f.write_str("internal server error"),
        }
    }
}
