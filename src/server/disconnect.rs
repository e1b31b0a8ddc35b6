//! Connections that are sent away on somebody's order: an administrator's, or a backend's.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{RefuseError, Server, unix_now};
use crate::access_key::UnixSeconds;
use crate::close::CloseReason;

/// Connections that are closed at once; of more, so many a second, because their clients may all come back.
const AT_ONCE: usize = 1000;

/// How connections are sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave<'a> {
    /// Asked to come back (1012).
    ToReconnect,
    /// Told to stay away (4403), which nothing enforces.
    ForGood,
    /// Told to stay away (4403), and kept out.
    Refused {
        /// The `sub` of their tokens.
        subject: &'a str,
        /// Seconds since 1970.
        until: UnixSeconds,
    },
}

impl Server {
    /// Sends away the connections that `find` names, a few at once and many by and by; returns how many.
    ///
    /// May write to the disk. Runs in the context of the runtime that the connections live on.
    ///
    /// # Errors
    /// Those of `find`; and its subject can't be kept out, whereupon nobody was sent away.
    pub fn disconnect<E: From<RefuseError>>(
        self: &Arc<Self>,
        leave: &Leave<'_>,
        find: impl FnOnce() -> Result<Vec<Uuid>, E>,
    ) -> Result<usize, E> {
        let reason = match leave {
            Leave::ToReconnect => CloseReason::Restarting,
            Leave::ForGood => CloseReason::Disconnected,
            Leave::Refused { subject, until } => {
                // Before they are looked for: whoever still came in is found.
                self.refused_subjects.refuse(subject, *until, unix_now())?;
                CloseReason::SubjectRefused
            }
        };
        let ids = find()?;
        if ids.len() > AT_ONCE {
            let count = ids.len();
            let spread = Duration::from_secs((count / AT_ONCE) as u64);
            let server = self.clone();
            tokio::spawn(async move { server.close_spread(ids, reason, spread).await });
            return Ok(count);
        }
        let connections = ids.iter().filter_map(|id| self.hub.connection(id));
        Ok(connections.filter(|connection| connection.outbox.close(reason)).count())
    }
}
