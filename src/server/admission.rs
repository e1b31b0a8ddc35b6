//! Decides which clients are let in. Every way in comes here: an upgrade request with a token, the first frame of
//! philote.v1, another token in a session, and a request to the backend API.
//!
//! [`admit`] checks in this order, on which clients can rely: connections per address (429), whether the daemon stops and
//! has a free slot (503), the token (401), the page's origin and bans (403), connections per subject (429). Only [`admit`]
//! makes an [`Admitted`], and no connection enters the hub without one. When the connection is in the hub, [`revoked`]
//! checks its key and its subject again, because a reload or a ban that came between did not find it there.

use std::net::IpAddr;
use std::sync::Arc;

use super::http::credentials::Credentials;
use super::limits::Seat;
use super::rejection::{Rejected, Rejection};
use super::slot::Slot;
use super::{Live, Server, unix_now};
use crate::close::CloseReason;
use crate::token::{Claims, claimed_subject, verify_in_frame};

/// A client that may enter: its slot, and what its token says.
pub(crate) struct Admitted {
    slot: Slot,
    claims: Claims,
}

impl Admitted {
    /// Has the client read the channels that `choose` returns, sorted and without duplicates, and no others.
    ///
    /// # Errors
    /// Those of `choose`.
    pub(crate) fn reading(
        self,
        choose: impl FnOnce(&Claims) -> Result<Vec<String>, Rejection>,
    ) -> Result<Admitted, Rejected> {
        let Admitted { slot, claims } = self;
        match choose(&claims) {
            Ok(channels) => Ok(Admitted { slot, claims: claims.reading(&channels) }),
            Err(rejection) => Err(rejection.of(claims.subject().map(Box::from))),
        }
    }

    pub(crate) fn into_parts(self) -> (Slot, Claims) {
        (self.slot, self.claims)
    }
}

/// How a client shows its token.
pub(crate) enum Shown<'a> {
    /// In the header or the query of its request.
    InRequest(&'a Credentials<'a>),
    /// In a message.
    InFrame(&'a str),
}

impl Shown<'_> {
    fn verify(&self, live: &Live) -> Result<Claims, Rejection> {
        match self {
            Shown::InRequest(credentials) => credentials.verify(live),
            Shown::InFrame(token) => {
                verify_in_frame(token, &live.keys, &live.policy, unix_now()).map_err(Rejection::Token)
            }
        }
    }

    /// The subject that a token claims which was not accepted.
    fn claimed_subject(&self) -> Option<Box<str>> {
        match self {
            Shown::InRequest(credentials) => credentials.claimed_subject(),
            Shown::InFrame(token) => claimed_subject(token),
        }
    }
}

/// Counts an upgrade request against the rate of its address. This comes before all else that [`admit`] checks.
///
/// # Errors
/// The address has made `[limits] handshakes_per_second` of them.
pub(crate) fn count_handshake(server: &Server, live: &Live, address: IpAddr) -> Result<(), Rejection> {
    server.limits.handshake(address, &live.settings.limits, server.started().elapsed())
}

/// Checks whether a client could enter that has not shown its token yet.
///
/// # Errors
/// The daemon stops, or every slot is taken.
pub(crate) fn check_room(server: &Server, live: &Live) -> Result<(), Rejection> {
    check_not_stopping(server)?;
    let max = live.max_connections;
    server.cleanup.make_room(|| if server.connected() < max { Ok(()) } else { Err(live.full_rejection()) })
}

/// Lets a client in; `origin` is the verdict on the page that it comes from.
///
/// # Errors
/// The first check that fails, with the subject as far as it is known.
pub(crate) fn admit(
    server: &Arc<Server>,
    live: &Live,
    address: IpAddr,
    token: &Shown<'_>,
    origin: Result<(), Rejection>,
) -> Result<Admitted, Rejected> {
    let mut slot = take_slot(server, live, address)?;
    let claims = token.verify(live).map_err(|rejection| rejection.of(token.claimed_subject()))?;
    origin
        .and_then(|()| check_ban(server, &claims))
        .and_then(|()| count_subject(server, live, &mut slot.seat, &claims))
        .map_err(|rejection| rejection.of(claims.subject().map(Box::from)))?;
    Ok(Admitted { slot, claims })
}

