//! Close reasons: the close code, the name in logs and lists, and the sentence that the client reads.

/// The reason why a connection was closed. The first reason counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client sent a Close frame.
    ClientClosed,
    /// The client's connection ended without a Close frame.
    ClientGone,
    /// The daemon stops.
    Stopping,
    /// The daemon restarts, or an administrator asked the client to reconnect.
    Restarting,
    /// The client broke the WebSocket protocol.
    ProtocolError,
    /// Text that is not UTF-8.
    InvalidUtf8,
    /// A message did not arrive whole in time.
    MessageTooSlow,
    /// A message came in too many fragments.
    TooManyFragments,
    /// A message is larger than `[websocket] max_message_size`.
    MessageTooBig,
    /// The server has a fault.
    InternalError,
    /// The token's `exp` has passed.
    TokenExpired,
    /// The server no longer has the key that signed the token.
    KeyWithdrawn,
    /// An administrator disconnected it.
    Disconnected,
    /// An administrator banned the token's subject.
    SubjectRefused,
    /// The client did not answer a ping within `[websocket] pong_timeout`.
    NoPong,
    /// Its queue exceeded `[limits] queue_messages` or `queue_bytes` while the socket was full.
    SlowConsumer,
    /// It kept publishing faster than `[limits] messages_per_second` or `bytes_per_second`.
    RateLimited,
    /// Its queue was among the longest when all queues together exceeded `[limits] total_queue_bytes`.
    QueueMemory,
}

impl CloseReason {
    /// Returns the reason for a socket error. The system reports a timeout for a client that acknowledges no bytes.
    pub(crate) fn of_error(error: &std::io::Error) -> CloseReason {
        match error.kind() {
            std::io::ErrorKind::TimedOut => CloseReason::NoPong,
            _ => CloseReason::ClientGone,
        }
    }

    /// Returns the status code of the Close frame (RFC 6455 section 7.4; 4000 to 4999 are Philote's own).
    pub fn code(&self) -> u16 {
        self.parts().0
    }

    /// Returns a stable name in snake case, for logs, metrics and lists.
    pub fn name(&self) -> &'static str {
        self.parts().1
    }

    /// Returns the sentence that the client reads, at most 123 bytes.
    pub fn sentence(&self) -> &'static str {
        self.parts().2
    }

    /// Returns whether the queued frames are dropped instead of sent before the Close.
    ///
    /// They are dropped only if the queue itself is the reason, because its reader could not take them in time.
    pub fn drops_queue(&self) -> bool {
        matches!(self, CloseReason::SlowConsumer | CloseReason::QueueMemory)
    }

    fn parts(&self) -> (u16, &'static str, &'static str) {
        match self {
            CloseReason::ClientClosed => (1000, "client_closed", "closed by the client"),
            CloseReason::ClientGone => (1006, "client_gone", "the client's connection ended without a close"),
            CloseReason::Stopping => (1001, "stopping", "the server is stopping; reconnect"),
            CloseReason::Restarting => {
                (1012, "restarting", "the server asks for a new connection; reconnect")
            }
            CloseReason::ProtocolError => (1002, "protocol_error", "the WebSocket protocol was broken"),
            CloseReason::InvalidUtf8 => (1007, "invalid_utf8", "text that is not UTF-8"),
            CloseReason::MessageTooSlow => (1008, "message_too_slow", "a message took too long to arrive"),
            CloseReason::TooManyFragments => {
                (1008, "too_many_fragments", "a message came in too many fragments")
            }
            CloseReason::MessageTooBig => {
                (1009, "message_too_big", "a message is over this server's max_message_size")
            }
            CloseReason::InternalError => (1011, "internal_error", "a fault of the server; reconnect"),
            CloseReason::TokenExpired => (4401, "token_expired", "the token has expired; get a new one"),
            CloseReason::KeyWithdrawn => (
                4401,
                "key_withdrawn",
                "the key that signed the token is no longer accepted; get a new token",
            ),
            CloseReason::Disconnected => (4403, "disconnected", "disconnected by an administrator"),
            CloseReason::SubjectRefused => {
                (4403, "subject_refused", "an administrator refuses this token's subject")
            }
            CloseReason::NoPong => (4408, "no_pong", "no answer to a ping; reconnect"),
            CloseReason::SlowConsumer => (
                4413,
                "slow_consumer",
                "too slow: more was waiting for this connection than queue limits allow",
            ),
            CloseReason::RateLimited => {
                (4429, "rate_limited", "publishing too fast; slow down, reconnect later")
            }
            CloseReason::QueueMemory => {
                (4413, "queue_memory", "too slow: the server's memory for waiting messages is used up")
            }
        }
    }

    /// Returns all reasons, for metrics and tests.
    pub fn all() -> impl Iterator<Item = CloseReason> {
        use CloseReason::*;
        [
            ClientClosed,
            ClientGone,
            Stopping,
            Restarting,
            ProtocolError,
            InvalidUtf8,
            MessageTooSlow,
            TooManyFragments,
            MessageTooBig,
            InternalError,
            TokenExpired,
            KeyWithdrawn,
            Disconnected,
            SubjectRefused,
            NoPong,
            SlowConsumer,
            RateLimited,
            QueueMemory,
        ]
        .into_iter()
    }
}
