//! Why a connection ends: the close code, a name for logs and listings, and the sentence its client reads.

/// Why a connection was closed. The first reason decided is the one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client sent a Close frame.
    ClientClosed,
    /// The client's connection ended without a Close frame.
    ClientGone,
    /// The daemon stops.
    Stopping,
    /// The daemon restarts, or an administrator asks for a new connection.
    Restarting,
    /// The client broke the WebSocket protocol.
    ProtocolError,
    /// Text that is not UTF-8.
    InvalidUtf8,
    /// A message was begun and not finished in time.
    MessageTooSlow,
    /// A message came in too many fragments.
    TooManyFragments,
    /// A message over `[websocket] max_message_size`.
    MessageTooBig,
    /// A fault of the server.
    InternalError,
    /// The token's `exp` has passed.
    TokenExpired,
    /// The key that signed the token is no longer one of the server's.
    KeyWithdrawn,
    /// An administrator disconnected it.
    Disconnected,
    /// An administrator keeps its subject out.
    SubjectRefused,
    /// No answer to a ping within `[websocket] pong_timeout`.
    NoPong,
    /// Its queue passed `[limits] queue_messages` or `queue_bytes` with the socket full.
    SlowConsumer,
    /// It went on publishing faster than `[limits] messages_per_second` or `bytes_per_second`.
    RateLimited,
    /// Its queue was among the longest when all together passed `[limits] total_queue_bytes`.
    QueueMemory,
}

impl CloseReason {
    /// Why a connection ended whose socket failed like this: the system gives up a client that confirms nothing.
    pub(crate) fn of_error(error: &std::io::Error) -> CloseReason {
        match error.kind() {
            std::io::ErrorKind::TimedOut => CloseReason::NoPong,
            _ => CloseReason::ClientGone,
        }
    }

    /// The status code of the Close frame (RFC 6455 section 7.4; 4000 to 4999 are Philote's own).
    pub fn code(&self) -> u16 {
        self.parts().0
    }

    /// A stable name in snake case, for logs, counters and listings.
    pub fn name(&self) -> &'static str {
        self.parts().1
    }

    /// What the client reads: one sentence of at most 123 bytes.
    pub fn sentence(&self) -> &'static str {
        self.parts().2
    }

    /// Whether frames that wait in the queue are dropped rather than sent before the Close.
    ///
    /// Only for a queue that is itself the reason: its reader could not take in time what is there.
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

    /// All reasons, for counters and tests.
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
