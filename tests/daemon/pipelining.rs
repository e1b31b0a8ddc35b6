//! Bytes after a request in the same packet: every answer arrives, on every kind of listener, and a client that sends
//! requests without reading answers uses no more memory.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use crate::everywhere::{Everywhere, FLAT, KINDS, Stream, first_answer, read_all, request};
use crate::support::*;

/// The number of requests of a flood.
const FLOOD: usize = 20_000;

/// Every route and every rejection that a client can cause with one request: the status, the request, and whether the
/// connection stays open.
fn requests() -> Vec<(u16, String, bool)> {
    let api = sign(&json!({"api": true}));
    let narrow = sign(&json!({"api": true, "write": ["a"]}));
    let reader = sign(&json!({"read": ["c"], "write": ["c"]}));
    let get = |path: &str| request("GET", path, &api, "");
    let post = |path: &str, body: &str| request("POST", path, &api, body);
    let good = upgrade(&reader, "");
    let mut all = vec![
        (200, get("/health"), true),
        (200, get("/health/ready"), true),
        (200, get("/api/openapi.json"), true),
        (200, get("/api/info"), true),
        (200, get("/api/channels"), true),
        (200, get("/api/channels/c"), true),
        (200, get("/api/connections?subject=s"), true),
        (200, post("/api/publish", r#"{"channel":"c","data":"x"}"#), true),
        (200, post("/api/disconnect", r#"{"subject":"nobody"}"#), true),
    ];
    let chunked = "POST /api/publish HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n";
    let refusals = [
        (400, post("/api/publish", "no JSON")),
        (400, post("/api/publish", r#"{"channel":"c","data":7}"#)),
        (400, get("/api/channels?limit=0")),
        (401, request("GET", "/api/info", "bad", "")),
        (401, request("POST", "/api/publish", "bad", "{}")),
        (403, request("GET", "/api/info", &reader, "")),
        (403, request("POST", "/api/publish", &narrow, r#"{"channel":"c","data":"x"}"#)),
        (404, get("/api/none")),
        (405, post("/health", "")),
        (405, get("/api/publish")),
        (413, post("/api/disconnect", &"x".repeat(5_000))),
        (
            413,
            format!(
                "POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api}\r\nContent-Length: 9999999\r\n\r\n"
            ),
        ),
        (400, format!("{chunked}Content-Length: 5\r\n\r\n0\r\n\r\n")),
        (400, format!("{chunked}Transfer-Encoding: gzip\r\n\r\n")),
        (400, "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        (426, get("/room")),
        (400, good.replace("HTTP/1.1", "HTTP/1.0")),
        (400, good.replace("Host: x\r\n", "")),
        (400, good.replace("Upgrade: websocket", "Upgrade: h2c")),
        (400, good.replace("dGhlIHNhbXBsZSBub25jZQ==", "short")),
        (400, upgrade(&reader, "Content-Length: 5\r\n")),
        (426, good.replace("Version: 13", "Version: 8")),
        (405, good.replace("GET", "POST")),
        (401, upgrade("bad", "")),
        (403, upgrade(&reader, "Origin: http://foreign\r\n")),
        (404, good.replace("GET /", "GET /api/info")),
        (400, "noise\r\n\r\n".to_owned()),
        (400, "GET /\"<>\" HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nno header\r\n\r\n".to_owned()),
        (431, format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000))),
    ];
    all.extend(refusals.map(|(code, request)| (code, request, false)));
    all
}

#[test]
fn every_answer_arrives_whatever_follows_the_request() {
    let everywhere = Everywhere::start("[websocket]\ncheck_origin = true");
    let health = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut count = 0;
    for kind in KINDS {
        for (code, request, goes_on) in requests() {
            for behind in [health, "GET /hea", "\r\n"] {
                let mut stream = everywhere.connect(kind);
                stream.write_all(format!("{request}{behind}").as_bytes()).unwrap();
                if behind == "\r\n" && goes_on {
                    // Only the client ends this connection.
                    stream.write_all(health.as_bytes()).unwrap();
                } else if goes_on && behind != health {
                    stream.write_all(b"lth HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
                }
                let bytes = read_all(&mut *stream);
                let case = format!("{kind}, {behind:?} behind {request:.200}");
                let (answered, rest) = first_answer(&bytes);
                assert_eq!(answered, code, "{case}: {}", String::from_utf8_lossy(&bytes));
                let (second, rest) = if goes_on { first_answer(rest) } else { (200, rest) };
                assert_eq!((second, rest), (200, &b""[..]), "{case}");
                count += 1;
            }
        }
    }
    assert_eq!(count, KINDS.len() * requests().len() * 3);
}

#[test]
fn fault_12_the_101_arrives_when_a_frame_follows_the_request() {
    let everywhere = Everywhere::start("");
    let token = sign(&json!({"read": ["c"], "write": ["c"]}));
    for kind in KINDS {
        let mut reader = everywhere.daemon.client(&["c"]);
        let text = frame(0x81, br#"{"channel":"c","data":"early"}"#);
        let mut bytes = upgrade(&token, "").into_bytes();
        bytes.extend(&text);
        let mut stream = everywhere.connect(kind);
        stream.write_all(&bytes).unwrap();
        assert_eq!(reader.data(), "early");
        stream.write_all(&frame(0x88, &1000_u16.to_be_bytes())).unwrap();
        let bytes = read_all(&mut *stream);
        assert_eq!(first_answer(&bytes).0, 101, "{kind}");

        // philote.v1: the token in the frame, and a rejection in a Close.
        for (frames, expected) in [
            (frame(0x81, json!({"auth": token}).to_string().as_bytes()), &b"{\"access\""[..]),
            (frame(0x81, b"{\"auth\":\"bad\"}"), b"\x88"),
            (frame(0x81, b"no token"), b"\x88"),
        ] {
            let request = upgrade(&token, "Sec-WebSocket-Protocol: philote.v1\r\n");
            let request = request.replace(&format!("Authorization: Bearer {token}\r\n"), "");
            let mut stream = everywhere.connect(kind);
            stream
                .write_all(&[request.as_bytes(), &frames, &frame(0x88, &1000_u16.to_be_bytes())].concat())
                .unwrap();
            let bytes = read_all(&mut *stream);
            let (answered, rest) = first_answer(&bytes);
            assert_eq!(answered, 101, "{kind}");
            let found = rest.windows(expected.len()).any(|window| window == expected);
            assert!(found, "{kind}: {}", String::from_utf8_lossy(rest));
        }
    }
}

#[test]
fn answers_of_the_admin_socket_and_the_metrics_arrive_whatever_follows_the_request() {
    let everywhere = Everywhere::start("");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let post = |path: &str, length: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
    };
    let both = "POST /v1/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let cases = [
        ("admin", 200, get("/v1/status")),
        ("admin", 200, get("/v1/metrics")),
        ("admin", 200, get("/v1/connections")),
        ("admin", 404, get("/v1/none")),
        ("admin", 405, post("/v1/status", 0)),
        ("admin", 400, format!("{}no JSON", post("/v1/publish", 7))),
        ("admin", 413, post("/v1/publish", 9_999_999)),
        ("admin", 400, both.to_owned()),
        ("admin", 400, "noise\r\n\r\n".to_owned()),
        ("admin", 400, "GET /\"<>\" HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        ("admin", 431, format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000))),
        ("metrics", 200, get("/metrics")),
        ("metrics", 404, get("/")),
        ("metrics", 405, post("/metrics", 0)),
        ("metrics", 405, format!("{}hello", post("/metrics", 5))),
        ("metrics", 400, "noise\r\n\r\n".to_owned()),
        ("metrics", 431, format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000))),
    ];
    for (kind, code, request) in cases {
        // The last one is larger than the buffer of a socket, so a close without reading it would be a reset.
        let much = "x".repeat(4_000_000);
        for behind in ["GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "GET /met", "\r\n", &much] {
            let mut stream = everywhere.connect(kind);
            stream.write_all(request.as_bytes()).unwrap();
            let written = stream.write_all(behind.as_bytes());
            let bytes = read_all(&mut *stream);
            let case = format!("{kind}, {behind:.20?} behind {request:.100}");
            let (answered, rest) = first_answer(&bytes);
            assert_eq!(answered, code, "{case}: {}", String::from_utf8_lossy(&bytes));
            assert!(rest.is_empty(), "{case}: a connection carries one request");
            written.unwrap_or_else(|error| panic!("{case}: {error}"));
        }
    }
}

/// Writes requests until the daemon reads no more.
fn flood(stream: &mut dyn Stream, request: &str) {
    stream.set_write_timeout(Duration::from_millis(500));
    let bytes = request.repeat(FLOOD).into_bytes();
    let mut sent = 0;
    while let Ok(count) = stream.write(&bytes[sent..])
        && count > 0
    {
        sent += count;
    }
    assert!(sent < bytes.len(), "the daemon reads on although the client reads no answers");
}

#[test]
fn pipelined_requests_with_unread_answers_keep_memory_flat() {
    let everywhere = Everywhere::start("[websocket]\nhandshake_timeout = '60s'");
    let api = sign(&json!({"api": true}));
    // HEAD with a body is a separate case, because hyper puts its answers into an unbounded buffer.
    let large = "GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".to_owned();
    let small = [
        "GET /health HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "HEAD /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx".to_owned(),
        format!(
            "POST /api/publish?auth={api} HTTP/1.1\r\nHost: x\r\nContent-Length: 26\r\n\r\n{}",
            r#"{"channel":"c","data":"x"}"#
        ),
    ];
    // More than sockets hold, so that writing ends only if the daemon stops reading.
    let padding = format!("Host: x\r\nX-Padding: {}\r\n", "x".repeat(1000));
    let before = everywhere.daemon.peak();
    let mut streams = Vec::new();
    for kind in KINDS {
        // A TCP socket holds more small answers than a flood causes, a Unix socket does not.
        for request in [&large].into_iter().chain(small.iter().filter(|_| kind == "unix")) {
            let mut stream = everywhere.connect(kind);
            flood(&mut *stream, &request.replace("Host: x\r\n", &padding));
            streams.push(stream);
        }
        let peak = everywhere.daemon.peak();
        println!("{kind}: {} KiB before, {} KiB at the worst", before / 1024, peak / 1024);
        assert!(peak < before + FLAT, "{kind}: {before} bytes, then {peak}");
    }
    // The first of these requests is answered, the others are discarded up to a limit.
    for (kind, request) in [("admin", "GET /v1/status"), ("admin", "GET /none"), ("metrics", "GET /metrics")]
    {
        let mut stream = everywhere.connect(kind);
        let request = format!("{request} HTTP/1.1\r\n{padding}\r\n");
        let sent = (0..2 * FLOOD).take_while(|_| stream.write_all(request.as_bytes()).is_ok()).count();
        println!("{kind}: {sent} requests");
        assert!(sent < 2 * FLOOD, "{kind}: the daemon reads without a limit");
        let peak = everywhere.daemon.peak();
        println!("{kind}: {} KiB before, {} KiB at the worst", before / 1024, peak / 1024);
        assert!(peak < before + FLAT, "{kind}: {before} bytes, then {peak}");
    }
    assert_eq!(everywhere.daemon.http("GET", "/health", "", "").0, 200);
}

#[test]
fn a_flood_that_is_read_later_is_answered_completely_and_in_order() {
    let everywhere = Everywhere::start("");
    for kind in KINDS {
        let mut stream = everywhere.connect(kind);
        // Far more than the sockets hold; the daemon waits for a slow reader.
        let mut requests = "GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400);
        requests.push_str(&upgrade("bad", ""));
        requests.push_str("GET /hea");
        stream.write_all(requests.as_bytes()).unwrap();
        let bytes = read_all(&mut *stream);
        let mut rest = &bytes[..];
        for number in 0..400 {
            let (code, behind) = first_answer(rest);
            assert_eq!(code, 200, "{kind}, answer {number}");
            rest = behind;
        }
        assert_eq!(first_answer(rest), (401, &b""[..]), "{kind}");
    }
}

#[test]
fn the_101_is_not_lost_when_the_socket_is_full() {
    let everywhere = Everywhere::start("");
    let token = sign(&json!({"read": ["c"], "write": ["c"]}));
    for kind in KINDS {
        let mut stream = everywhere.connect(kind);
        let mut bytes = "GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400).into_bytes();
        bytes.extend(upgrade(&token, "").bytes());
        bytes.extend(frame(0x89, b"ping"));
        bytes.extend(frame(0x88, &1000_u16.to_be_bytes()));
        stream.write_all(&bytes).unwrap();
        let bytes = read_all(&mut *stream);
        let mut rest = &bytes[..];
        for _ in 0..400 {
            rest = first_answer(rest).1;
        }
        let (code, frames) = first_answer(rest);
        assert_eq!((code, frames.get(..6)), (101, Some(&b"\x8a\x04ping"[..])), "{kind}");
    }
}

#[test]
fn a_client_that_reads_no_answer_is_disconnected_at_the_deadline() {
    let everywhere = Everywhere::start("[websocket]\nhandshake_timeout = '1s'");
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", everywhere.daemon.pid())).unwrap().count();
    let token = sign(&json!({"read": ["c"], "write": ["c"]}));
    let large = "GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let before = descriptors();
    let mut streams = Vec::new();
    for kind in KINDS {
        for last in ["", "GET /hea", "noise\r\n\r\n", &upgrade("bad", ""), &upgrade(&token, "")] {
            let mut stream = everywhere.connect(kind);
            stream.set_write_timeout(Duration::from_millis(200));
            let _ = stream.write_all(format!("{large}{last}").as_bytes());
            streams.push(stream);
        }
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    while descriptors() > before {
        assert!(std::time::Instant::now() < deadline, "{} descriptors, {before} before", descriptors());
        std::thread::yield_now();
    }
    assert_eq!(everywhere.daemon.admin("GET", "/v1/status", "")["connections"], 0);
    drop(streams);
}
