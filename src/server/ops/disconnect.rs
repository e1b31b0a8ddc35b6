//! Closes connections by an order of an administrator or a backend, and bans their subject if the order says so.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::bans::{check_subject, end_of_ban};
use super::list::{ConnectionFilter, each_connection};
use crate::close::CloseReason;
use crate::orders::{DisconnectOrder, IdPrefix};
use crate::server::background::MAX_SPREADS;
use crate::server::bans::BanError;
use crate::server::shutdown::drain::close_spread;
use crate::server::{Server, unix_now};
use crate::token::UnixSeconds;

/// The most connections that are closed at once. More are closed at this rate per second, because all their clients may
/// reconnect.
const AT_ONCE: usize = 1000;

/// The most abbreviated ids in an order, because each is compared with the id of every connection.
pub(super) const MAX_PREFIXES: usize = 100;

/// The outcome of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disconnected {
    /// How many connections are being closed, or would be in a dry run.
    pub matched: usize,
    /// When the ban of the subject ends, if the order contains one.
    pub banned_until: Option<UnixSeconds>,
}

/// Why an order was not carried out. Nothing has changed then.
#[derive(Debug)]
pub enum DisconnectError {
    /// The order contradicts itself, selects nothing, or exceeds a limit.
    Invalid(String),
    /// An abbreviated id matches several connections.
    Ambiguous {
        /// The abbreviated id.
        prefix: IdPrefix,
        /// How many connections it matches.
        count: u32,
    },
    /// As many orders to close many connections are in progress as the limit allows.
    TooManyInProgress(usize),
    /// The subject could not be banned.
    Ban(BanError),
}