/// Checks another token of a connection that is in already, and counts the connection as the subject of that token.
///
/// # Errors
/// The token, its subject's ban, or connections per subject. The connection is counted as before.
pub(crate) fn renew(server: &Server, live: &Live, seat: &mut Seat, token: &str) -> Result<Claims, Rejection> {
    let claims = Shown::InFrame(token).verify(live)?;
    check_ban(server, &claims)?;
    count_subject(server, live, seat, &claims)?;
    Ok(claims)
}

/// Verifies the token of a message, and changes nothing.
///
/// # Errors
/// The token.
pub(crate) fn verify(live: &Live, token: &str) -> Result<Claims, Rejection> {
    Shown::InFrame(token).verify(live)
}

/// Checks the token of a request to the backend API, which takes no slot.
///
/// # Errors
/// The token, or its subject's ban.
pub(crate) fn authenticate(server: &Server, credentials: &Credentials<'_>) -> Result<Claims, Rejection> {
    let claims = credentials.verify(&server.live())?;
    check_ban(server, &claims)?;
    Ok(claims)
}

/// Tells why a connection must close although it was admitted: its key was withdrawn or its subject banned since.
pub(crate) fn revoked(server: &Server, claims: &Claims) -> Option<CloseReason> {
    if claims.key.as_ref().is_some_and(|key| !server.live().keys.contains(key)) {
        Some(CloseReason::KeyWithdrawn)
    } else if check_ban(server, claims).is_err() {
        Some(CloseReason::SubjectRefused)
    } else {
        None
    }
}

/// Takes a slot. A connection that has ended and is not cleaned up yet counts against nobody.
fn take_slot(server: &Arc<Server>, live: &Live, address: IpAddr) -> Result<Slot, Rejection> {
    let cleanup = &server.cleanup;
    let seat = cleanup.make_room(|| Seat::of_address(&server.limits, address, &live.settings.limits))?;
    check_not_stopping(server)?;
    let max = live.max_connections;
    let mut slot =
        cleanup.make_room(|| Slot::take(server, max).ok_or(())).map_err(|()| live.full_rejection())?;
    slot.seat = seat;
    Ok(slot)
}

/// A developer may have asked for a refusal (`--dev`). During a restart nobody is rejected: the socket stays open for the next daemon, which accepts all others.
fn check_not_stopping(server: &Server) -> Result<(), Rejection> {
    if server.faults.refuses(|| server.started().elapsed()) {
        return Err(Rejection::Refusing);
    }
    match server.drain.reason() {
        None | Some(CloseReason::Restarting) => Ok(()),
        Some(_) => Err(Rejection::Draining),
    }
}

fn check_ban(server: &Server, claims: &Claims) -> Result<(), Rejection> {
    let until = server.bans.until(claims.subject(), unix_now());
    until.map_or(Ok(()), |until| Err(Rejection::Subject { until }))
}

