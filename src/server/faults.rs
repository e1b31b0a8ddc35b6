//! Faults on request, for a server for development (`--dev`): its page and tests of clients cause them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Server;
use super::ops::disconnect::{DisconnectError, disconnect};
use crate::close::CloseReason;
use crate::hub::Connection;
use crate::orders::DisconnectOrder;

/// How long [`Fault::Refuse`] refuses new connections. The time is short, because a developer waits for its end.
pub(crate) const REFUSAL: Duration = Duration::from_secs(10);

/// A fault that a client must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// A connection ends without a Close, as on a broken network.
    Cut,
    /// A connection is closed as if its token had expired.
    Expire,
    /// A connection is closed as if its client had read too slowly.
    Slow,
    /// All connections are closed as before a restart.
    Restart,
    /// All histories begin again with other epochs, as after a restart.
    Forget,
    /// New connections are refused for [`REFUSAL`].
    Refuse,
}

/// The connection that a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The one that was admitted last.
    Newest,
    /// The one with this id.
    Id(Uuid),
}

/// Why a fault was not caused.
#[derive(Debug)]
pub(crate) enum FaultError {
    /// There is no such connection.
    NoConnection,
    /// The histories of a cluster follow its log.
    Cluster,
    /// The connections could not be closed.
    Disconnect(DisconnectError),
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultError::NoConnection => f.write_str("there is no such connection"),
            FaultError::Cluster => {
                f.write_str("a node of a cluster cannot forget its history: it follows the cluster's log")
            }
            FaultError::Disconnect(error) => error.fmt(f),
        }
    }
}

/// The faults that last.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Milliseconds since the start of the server until which new connections are refused; 0 for never.
    refuses_until: AtomicU64,
}

impl Faults {
    /// Returns whether new connections are refused now. `age` is the time since the start of the server.
    pub(crate) fn refuses(&self, age: impl FnOnce() -> Duration) -> bool {
        let until = self.refuses_until.load(Relaxed);
        until != 0 && age() < Duration::from_millis(until)
    }
}

impl Fault {
    /// Returns whether it is for one connection.
    pub(crate) fn is_for_one(self) -> bool {
        matches!(self, Fault::Cut | Fault::Expire | Fault::Slow)
    }
}

/// Causes a fault, and returns how many connections it has ended.
///
/// # Errors
/// [`FaultError`]. Nothing has changed then.
pub(crate) fn cause(server: &Arc<Server>, fault: Fault, victim: Victim) -> Result<usize, FaultError> {
    let ended = match fault {
        Fault::Cut => usize::from(find(server, victim)?.outbox.cut()),
        Fault::Expire => usize::from(find(server, victim)?.outbox.close(CloseReason::TokenExpired)),
        Fault::Slow => usize::from(find(server, victim)?.outbox.close(CloseReason::SlowConsumer)),
        Fault::Restart => {
            let order = DisconnectOrder { all: true, reconnect: true, ..DisconnectOrder::default() };
            disconnect(server, &order).map_err(FaultError::Disconnect)?.matched
        }
        Fault::Forget if server.cluster.is_some() => return Err(FaultError::Cluster),
        Fault::Forget => {
            server.hub.forget_histories();
            0
        }
        Fault::Refuse => {
            let until = server.started().elapsed() + REFUSAL;
            let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
            server.faults.refuses_until.store(until, Relaxed);
            0
        }
    };
    tracing::info!(connections = ended, "a fault was requested: {fault:?}");
    Ok(ended)
}

fn find(server: &Server, victim: Victim) -> Result<Arc<Connection>, FaultError> {
    let found = match victim {
        Victim::Id(id) => server.hub.connection(&id),
        Victim::Newest => {
            let mut newest: Option<Arc<Connection>> = None;
            server.hub.each_connection(|connection| {
                let is_newer = newest.as_ref().is_none_or(|newest| connection.age() < newest.age());
                if is_newer && connection.outbox.closing().is_none() {
                    newest = Some(connection.clone());
                }
            });
            newest
        }
    };
    found.ok_or(FaultError::NoConnection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_ends() {
        let faults = Faults::default();
        assert!(!faults.refuses(|| Duration::ZERO));
        faults.refuses_until.store(10_001, Relaxed);
        assert!(faults.refuses(|| REFUSAL));
        assert!(!faults.refuses(|| REFUSAL + Duration::from_millis(1)));
    }
}
