//! The tokens of an HTTP request, and which of them is used.

use std::borrow::Cow;

use hyper::header::AUTHORIZATION;

use super::lines::{Lines, visible};
use crate::server::rejection::Rejection;
use crate::server::{Live, unix_now};
use crate::token::{Claims, TokenError, claimed_subject, verify};

/// The tokens of a request. They are never merged: one of them is used.
pub(crate) struct Credentials<'a> {
    /// The token of the header, or the error that it has another scheme.
    header: Option<Result<&'a str, TokenError>>,
    query: Option<Cow<'a, str>>,
}

impl<'a> Credentials<'a> {
    /// # Errors
    /// `auth` appears twice in the query, so that it is unclear which one is meant.
    pub(crate) fn of<L: Lines + ?Sized>(
        query: Option<&'a str>,
        lines: &'a L,
    ) -> Result<Credentials<'a>, Rejection> {
        let query = query.unwrap_or_default();
        let mut auths = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "auth");
        let query = auths.next().map(|(_, token)| token);
        if auths.next().is_some() {
            return Err(Rejection::BadRequest("the query parameter auth appears twice"));
        }
        let header = lines.first(&AUTHORIZATION).map(bearer);
        Ok(Credentials { header, query })
    }

    /// Returns whether the request has no token.
    pub(crate) fn is_empty(&self) -> bool {
        self.header.is_none() && self.query.is_none()
    }

    /// Returns the claims of the header's token if it is valid, else those of the query's.
    pub(crate) fn verify(&self, live: &Live) -> Result<Claims, Rejection> {
        let check = |token: &str| verify(token, &live.keys, &live.policy, unix_now());
        let by_header = match &self.header {
            Some(Ok(token)) => check(token),
            Some(Err(error)) => Err(*error),
            None => Err(TokenError::Missing),
        };
        let result = match (&self.query, by_header) {
            (Some(query), Err(_)) => check(query),
            (_, by_header) => by_header,
        };
        result.map_err(Rejection::Token)
    }

    /// Returns the subject that the refused token claims: the query's, whose error is reported, else the header's.
    pub(crate) fn claimed_subject(&self) -> Option<Box<str>> {
        let header = || self.header.as_ref()?.as_ref().ok().copied();
        self.query.as_deref().or_else(header).and_then(claimed_subject)
    }
}

/// Returns the token of an Authorization header: after `Bearer` in any case (RFC 6750 section 2.1), or bare.
///
/// # Errors
/// The header has another scheme. Only a well-known scheme is named, because an unknown first word may be part of a
/// secret.
fn bearer(value: &[u8]) -> Result<&str, TokenError> {
    const SCHEMES: [&str; 6] = ["Basic", "Token", "Digest", "JWT", "ApiKey", "Negotiate"];
    let value = visible(value).unwrap_or_default().trim_ascii();
    let space = memchr::memchr2(b' ', b'\t', value.as_bytes());
    let (scheme, token) = space.map_or((value, ""), |at| (&value[..at], &value[at + 1..]));
    let known = SCHEMES.into_iter().find(|known| known.eq_ignore_ascii_case(scheme));
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(token)
    } else if token.is_empty() && known.is_none() {
        Ok(value)
    } else {
        Err(TokenError::Scheme(known))
    }
}
