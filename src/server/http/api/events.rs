//! `GET /api/events`: a stream of events, which ends when its client is too slow, its token is no longer valid, or the
//! daemon stops.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use tokio::time::{Instant, timeout};

use crate::close::CloseReason;
use crate::feed::{FollowError, Following, Format, MAX_STREAMS, Taken};
use crate::message::{ChannelPattern, ChannelPatterns, MessageId};
use crate::server::http::answer::{Answer, whole};
use crate::server::http::visit::prefers;
use crate::server::rejection::Rejection;
use crate::server::{Server, admission, unix_now};
use crate::token::{Claims, MAX_PATTERNS};

/// How long nothing is sent before a line that keeps the stream open: less than the patience of usual proxies.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How often the token of a stream is checked.
const CHECK: Duration = Duration::from_secs(1);

/// The header in which a client of Server-Sent Events names the last event that it got.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Tells nginx to pass on each line at once.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What the client asks for.
#[derive(Debug, PartialEq)]
struct Wanted {
    channels: ChannelPatterns,
    last: Option<MessageId>,
}

impl Wanted {
    fn parse(
        query: &str,
        headers: &HeaderMap,
        claims: &Claims,
        max_bytes: usize,
    ) -> Result<Wanted, Rejection> {
        let (mut channels, mut last) = (Vec::new(), None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "channel" if channels.len() == MAX_PATTERNS => {
                    let sentence = format!("the query may have {MAX_PATTERNS} channels at most");
                    return Err(Rejection::BadParameter(sentence));
                }
                "channel" => channels.push(value.into_owned()),
                "last_event_id" if last.is_some() => {
                    return Err(Rejection::BadRequest("the query parameter last_event_id appears twice"));
                }
                "last_event_id" => last = Some(value.into_owned()),
                _ => {}
            }
        }
        if headers.get_all(LAST_EVENT_ID).iter().nth(1).is_some() {
            return Err(Rejection::BadRequest("the header Last-Event-ID appears twice"));
        }
        // A browser repeats its first query, and sends the header when it returns.
        let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?").to_owned());
        let last = header.or(last).filter(|last| !last.is_empty()).map(|last| MessageId::parse(&last));
        let visible = visible(claims);
        let visible_part = |text: &String| {
            let pattern = ChannelPattern::new(text, max_bytes)
                .map_err(|error| Rejection::BadParameter(error.to_string()))?;
            let wanted: ChannelPatterns = [pattern].into_iter().collect();
            let part = visible.as_ref().map_or_else(|| wanted.clone(), |visible| visible.common(&wanted));
            if part.is_empty() { Err(Rejection::HiddenChannel(text.clone())) } else { Ok(part) }
        };
        let parts: Vec<ChannelPatterns> = channels.iter().map(visible_part).collect::<Result<_, _>>()?;
        let channels = parts.iter().flat_map(ChannelPatterns::iter).cloned().collect();
        Ok(Wanted { channels, last })
    }
}

/// Returns the channels that the token may see; `None` is all of them.
fn visible(claims: &Claims) -> Option<ChannelPatterns> {
    let may = claims.may().and_then(|may| may.read.as_ref());
    let may = may.map(ChannelPatterns::iter).unwrap_or_default().cloned();
    let all = claims.read().iter().map(ChannelPattern::of_channel).chain(may);
    claims.sees_only_some().then(|| all.collect())
}

/// A stream that is being sent.
struct Streaming {
    server: Arc<Server>,
    claims: Claims,
    following: Arc<Following>,
    format: Format,
    /// When something was last sent.
    sent: Instant,
    /// When the token was last checked.
    checked: Instant,
    over: bool,
}

impl Streaming {
    /// Returns why the stream must end.
    fn revoked(&self) -> Option<CloseReason> {
        let leeway = self.server.live().policy.leeway;
        let expired = self.claims.expires().is_some_and(|expires| expires + leeway <= unix_now());
        if expired {
            return Some(CloseReason::TokenExpired);
        }
        admission::revoked(&self.server, &self.claims)
    }

