//! The channels of a stream of events, and the position after which it begins.

use std::collections::BTreeSet;

use hyper::header::{HeaderMap, HeaderName};

use super::cursor::{self, CLOSED, MAX_CHANNELS};
use crate::message::{ChannelName, Since};
use crate::server::rejection::Rejection;
use crate::token::Claims;

/// The header in which a browser names the last event that it got.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What a request for a stream of events asks for.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The channels; all that the token reads if there are none.
    channels: BTreeSet<ChannelName>,
    /// The positions after which the messages of channels are delivered.
    pub(super) since: Vec<Since<'static>>,
    /// The last stream was closed, and its client must not come back.
    pub(super) is_closed: bool,
}

impl Wanted {
    /// # Errors
    /// What is wrong with the query or the header.
    pub(super) fn parse(
        query: &str,
        headers: &HeaderMap,
        channel_name_bytes: usize,
    ) -> Result<Wanted, Rejection> {
        let (mut channels, mut last) = (BTreeSet::new(), None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "channel" => {
                    let name = ChannelName::new(&value, channel_name_bytes)
                        .map_err(|error| Rejection::BadParameter(error.to_string()))?;
                    channels.insert(name);
                    if channels.len() > MAX_CHANNELS {
                        let sentence = format!("a stream of events may have {MAX_CHANNELS} channels at most");
                        return Err(Rejection::BadParameter(sentence));
                    }
                }
                "last_event_id" if last.is_some() => {
                    return Err(Rejection::BadRequest("the query parameter last_event_id appears twice"));
                }
                "last_event_id" => last = Some(value.into_owned()),
                _ => {}
            }
        }
        let mut lines = headers.get_all(LAST_EVENT_ID).iter();
        // A browser repeats its first query, and sends the header when it returns.
        if let Some(line) = lines.next() {
            last = Some(String::from_utf8_lossy(line.as_bytes()).into_owned());
        }
        if lines.next().is_some() {
            return Err(Rejection::BadRequest("the header Last-Event-ID appears twice"));
        }
        let last = last.filter(|last| !last.is_empty());
        let is_closed = last.as_deref() == Some(CLOSED);
        let since = match last.filter(|_| !is_closed) {
            Some(last) => cursor::parse(&last, channel_name_bytes).map_err(Rejection::BadParameter)?,
            None => Vec::new(),
        };
        Ok(Wanted { channels, since, is_closed })
    }

    /// Returns the channels that a client with this token gets, sorted.
    ///
    /// # Errors
    /// The token allows one of them neither to be read nor to be joined, or it is not clear which ones are meant.
    pub(super) fn channels(&self, claims: &Claims) -> Result<Vec<String>, Rejection> {
        if self.channels.is_empty() {
            return match claims.read().len() {
                count if count > MAX_CHANNELS => Err(Rejection::BadParameter(format!(
                    "this token reads {count} channels: name at most {MAX_CHANNELS} of them with ?channel=NAME&channel=NAME"
                ))),
                _ => Ok(claims.read().iter().map(str::to_owned).collect()),
            };
        }
        for name in &self.channels {
            let name = name.as_str();
            // It would be a channel of this very name, which nobody means.
            if name.ends_with('*') && !claims.may_read(name) {
                return Err(Rejection::BadParameter(format!(
                    "channel must be the name of one channel, not a pattern like \"{name}\""
                )));
            }
            if !claims.may_join(name) {
                return Err(Rejection::HiddenChannel(name.to_owned()));
            }
        }
        Ok(self.channels.iter().map(|name| name.as_str().to_owned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Keys, NewMay, NewToken, Policy, issue, verify};

    fn claims(read: &[&str], may: &[&str]) -> Claims {
        let keys = Keys::new([&b"a secret of more than thirty-two characters"[..]]);
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let may = NewMay { read: strings(may), write: Vec::new() };
        let write = Some(strings(read));
        let token =
            NewToken { read: strings(read), write, subject: Some("ann".into()), may, ..NewToken::default() };
        let policy = Policy {
            leeway: 0,
            require_expiry: false,
            issuer: None,
            audience: None,
            channels: 1024,
            channel_name_bytes: 255,
        };
        verify(&issue(&token, &keys).unwrap(), &keys, &policy, 0).unwrap()
    }

    fn wanted(query: &str) -> Result<Wanted, Rejection> {
        Wanted::parse(query, &HeaderMap::new(), 255)
    }

    fn channels(query: &str, claims: &Claims) -> Result<Vec<String>, Rejection> {
        wanted(query)?.channels(claims)
    }

    #[test]
    fn the_channels_are_those_of_the_query_or_of_the_token() {
        let token = claims(&["b", "a", "w*"], &["room:*"]);
        assert_eq!(channels("", &token).unwrap(), ["a", "b", "w*"]);
        assert_eq!(channels("auth=x&channel=room:7&channel=b&channel=b", &token).unwrap(), ["b", "room:7"]);
        assert_eq!(channels("channel=w*", &token).unwrap(), ["w*"], "named so by the token");
        assert_eq!(channels("channel=c", &token), Err(Rejection::HiddenChannel("c".into())));
        for query in ["channel=", "channel=room:*", "channel=%01"] {
            assert!(matches!(channels(query, &token), Err(Rejection::BadParameter(_))), "{query}");
        }
        assert!(channels("", &claims(&[], &["room:*"])).unwrap().is_empty());
    }

    #[test]
    fn reading_other_channels_changes_nothing_else() {
        // The token reads and writes the same channels.
        for chosen in [&["a"][..], &["a", "b"], &["room:7"], &[]] {
            let chosen: Vec<String> = chosen.iter().map(|name| (*name).to_owned()).collect();
            let claims = claims(&["b", "a"], &["room:*"]).reading(&chosen);
            assert!(claims.read().iter().eq(chosen.iter().map(String::as_str)));
            assert!(claims.write().iter().eq(["a", "b"]));
            assert_eq!(claims.subject(), Some("ann"));
        }
    }

    #[test]
    fn a_stream_has_sixteen_channels_at_most() {
        let names: Vec<String> = (0..=MAX_CHANNELS).map(|number| format!("c{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let query = |names: &[&str]| names.iter().map(|name| format!("channel={name}&")).collect::<String>();
        let all = claims(&names, &[]);
        assert_eq!(channels(&query(&names[1..]), &all).unwrap().len(), MAX_CHANNELS);
        assert!(matches!(channels(&query(&names), &all), Err(Rejection::BadParameter(_))));
        assert!(matches!(channels("", &all), Err(Rejection::BadParameter(_))));
        assert_eq!(channels("", &claims(&names[1..], &[])).unwrap().len(), MAX_CHANNELS);
    }

    #[test]
    fn the_header_counts_more_than_the_query() {
        let parse = |query: &str, lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(LAST_EVENT_ID, line.parse().unwrap());
            }
            Wanted::parse(query, &headers, 255)
        };
        let number = |wanted: Wanted| wanted.since[0].1.unwrap().number;
        assert_eq!(number(parse("last_event_id=c%3Dab-1", &[]).unwrap()), 1);
        assert_eq!(number(parse("last_event_id=c%3Dab-1", &["c=ab-2"]).unwrap()), 2);
        assert!(parse("last_event_id=", &[]).unwrap().since.is_empty());
        assert!(parse("last_event_id=x", &[""]).unwrap().since.is_empty());
        assert!(parse("", &["closed"]).unwrap().is_closed);
        for (query, lines) in [
            ("last_event_id=c%3Dab-1&last_event_id=c%3Dab-1", &[][..]),
            ("", &["c=ab-1", "c=ab-1"]),
            ("", &["ab-1"]),
            ("last_event_id=x", &[]),
        ] {
            assert!(parse(query, lines).is_err(), "{query} {lines:?}");
        }
    }
}