fn count_subject(server: &Server, live: &Live, seat: &mut Seat, claims: &Claims) -> Result<(), Rejection> {
    let subject = claims.subject();
    server.cleanup.make_room(|| seat.set_subject(&server.limits, subject, &live.settings.limits))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::config::{Environment, Overrides, load};
    use crate::server::BanFile;
    use crate::token::{NewToken, issue};

    /// What can be wrong with a client, in the order in which it is told.
    const FAULTS: [&str; 7] = [
        "connections_per_address",
        "draining",
        "max_connections",
        "token_malformed",
        "origin",
        "subject_refused",
        "connections_per_subject",
    ];

    fn server(settings: &[(&'static str, &'static str)]) -> Arc<Server> {
        let secret = ("SECRET", "a secret of more than thirty-two characters");
        let environment = Environment::new(settings.iter().copied().chain([secret]));
        Server::new(load(&Overrides::default(), &environment).unwrap().settings, 1024)
    }

    fn token(server: &Server, subject: &str) -> String {
        let token = NewToken { subject: Some(subject.into()), ..NewToken::default() };
        issue(&token, &server.live().keys).unwrap()
    }

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    fn enter(server: &Arc<Server>, last: u8, subject: &str) -> Result<Admitted, Rejected> {
        admit(server, &server.live(), address(last), &Shown::InFrame(&token(server, subject)), Ok(()))
    }

    /// Admits a client of which these things are wrong, and returns the name of the rejection.
    async fn rejection(faults: &[&str]) -> Option<&'static str> {
        let is = |name: &str| faults.contains(&name);
        let slots = if is("max_connections") { "1" } else { "10" };
        let server = server(&[
            ("PHILOTE_LIMITS_CONNECTIONS_PER_ADDRESS", "1"),
            ("PHILOTE_LIMITS_CONNECTIONS_PER_SUBJECT", "1"),
            ("MAX_CONNECTIONS", slots),
        ]);
        let (last, subject) = (
            if is("connections_per_address") { 1 } else { 2 },
            if is("connections_per_subject") { "alice" } else { "bob" },
        );
        let _before = enter(&server, last, subject).ok().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        server.bans.remember_in(BanFile::new(Some(scratch.path().join("refused.json")))).unwrap();
        if is("subject_refused") {
            server.bans.refuse("alice", u64::MAX, 0).unwrap();
        }
        if is("draining") {
            let drained = server.clone();
            tokio::spawn(async move { drained.drain(CloseReason::Stopping, Duration::from_secs(60)).await });
            tokio::task::yield_now().await;
        }
        let token = if is("token_malformed") { "x".to_owned() } else { token(&server, "alice") };
        let origin = if is("origin") { Err(Rejection::Origin("http://evil.test".into())) } else { Ok(()) };
        let admitted = admit(&server, &server.live(), address(1), &Shown::InFrame(&token), origin);
        admitted.err().map(|rejected| rejected.rejection.name())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_several_faults_is_told() {
        for first in 0..FAULTS.len() {
            assert_eq!(rejection(&FAULTS[first..]).await, Some(FAULTS[first]));
            assert_eq!(rejection(&FAULTS[first..=first]).await, Some(FAULTS[first]), "alone");
        }
        assert_eq!(rejection(&[]).await, None);
    }

    #[tokio::test]
    async fn a_rejected_client_leaves_nothing_behind() {
        let server = server(&[
            ("PHILOTE_LIMITS_CONNECTIONS_PER_ADDRESS", "2"),
            ("PHILOTE_LIMITS_CONNECTIONS_PER_SUBJECT", "1"),
        ]);
        let first = enter(&server, 1, "alice").ok().unwrap();
        for _ in 0..3 {
            let rejected = enter(&server, 1, "alice").err().unwrap();
            assert_eq!(rejected.rejection, Rejection::PerSubject(1));
            assert_eq!(rejected.subject.as_deref(), Some("alice"));
        }
        assert_eq!((server.connected(), server.counted()), (1, (1, 1)));
        drop(first);
        assert_eq!((server.connected(), server.counted()), (0, (0, 0)));
    }

    #[tokio::test]
    async fn a_renewal_that_is_rejected_changes_nothing() {
        let server = server(&[("PHILOTE_LIMITS_CONNECTIONS_PER_SUBJECT", "1")]);
        let (mut one, _) = enter(&server, 1, "alice").ok().unwrap().into_parts();
        let _other = enter(&server, 2, "bob").ok().unwrap();
        let mut renew =
            |subject: &str| renew(&server, &server.live(), &mut one.seat, &token(&server, subject)).map(drop);
        assert_eq!(renew("bob"), Err(Rejection::PerSubject(1)));
        assert!(enter(&server, 3, "alice").is_err(), "still counted as alice");
        assert_eq!(renew("carol"), Ok(()));
        assert!(enter(&server, 3, "alice").is_ok());
    }

    #[tokio::test]
    async fn a_ban_and_a_withdrawn_key_revoke_an_admission() {
        let server = server(&[]);
        let scratch = tempfile::tempdir().unwrap();
        server.bans.remember_in(BanFile::new(Some(scratch.path().join("refused.json")))).unwrap();
        let (_slot, claims) = enter(&server, 1, "alice").ok().unwrap().into_parts();
        assert_eq!(revoked(&server, &claims), None);
        server.bans.refuse("alice", u64::MAX, 0).unwrap();
        assert_eq!(revoked(&server, &claims), Some(CloseReason::SubjectRefused));
        let environment = Environment::new([("SECRET", "another secret of more than thirty-two characters")]);
        server.reload(load(&Overrides::default(), &environment).unwrap().settings, Duration::ZERO);
        assert_eq!(revoked(&server, &claims), Some(CloseReason::KeyWithdrawn));
    }
}