    /// Returns the next lines; `None` is the end.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.over {
            if self.checked.elapsed() >= CHECK {
                self.checked = Instant::now();
                if let Some(reason) = self.revoked() {
                    self.following.end(reason);
                }
            }
            let idle = self.sent.elapsed() >= KEEP_ALIVE;
            let taken =
                if idle { self.following.alive(self.format) } else { self.following.take(self.format) };
            match taken {
                Taken::Some(bytes) => {
                    self.sent = Instant::now();
                    return Some(bytes);
                }
                Taken::Last(bytes) => {
                    self.over = true;
                    return Some(bytes);
                }
                Taken::Nothing => drop(timeout(CHECK, self.following.changed()).await),
            }
        }
        None
    }
}

/// Answers with a stream.
pub(super) async fn answer(
    server: &Arc<Server>,
    claims: Claims,
    deadline: tokio::time::Instant,
    request: &Request<Incoming>,
) -> Result<Answer, Rejection> {
    let headers = request.headers();
    let max_bytes = server.live().settings.limits.channel_name_bytes;
    let wanted = Wanted::parse(request.uri().query().unwrap_or_default(), headers, &claims, max_bytes)?;
    let (lines, server_sent) = (Format::JsonLines, Format::ServerSent);
    let format =
        if prefers(headers, server_sent.media_type(), lines.media_type()) { server_sent } else { lines };
    let mut answer = Response::new(whole(Bytes::new()));
    for (name, value) in [
        (CONTENT_TYPE, format.media_type()),
        (CACHE_CONTROL, "no-store"),
        (CONNECTION, "close"),
        (X_ACCEL_BUFFERING, "no"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if request.method() == Method::HEAD {
        return Ok(answer);
    }
    let follow = move |server: &Arc<Server>| server.hub.follow_events(wanted.channels, wanted.last);
    let following = server.background.run(server, deadline, follow).await?.map_err(|error| match error {
        FollowError::Full => Rejection::Streams(MAX_STREAMS),
        FollowError::Stopping => Rejection::Draining,
    })?;
    answer.extensions_mut().insert(following.clone());
    let now = Instant::now();
    let server = server.clone();
    let streaming = Streaming { server, claims, following, format, sent: now, checked: now, over: false };
    let chunks = futures_util::stream::unfold(streaming, async |mut streaming| {
        let bytes = streaming.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), streaming))
    });
    *answer.body_mut() = Either::Right(StreamBody::new(chunks).boxed_unsync());
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::config::{Environment, Overrides, Settings, load};
    use crate::token::{NewToken, issue, verify};

    fn settings(secret: &'static str) -> Settings {
        load(&Overrides::default(), &Environment::new([("SECRET", secret)])).unwrap().settings
    }

    /// A stream with a token that the server's secret signed.
    fn streaming(server: &Arc<Server>) -> Streaming {
        let live = server.live_owned();
        let claims =
            verify(&issue(&NewToken::default(), &live.keys).unwrap(), &live.keys, &live.policy, 0).unwrap();
        let following = server.hub.follow_events(ChannelPatterns::default(), None).unwrap();
        let (now, format) = (Instant::now(), Format::JsonLines);
        Streaming { server: server.clone(), claims, following, format, sent: now, checked: now, over: false }
    }

    fn line(bytes: Option<Bytes>) -> Value {
        serde_json::from_slice(&bytes.unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_stream_is_kept_open_by_lines_with_its_position() {
        let server = Server::new(settings("a secret of more than thirty-two characters"), 1024);
        let mut streaming = streaming(&server);
        let first = line(streaming.next().await);
        let began = Instant::now();
        for number in 1..=3 {
            // Not selected, so that only its position changes.
            server
                .hub
                .follow_events(
                    [ChannelPattern::new(&number.to_string(), 9).unwrap()].into_iter().collect(),
                    None,
                )
                .unwrap();
            let alive = line(streaming.next().await);
            assert_eq!(alive["event"], "alive");
            let position = |line: &Value| MessageId::parse(line["id"].as_str().unwrap()).number;
            assert_eq!(position(&alive), position(&first) + number);
            assert_eq!(began.elapsed().as_secs(), number * KEEP_ALIVE.as_secs());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_the_key_of_its_token_is_withdrawn() {
        let server = Server::new(settings("a secret of more than thirty-two characters"), 1024);
        let mut streaming = streaming(&server);
        assert_eq!(line(streaming.next().await)["event"], "alive");
        server.reload(settings("another secret, of more than thirty-two characters"), Duration::ZERO);
        let last = line(streaming.next().await);
        assert_eq!((&last["event"], &last["reason"]), (&"ended".into(), &"key_withdrawn".into()));
        assert_eq!(streaming.next().await, None);
    }
}
