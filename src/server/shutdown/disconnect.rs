//! Connections that are sent away on somebody's order: an administrator's, or a backend's.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::close::CloseReason;
use crate::server::background::MAX_SPREADS;
use crate::server::bans::BanError;
use crate::server::{Server, unix_now};
use crate::token::UnixSeconds;

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
    /// Those of `find`; the subject can't be kept out; many are to go, and as many such orders as may be are still being
    /// carried out. Then nothing was done.
    pub fn disconnect<E: From<BanError>>(
        self: &Arc<Self>,
        leave: &Leave<'_>,
        find: impl Fn() -> Result<Vec<Uuid>, E>,
    ) -> Result<usize, E> {
        let mut ids = find()?;
        let place = if ids.len() > AT_ONCE {
            Some(self.background.spread().ok_or(BanError::Spreads(MAX_SPREADS))?)
        } else {
            None
        };
        let reason = match leave {
            Leave::ToReconnect => CloseReason::Restarting,
            Leave::ForGood => CloseReason::Disconnected,
            Leave::Refused { subject, until } => {
                self.bans.refuse(subject, *until, unix_now())?;
                // Who still came in has to go as well.
                ids = find()?;
                CloseReason::SubjectRefused
            }
        };
        if let Some(place) = place {
            let count = ids.len();
            let spread = Duration::from_secs((count / AT_ONCE) as u64);
            let server = self.clone();
            tokio::spawn(async move {
                let _place = place;
                server.close_spread(ids, reason, spread).await;
            });
            return Ok(count);
        }
        let connections = ids.iter().filter_map(|id| self.hub.connection(id));
        Ok(connections.filter(|connection| connection.outbox.close(reason)).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides, load};

    #[tokio::test(start_paused = true)]
    async fn no_more_orders_are_spread_than_there_are_places() {
        let environment = Environment::new([("SECRET", "a secret of more than thirty-two characters")]);
        let server = Server::new(load(&Overrides::default(), &environment).unwrap().settings, 1024);
        let order = |leave, count| server.disconnect(&leave, || Ok::<_, BanError>(vec![Uuid::nil(); count]));
        let many = |leave| order(leave, AT_ONCE + 1);
        for _ in 0..MAX_SPREADS {
            assert_eq!(many(Leave::ForGood).unwrap(), AT_ONCE + 1);
        }
        assert!(matches!(many(Leave::ToReconnect), Err(BanError::Spreads(MAX_SPREADS))));
        let refused = Leave::Refused { subject: "alice", until: u64::MAX };
        // With no place to remember it in, this would be another error if it were tried.
        assert!(matches!(many(refused), Err(BanError::Spreads(MAX_SPREADS))));
        assert_eq!(server.bans.until(Some("alice"), 0), None);
        assert_eq!(
            order(Leave::ForGood, AT_ONCE).unwrap(),
            0,
            "few need no place, and none of these is there"
        );
        while server.background.spread().is_none() {
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        many(Leave::ForGood).unwrap();
    }
}