impl fmt::Display for DisconnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DisconnectError::Invalid(sentence) => f.write_str(sentence),
            DisconnectError::Ambiguous { prefix, count } => {
                write!(f, "{count} connections have ids that begin with {prefix}")
            }
            DisconnectError::TooManyInProgress(max) => {
                write!(f, "{max} orders to disconnect many connections are still in progress")
            }
            DisconnectError::Ban(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DisconnectError {}

impl From<BanError> for DisconnectError {
    fn from(error: BanError) -> DisconnectError {
        DisconnectError::Ban(error)
    }
}

/// Returns how many connections an order would close.
///
/// # Errors
/// The order is invalid or ambiguous.
pub fn dry_run(server: &Server, order: &DisconnectOrder) -> Result<Disconnected, DisconnectError> {
    check(order)?;
    let matched = find(server, order)?.len();
    Ok(Disconnected { matched, banned_until: order.ban_seconds.map(end_of_ban) })
}

/// Carries out an order: closes few connections at once, and many over time.
///
/// May write to the disk. The caller must be in the context of the runtime that runs the connections.
///
/// # Errors
/// [`DisconnectError`]. Nothing has changed then.
pub fn disconnect(server: &Arc<Server>, order: &DisconnectOrder) -> Result<Disconnected, DisconnectError> {
    check(order)?;
    let banned_until = order.ban_seconds.map(end_of_ban);
    let leave = match (&order.subject, banned_until) {
        (Some(subject), Some(until)) => Leave::Banned { subject, until },
        _ if order.reconnect => Leave::Reconnect,
        _ => Leave::StayAway,
    };
    let matched = close(server, &leave, || find(server, order))?;
    Ok(Disconnected { matched, banned_until })
}

/// Closes the connections of subjects that were banned elsewhere, and returns how many.
///
/// # Errors
/// [`DisconnectError::TooManyInProgress`].
pub(super) fn close_banned(server: &Arc<Server>, subjects: &[Box<str>]) -> Result<usize, DisconnectError> {
    let subjects: HashSet<&str> = subjects.iter().map(|subject| &**subject).collect();
    close(server, &Leave::BannedElsewhere, || {
        let mut found = Vec::new();
        each_connection(server, &ConnectionFilter::default(), |connection| {
            if connection.claims().subject().is_some_and(|subject| subjects.contains(subject)) {
                found.push(connection.id());
            }
        });
        Ok(found)
    })
}

/// Checks that an order selects connections and does not contradict itself.
pub(super) fn check(order: &DisconnectOrder) -> Result<(), DisconnectError> {
    let DisconnectOrder { all, ids, channel, subject, address, reconnect, ban_seconds } = order;
    let others = !ids.is_empty() || channel.is_some() || address.is_some();
    let wrong = match () {
        () if *all && (others || subject.is_some()) => {
            "all selects every connection: leave out the other filters"
        }
        () if !*all && !others && subject.is_none() => {
            "the request selects no connection: give ids, channel, subject, address or all"
        }
        () if ban_seconds.is_some() && (others || subject.is_none()) => {
            "refuse_for bans a subject: give subject and no other filter"
        }
        () if ban_seconds.is_some() && *reconnect => "refuse_for and reconnect exclude each other",
        () if *ban_seconds == Some(0) => "refuse_for must be at least 1 second",
        () if ids.iter().filter(|id| id.whole().is_none()).count() > MAX_PREFIXES => {
            "at most 100 ids may be prefixes"
        }
        () => {
            return subject.as_deref().map_or(Ok(()), check_subject).map_err(DisconnectError::Invalid);
        }
    };
    Err(DisconnectError::Invalid(wrong.into()))
}

/// Counts the connections whose ids begin with each of these prefixes, and returns one of them.
pub(super) fn resolve(server: &Server, prefixes: &[IdPrefix]) -> Vec<(u32, Option<Uuid>)> {
    let mut found = vec![(0, None); prefixes.len()];
    if !prefixes.is_empty() {
        server.hub.each_connection(|connection| {
            for (prefix, (count, id)) in prefixes.iter().zip(&mut found) {
                if prefix.matches(&connection.id()) {
                    *count += 1;
                    *id = Some(connection.id());
                }
            }
        });
    }
    found
}

/// Returns the connections that an order selects, except those that are already being closed.
fn find(server: &Server, order: &DisconnectOrder) -> Result<Vec<Uuid>, DisconnectError> {
    let filter = ConnectionFilter {
        id: None,
        channel: order.channel.as_deref(),
        subject: order.subject.as_deref(),
        address: order.address,
    };
    let mut found = Vec::new();
    let mut add = |connection: &Arc<crate::hub::Connection>| {
        if connection.outbox.closing().is_none() && filter.matches(connection) {
            found.push(connection.id());
        }
    };
    if order.ids.is_empty() {
        each_connection(server, &filter, add);
        return Ok(found);
    }
    order.ids.iter().filter_map(|id| server.hub.connection(&id.whole()?)).for_each(|found| add(&found));
    let prefixes: Vec<&IdPrefix> = order.ids.iter().filter(|id| id.whole().is_none()).collect();
    let mut counts = vec![0_u32; prefixes.len()];
    if !prefixes.is_empty() {
        server.hub.each_connection(|connection| {
            for (prefix, count) in prefixes.iter().zip(&mut counts) {
                if prefix.matches(&connection.id()) {
                    *count += 1;
                    add(connection);
                }
            }
        });
    }
    if let Some((prefix, count)) = prefixes.into_iter().zip(counts).find(|(_, count)| *count > 1) {
        return Err(DisconnectError::Ambiguous { prefix: prefix.clone(), count });
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// What the closed clients are asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave<'a> {
    /// Reconnect (1012).
    Reconnect,
    /// Not reconnect (4403), which nothing enforces.
    StayAway,
    /// Not reconnect (4403), which a ban enforces.
    Banned { subject: &'a str, until: UnixSeconds },
    /// Not reconnect (4403), which a ban of another node enforces already.
    BannedElsewhere,
}

/// Closes the connections that `find` returns, and returns how many. Bans the subject first if `leave` says so.
fn close(
    server: &Arc<Server>,
    leave: &Leave<'_>,
    find: impl Fn() -> Result<Vec<Uuid>, DisconnectError>,
) -> Result<usize, DisconnectError> {
    let mut ids = find()?;
    let slot = if ids.len() > AT_ONCE {
        Some(server.background.spread().ok_or(DisconnectError::TooManyInProgress(MAX_SPREADS))?)
    } else {
        None
    };
    let reason = match leave {
        Leave::Reconnect => CloseReason::Restarting,
        Leave::StayAway => CloseReason::Disconnected,
        Leave::BannedElsewhere => CloseReason::SubjectRefused,
        Leave::Banned { subject, until } => {
            server.bans.refuse(subject, *until, unix_now())?;
            // Connections that were accepted before the ban took effect are closed too.
            ids = find()?;
            CloseReason::SubjectRefused
        }
    };
    if let Some(slot) = slot {
        let count = ids.len();
        let spread = Duration::from_secs((count / AT_ONCE) as u64);
        let server = server.clone();
        tokio::spawn(async move {
            let _slot = slot;
            close_spread(&server, ids, reason, spread).await;
        });
        return Ok(count);
    }
    let connections = ids.iter().filter_map(|id| server.hub.connection(id));
    Ok(connections.filter(|connection| connection.outbox.close(reason)).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides, load};
    use crate::token::MAX_SUBJECT_BYTES;

    fn server() -> Arc<Server> {
        let environment = Environment::new([("SECRET", "a secret of more than thirty-two characters")]);
        Server::new(load(&Overrides::default(), &environment).unwrap().settings, 1024)
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_large_orders_in_progress_is_limited() {
        let server = server();
        let order = |leave, count| close(&server, &leave, || Ok(vec![Uuid::nil(); count]));
        let many = |leave| order(leave, AT_ONCE + 1);
        for _ in 0..MAX_SPREADS {
            assert_eq!(many(Leave::StayAway).unwrap(), AT_ONCE + 1);
        }
        let refused = DisconnectError::TooManyInProgress(MAX_SPREADS).to_string();
        assert_eq!(many(Leave::Reconnect).unwrap_err().to_string(), refused);
        let ban = Leave::Banned { subject: "alice", until: u64::MAX };
        // There is no file for bans, so that an attempt to ban would be another error.
        assert_eq!(many(ban).unwrap_err().to_string(), refused);
        assert_eq!(server.bans.until(Some("alice"), 0), None);
        assert_eq!(order(Leave::StayAway, AT_ONCE).unwrap(), 0, "a small order needs no slot");
        while server.background.spread().is_none() {
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        many(Leave::StayAway).unwrap();
    }

    #[test]
    fn an_order_is_checked_before_anything_is_done() {
        let empty = DisconnectOrder::default();
        let of = |subject: String| DisconnectOrder { subject: Some(subject), ..empty.clone() };
        let alice = of("alice".into());
        let id: IdPrefix = "5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a".parse().unwrap();
        for order in [
            empty.clone(),
            DisconnectOrder { all: true, ..alice.clone() },
            DisconnectOrder { ban_seconds: Some(1), ids: vec![id], ..empty.clone() },
            DisconnectOrder { ban_seconds: Some(1), channel: Some("c".into()), ..alice.clone() },
            DisconnectOrder { ban_seconds: Some(1), reconnect: true, ..alice.clone() },
            DisconnectOrder { ban_seconds: Some(0), ..alice.clone() },
            DisconnectOrder { ids: vec!["5f".parse().unwrap(); MAX_PREFIXES + 1], ..empty.clone() },
            of("x".repeat(MAX_SUBJECT_BYTES + 1)),
        ] {
            assert!(matches!(dry_run(&server(), &order), Err(DisconnectError::Invalid(_))), "{order}");
        }
        let longest = of("x".repeat(MAX_SUBJECT_BYTES));
        assert_eq!(dry_run(&server(), &longest).unwrap(), Disconnected { matched: 0, banned_until: None });
    }
}
