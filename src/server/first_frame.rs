//! philote.v1 before its token: the first frame brings it, within `[websocket] handshake_timeout`.
//!
//! Who has shown no token holds no place among the `max_connections`, only one among the [`MAX_PENDING`] that all wait
//! for in the same way, so that silence drives out silence. What it is refused for, it reads in a Close.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::frames::{FrameLimits, FrameReader, Received};
use super::listener::{MAX_PENDING, Waiting};
use super::presence::{Place, Presence};
use super::refusal::Refused;
use super::stream::Stream;
use super::{Refusal, Server, unix_now};
use crate::access_key::{claimed_subject, verify_in_frame};
use crate::frame::Frame;
use crate::http::{linger, write};
use crate::message::FromClient;

/// Pings that are answered at once.
const PINGS_PER_WRITE: usize = 16;

/// Waits for the token and lets its bearer in. Returns what was read behind it, too.
///
/// # Errors
/// Why it is refused; nothing where the client ended it.
pub(super) async fn enter(
    server: &Arc<Server>,
    stream: &mut Stream,
    address: SocketAddr,
    read_ahead: &[u8],
    timeout: Duration,
    waiting: &Waiting,
) -> Result<(Presence, Vec<u8>), Option<Refused>> {
    let (message, rest) = tokio::select! {
        first = first_message(server, stream, read_ahead) => first?,
        () = tokio::time::sleep(timeout) => return Err(Some(Refusal::TokenTimeout.into())),
        () = waiting.told_to_go() => return Err(Some(Refusal::Pending(MAX_PENDING).into())),
    };
    Ok((let_in(server, address, &message)?, rest))
}

/// Tells a refusal by a Close.
pub(super) async fn refuse(server: &Server, stream: &mut Stream, address: SocketAddr, refused: Refused) {
    write(stream, &refused.refusal.close()).await;
    server.refused(address, Refused { by_close: true, ..refused });
    linger(stream).await;
}

/// Reads to the end of the first message; pings before it are answered.
async fn first_message(
    server: &Server,
    stream: &mut Stream,
    read_ahead: &[u8],
) -> Result<(Message, Vec<u8>), Option<Refused>> {
    let mut frames = FrameReader::default();
    let mut bytes = read_ahead.to_vec();
    loop {
        let limits = {
            let live = server.live();
            let read_buffer = live.settings.websocket.read_buffer_size;
            FrameLimits { message: live.policy.longest_auth(), read_buffer }
        };
        let mut first = None;
        let mut closed = false;
        let mut replies: Vec<Frame> = Vec::new();
        let mut rest = &bytes[..];
        let read = frames.read(&mut rest, limits, server.now(), |received| {
            match received {
                Received::Message(message) => first = Some(message),
                Received::Ping(pong) => replies.push(pong),
                Received::Pong => {}
                Received::Close(_, answer) => {
                    closed = true;
                    replies.push(answer);
                }
            }
            first.is_none() && !closed && replies.len() < PINGS_PER_WRITE
        });
        let rest = rest.to_vec();
        for reply in &replies {
            stream.write_all(reply).await.map_err(|_| None)?;
        }
        read.map_err(|reason| Some(Refusal::Frames(reason).into()))?;
        if closed {
            return Err(None);
        }
        if let Some(first) = first {
            return Ok((first, rest));
        }
        bytes = rest;
        if bytes.is_empty() && stream.read_buf(&mut bytes).await.map_err(|_| None)? == 0 {
            return Err(None);
        }
    }
}

/// Lets in the bearer of the token in the first message.
fn let_in(server: &Arc<Server>, address: SocketAddr, message: &Message) -> Result<Presence, Refused> {
    let live = server.live();
    let text = message.to_text().map_err(|_| Refusal::TokenFirst)?;
    let first = FromClient::parse(text, live.settings.limits.channel_name_bytes, true);
    let Ok(FromClient::Auth(auth)) = first else { return Err(Refusal::TokenFirst.into()) };
    if auth.token.is_empty() {
        return Err(Refusal::TokenFirst.into());
    }
    let mut place = Place::take(server, &live, address.ip())?;
    let access = verify_in_frame(&auth.token, &live.keys, &live.policy, unix_now())
        .map_err(|error| Refusal::Token(error).of(claimed_subject(&auth.token)))?;
    server.check_subject(&access).map_err(|refusal| refusal.of(access.subject.clone()))?;
    place.set_subject(&access, &live)?;
    Ok(Presence::enter(place, address, access, true, &auth.since))
}
