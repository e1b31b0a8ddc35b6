//! What strangers send to the clients' port, for tests/fuzz: requests and frames in any splits, bodies of the API, and the
//! headers of proxies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failure is a finding, or a fault of the machine"
)]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use super::Server;
use super::accept::listener::Protocols;
use super::accept::proxy_protocol;
use super::accept::stream::Stream;
use super::http::connection::{self, Undecided};
use super::http::direct;
use super::http::forwarded::{self, UNIX_PEER};
use crate::close::CloseReason;
use crate::config::{Environment, Overrides, load};
use crate::deflate::{RSV1, inflate};

#[cfg(test)]
mod tests;

/// How long a connection may take that its client has ended.
const PATIENCE: Duration = Duration::from_secs(5);

const SECRET: &str = "the secret of the fuzzer, of more than 32 bytes";

const SETTINGS: [(&str, &str); 7] = [
    ("SECRET", SECRET),
    ("CHECK_ORIGIN", "true"),
    ("PHILOTE_HISTORY_MESSAGES", "20"),
    ("PHILOTE_LIMITS_CHANNELS_PER_TOKEN", "16"),
    ("PHILOTE_LIMITS_TRUSTED_PROXIES", "unix,10.0.0.0/8"),
    ("PHILOTE_WEBSOCKET_MAX_MESSAGE_SIZE", "4KiB"),
    ("PHILOTE_WEBSOCKET_COMPRESSION", "64B"),
];

thread_local! {
    static SERVER: (Runtime, Arc<Server>, String) = {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let settings = load(&Overrides::default(), &Environment::new(SETTINGS)).unwrap().settings;
        let server = Server::new(settings, 1024);
        (runtime, server, token())
    };
}

/// A token that may do everything.
fn token() -> String {
    let claims = json!({
        "read": ["c", "d"], "write": ["c", "d"], "api": true, "sub": "s", "presence": true,
        "may": {"read": ["room:*"], "write": ["room:*"]},
    });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

/// Which code answers the first request of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// That of the daemon: hyper if the request is none for the short way.
    Direct,
    Hyper,
}

/// Connects, sends the chunks one by one, closes the sending direction, and returns all that was answered.
fn converse(way: Way, chunks: impl FnOnce(&str) -> Vec<Vec<u8>>) -> Vec<u8> {
    SERVER.with(|(runtime, server, token)| {
        let panics = server.counters.panics.load(Relaxed);
        let answer = runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let task = tokio::spawn(serve(server.clone(), Stream::Unix(theirs), way));
            let answer = tokio::time::timeout(PATIENCE, talk(ours, chunks(token))).await;
            let answer = answer.expect("the connection outlives its client");
            tokio::time::timeout(PATIENCE, task).await.expect("a task is left").expect("no panic");
            answer
        });
        assert_eq!(server.counters.panics.load(Relaxed), panics, "a panic");
        answer
    })
}

async fn serve(server: Arc<Server>, stream: Stream, way: Way) {
    let protocols = Protocols { tls: false, proxy_protocol: false, api: true };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let Ok(waiting) = server.pending.enter(None, true).await else { return };
    // As the accept loop does: nothing is read before something is there.
    stream.readable().await;
    let session = match way {
        Way::Direct => direct::serve(server, stream, UNIX_PEER, protocols, deadline, waiting).await,
        Way::Hyper => {
            let (waiting, nothing) = (Arc::new(waiting), Undecided::default());
            connection::serve(server, stream, UNIX_PEER, protocols, deadline, waiting, nothing).await
        }
    };
    if let Some(session) = session {
        session.await;
    }
}

async fn talk(mut stream: UnixStream, chunks: Vec<Vec<u8>>) -> Vec<u8> {
    use tokio::io::AsyncWriteExt;
    let mut answer = Vec::new();
    for chunk in chunks {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            match stream.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
            read(&stream, &mut answer);
            // The other side reads this part before the next one comes.
            tokio::task::yield_now().await;
        }
    }
    let _ = stream.shutdown().await;
    loop {
        if read(&stream, &mut answer) {
            return answer;
        }
        let _ = stream.readable().await;
    }
}

