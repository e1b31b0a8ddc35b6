//! Close reasons: the close code, the name in logs and lists, and the sentence that the client reads.

/// Defines [`CloseReason`] by one row for each reason: its variant, close code, name and sentence.
macro_rules! close_reasons {
    ($($(#[$doc:meta])* $reason:ident: $code:literal, $name:literal, $sentence:literal;)*) => {
        /// The reason why a connection was closed. The first reason counts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum CloseReason {
            $($(#[$doc])* $reason,)*
        }

        impl CloseReason {
            /// Returns all reasons, for metrics and tests.
            pub fn all() -> impl Iterator<Item = CloseReason> {
                [$(CloseReason::$reason),*].into_iter()
            }

            fn row(&self) -> (u16, &'static str, &'static str) {
                match self {
                    $(CloseReason::$reason => ($code, $name, $sentence),)*
                }
            }
        }
    };
}

close_reasons! {
    /// The client sent a Close frame.
    ClientClosed: 1000, "client_closed", "closed by the client";
    /// The client's connection ended without a Close frame.
    ClientGone: 1006, "client_gone", "the client's connection ended without a close";
    /// The daemon stops.
    Stopping: 1001, "stopping", "the server is stopping; reconnect";
    /// The daemon restarts, or an administrator asked the client to reconnect.
    Restarting: 1012, "restarting", "the server asks for a new connection; reconnect";
    /// Messages of other nodes may be missing.
    ClusterGap: 1012, "cluster_gap", "messages may be missing after a fault in the cluster; reconnect, load state again";
    /// The client broke the WebSocket protocol.
    ProtocolError: 1002, "protocol_error", "the WebSocket protocol was broken";
    /// Text that is not UTF-8.
    InvalidUtf8: 1007, "invalid_utf8", "text that is not UTF-8";
    /// A compressed message that cannot be decompressed.
    BadCompression: 1007, "bad_compression", "a compressed message is corrupt";
    /// A message did not arrive whole in time.
    MessageTooSlow: 1008, "message_too_slow", "a message took too long to arrive";
    /// A message came in too many fragments.
    TooManyFragments: 1008, "too_many_fragments", "a message came in too many fragments";
    /// A message is larger than `[websocket] max_message_size`.
    MessageTooBig: 1009, "message_too_big", "a message is over this server's max_message_size";
    /// The server has a fault.
    InternalError: 1011, "internal_error", "internal server error; reconnect";
    /// The token's `exp` has passed.
    TokenExpired: 4401, "token_expired", "the token has expired; get a new one";
    /// The server no longer has the key that signed the token.
    KeyWithdrawn: 4401, "key_withdrawn", "the key that signed the token is no longer accepted; get a new token";
    /// An administrator disconnected it.
    Disconnected: 4403, "disconnected", "disconnected by an administrator";
    /// An administrator banned the token's subject.
    SubjectRefused: 4403, "subject_refused", "an administrator refuses this token's subject";
    /// The client did not answer a ping within `[websocket] pong_timeout`.
    NoPong: 4408, "no_pong", "no answer to a ping; reconnect";
    /// Its queue exceeded `[limits] queue_messages` or `queue_bytes` while the socket was full.
    SlowConsumer: 4413, "slow_consumer", "too slow: more was waiting for this connection than queue limits allow";
    /// It kept publishing faster than `[limits] messages_per_second` or `bytes_per_second`.
    RateLimited: 4429, "rate_limited", "publishing too fast; slow down, reconnect later";
    /// Its queue was among the longest when all queues together exceeded `[limits] total_queue_bytes`.
    QueueMemory: 4413, "queue_memory", "too slow: the server's memory for waiting messages is used up";
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
        self.row().0
    }

    /// Returns a stable name in snake case, for logs, metrics and lists.
    pub fn name(&self) -> &'static str {
        self.row().1
    }

    /// Returns the sentence that the client reads, at most 123 bytes.
    pub fn sentence(&self) -> &'static str {
        self.row().2
    }

    /// Returns whether the queued frames are dropped instead of sent before the Close.
    ///
    /// They are dropped only if the queue itself is the reason, because its reader could not take them in time.
    pub fn drops_queue(&self) -> bool {
        matches!(self, CloseReason::SlowConsumer | CloseReason::QueueMemory)
    }
}