/// Reads what is there; returns whether it was the end.
fn read(stream: &UnixStream, answer: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.try_read(&mut buffer) {
            Ok(0) => return true,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Divides bytes into parts whose lengths follow from a seed.
fn split(mut bytes: &[u8], seed: u8) -> Vec<Vec<u8>> {
    let mut state = u32::from(seed) | 0x100;
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = if seed == 0 { bytes.len() } else { 1 + (state >> 24) as usize % 64 };
        let (part, rest) = bytes.split_at(length.min(bytes.len()));
        parts.push(part.to_vec());
        bytes = rest;
    }
    parts
}

/// A request as raw bytes, answered in both ways. `TOKEN` in it stands for a valid token.
pub(crate) fn request(data: &[u8]) {
    let Some((seed, text)) = data.split_first() else { return };
    let [direct, hyper] = outcomes(text, *seed);
    assert_eq!(direct, hyper, "{}", text.escape_ascii());
}

/// Returns the outcome of a request without hyper, if it is one for that way, and with it.
fn outcomes(text: &[u8], seed: u8) -> [Vec<String>; 2] {
    [Way::Direct, Way::Hyper].map(|way| {
        let answer = converse(way, |token| split(&replace(text, b"TOKEN", token.as_bytes()), seed));
        let is_answer = answer.is_empty() || answer.starts_with(b"HTTP/1.");
        assert!(is_answer, "{}", String::from_utf8_lossy(&answer));
        outcome(&answer)
    })
}

/// Returns what both ways must agree on: the heads of the answers to the first request but for the time and the size of what
/// changes with the server's state, the reason of a rejection, and after an upgrade the kinds of frames and the Close.
fn outcome(answer: &[u8]) -> Vec<String> {
    let mut outcome = Vec::new();
    let text = String::from_utf8_lossy(answer);
    let is_end = |window: &[u8]| window == b"\r\n\r\n";
    if text.starts_with("HTTP/1.1 101 ") {
        let end = answer.windows(4).position(is_end).expect("a head") + 4;
        let mut frames = &answer[end..];
        while let Some((first, payload, rest)) = frame(frames) {
            let shown = if first == 0x88 { payload } else { b"" };
            outcome.push(format!("frame {first:x} {}", shown.escape_ascii()));
            frames = rest;
        }
        outcome.extend(head_of(&text));
        return outcome;
    }
    for answer in text.split("HTTP/1.").skip(1) {
        outcome.extend(head_of(answer));
        if let Some((_, body)) = answer.split_once("\r\n\r\n").filter(|_| answer[2..].starts_with('4')) {
            outcome.push(body.to_owned());
        }
        // hyper reads the rest of a body that nobody wants, and then the next request, only if it has come already.
        let is_interim = answer[2..].starts_with('1');
        if !is_interim {
            break;
        }
    }
    outcome
}

fn head_of(answer: &str) -> impl Iterator<Item = String> {
    let (head, _) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let mut lines: Vec<String> = head.split("\r\n").map(str::to_ascii_lowercase).collect();
    lines.retain(|line| !line.starts_with("date:") && !line.starts_with("content-length:"));
    // The lines of the two upgrades have another order.
    lines[1..].sort_unstable();
    lines.into_iter()
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        result.extend_from_slice(&rest[..at]);
        result.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    result.extend_from_slice(rest);
    result
}

/// The body of a request to the API, whose route the first byte chooses.
pub(crate) fn api_body(data: &[u8]) {
    let Some((route, body)) = data.split_first() else { return };
    let route = ["POST /api/publish", "POST /api/disconnect", "GET /api/channels?", "GET /api/connections?"]
        [usize::from(*route) % 4];
    let answer = converse(Way::Direct, |token| {
        let (line, body) = match route.strip_suffix('?') {
            Some(_) => (format!("{route}{}", query(body)), &b""[..]),
            None => (route.to_owned(), body),
        };
        let head = format!(
            "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        vec![head.into_bytes(), body.to_vec()]
    });
    let text = String::from_utf8(answer).expect("an answer of text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole answer");
    assert!(head.starts_with("HTTP/1.1 ") && !head.starts_with("HTTP/1.1 500"), "{head}");
    serde_json::from_str::<serde_json::Value>(body).expect("an answer of JSON");
}

/// The query of a request for a stream of events, a newline, and the value of `Last-Event-ID`. The first byte chooses the form
/// of the stream, and whether there is the header.
pub(crate) fn events(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else { return };
    let mut parts = rest.splitn(2, |byte| *byte == b'\n');
    let (channels, last) = (query(parts.next().unwrap_or_default()), parts.next().unwrap_or_default());
    let server_sent = flags & 1 != 0;
    let answer = converse(Way::Direct, |token| {
        let accept = if server_sent { "text/event-stream" } else { "application/jsonl" };
        let mut head = format!(
            "GET /api/events?{channels} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nAccept: {accept}\r\n"
        )
        .into_bytes();
        if flags & 2 != 0 {
            let line = |byte: &&u8| !matches!(**byte, b'\r' | b'\n');
            head.extend_from_slice(b"Last-Event-ID: ");
            head.extend(last.iter().filter(line));
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        vec![head]
    });
    let text = String::from_utf8(answer).expect("an answer of text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole answer");
    assert!(head.starts_with("HTTP/1.1 ") && !head.starts_with("HTTP/1.1 500"), "{head}");
    if !head.starts_with("HTTP/1.1 200") {
        serde_json::from_str::<serde_json::Value>(body).expect("an error of JSON");
        return;
    }
    // The stream ends with its client, in the middle of the chunks.
    let ids = body.lines().filter(|line| line.starts_with('{') || line.starts_with("data:"));
    for line in ids.filter(|line| line.ends_with('}')) {
        let line = line.strip_prefix("data:").unwrap_or(line);
        let event: serde_json::Value = serde_json::from_str(line).expect("an event of JSON");
        assert!(event["event"].is_string(), "{event}");
    }
}

/// Any bytes as a query.
fn query(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"=&%+-._~".contains(byte);
    let encode = |byte: &u8| if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02x}") };
    bytes.iter().map(encode).collect()
}

/// Frames after an upgrade: raw bytes, or a list of frames with correct lengths and masks, in any splits. With compression, the
/// payload of a frame that is marked as compressed is, too.
pub(crate) fn frames(data: &[u8]) {
    let [flags, seed, rest @ ..] = data else { return };
    let (v1, offers, deflates) = (flags & 1 != 0, flags & 4 != 0, flags & 8 != 0);
    let answer = converse(Way::Direct, |token| {
        let stream = if flags & 2 != 0 { rest.to_vec() } else { masked(rest, token, offers && deflates) };
        let protocol = if v1 { "Sec-WebSocket-Protocol: philote.v1\r\n" } else { "" };
        let offer = if offers { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
        let head = format!(
            "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n{protocol}{offer}\r\n"
        );
        let mut chunks = vec![head.into_bytes()];
        chunks.extend(split(&stream, *seed));
        chunks
    });
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    check_frames(&answer[end..], offers);
}

/// Encodes a list of frames: a first byte, a length, and the payload for each. `TOKEN` stands for a valid token. The mask
/// changes with every frame. With `deflates` the payload of a frame that is marked as compressed is compressed first.
fn masked(mut list: &[u8], token: &str, deflates: bool) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut mask = [0x12, 0x34, 0x56, 0x78_u8];
    while let [first, length, rest @ ..] = list {
        let (payload, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        let mut payload = replace(payload, b"TOKEN", token.as_bytes());
        if deflates && first & RSV1 != 0 {
            payload = deflated(&payload);
        }
        stream.push(*first);
        match u16::try_from(payload.len()) {
            Ok(short @ 0..126) => stream.push(0x80 | short as u8),
            long => {
                stream.push(0xfe);
                stream.extend_from_slice(&long.unwrap().to_be_bytes());
            }
        }
        stream.extend_from_slice(&mask);
        stream.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        mask = mask.map(|byte| byte.wrapping_mul(5).wrapping_add(1));
        list = rest;
    }
    stream
}

fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * payload.len() + 100);
    let mut compressor = flate2::Compress::new(flate2::Compression::default(), false);
    compressor.compress_vec(payload, &mut out, flate2::FlushCompress::Sync).unwrap();
    out.truncate(out.len() - 4);
    out
}

/// What the server sends must be whole frames without a mask; text must be JSON, and a Close must not report its own fault, though
/// it answers a client that reports one with the client's own words. Only with `deflate` may a text be compressed.
fn check_frames(mut bytes: &[u8], deflate: bool) {
    let json = |text: &[u8]| drop(serde_json::from_slice::<serde_json::Value>(text).expect("JSON"));
    while let Some((first, payload, rest)) = frame(bytes) {
        match first {
            0x81 => json(payload),
            0xc1 if deflate => inflate(payload, 1 << 20, json).expect("compressed data"),
            0x88 => {
                let own = CloseReason::InternalError.sentence();
                assert!(!payload.ends_with(own.as_bytes()), "{}", String::from_utf8_lossy(payload));
                assert!(rest.is_empty(), "bytes after the Close");
            }
            0x89 | 0x8a => {}
            other => assert_eq!(other, 0x81, "a frame of an unknown kind"),
        }
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a frame");
}

/// Returns the first byte of a frame from the server, its payload, and what follows it.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [first, length, rest @ ..] = bytes else { return None };
    let (length, rest) = match *length {
        126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
        127 => (u64::from_be_bytes(*rest.first_chunk().unwrap()) as usize, &rest[8..]),
        short => {
            assert!(short < 126, "a mask");
            (usize::from(short), rest)
        }
    };
    let (payload, rest) = rest.split_at(length);
    Some((*first, payload, rest))
}

/// The header of the PROXY protocol, and what follows it.
pub(crate) fn proxy_header(data: &[u8]) {
    SERVER.with(|(runtime, ..)| {
        let mut rest = data;
        if let Ok(Some(address)) = runtime.block_on(proxy_protocol::read(&mut rest)) {
            assert!(rest.len() < data.len());
            assert_eq!(address.ip(), address.ip().to_canonical());
        }
    });
}

/// Lines of `X-Forwarded-For` and `Forwarded`, each after a byte that chooses the header.
pub(crate) fn forwarded(data: &[u8]) {
    SERVER.with(|(_, server, _)| {
        let live = server.live();
        let trusted = &live.settings.limits.trusted_proxies;
        let mut headers = HeaderMap::new();
        let mut lines = Vec::new();
        for line in data.split(|byte| *byte == b'\n') {
            let Some((name, value)) = line.split_first() else { continue };
            let name = if name & 1 == 0 { "x-forwarded-for" } else { "forwarded" };
            if let Ok(text) = HeaderValue::from_bytes(value) {
                headers.append(HeaderName::from_static(name), text);
                lines.push(httparse::Header { name, value });
            }
        }
        let client = forwarded::client(UNIX_PEER, &headers, trusted);
        assert_eq!(client.ip(), client.ip().to_canonical());
        assert_eq!(forwarded::client(UNIX_PEER, &lines[..], trusted), client);
        // From any other peer the headers mean nothing.
        let stranger = SocketAddr::from(([192, 0, 2, 1], 7));
        assert_eq!(forwarded::client(stranger, &headers, trusted), stranger);
    });
}
