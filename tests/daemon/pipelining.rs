//! What stands behind a request in the same packet: every answer comes, on every kind of listener, and whoever sends
//! requests without reading answers fills no memory.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustls::version;
use serde_json::json;

use crate::support::*;
use crate::tls::Authority;

/// Requests of a flood.
const FLOOD: usize = 20_000;

/// What the daemon's memory may grow by while nobody reads, in bytes: a few answers, and what the allocator keeps.
pub const FLAT: u64 = 16 * 1024 * 1024;

pub trait Stream: Read + Write + Send {
    fn set_write_timeout(&self, timeout: Duration);

    /// Says that nothing more is sent.
    fn stop_sending(&mut self);
}

impl Stream for TcpStream {
    fn set_write_timeout(&self, timeout: Duration) {
        TcpStream::set_write_timeout(self, Some(timeout)).unwrap();
    }

    fn stop_sending(&mut self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Stream for UnixStream {
    fn set_write_timeout(&self, timeout: Duration) {
        UnixStream::set_write_timeout(self, Some(timeout)).unwrap();
    }

    fn stop_sending(&mut self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Stream for crate::tls::Tls {
    fn set_write_timeout(&self, timeout: Duration) {
        self.sock.set_write_timeout(Some(timeout)).unwrap();
    }

    fn stop_sending(&mut self) {
        self.conn.send_close_notify();
        self.flush().unwrap();
        self.sock.shutdown(Shutdown::Write).unwrap();
    }
}

/// A daemon with every kind of listener.
pub struct Everywhere {
    pub daemon: Daemon,
    authority: Authority,
    tls: u16,
    proxy: u16,
    metrics: u16,
}

impl Everywhere {
    pub fn start(more: &str) -> Everywhere {
        let authority = Authority::new();
        let daemon = Daemon::start_with("", |command| {
            let home =
                command.get_envs().find(|(name, _)| *name == "HOME").and_then(|(_, home)| home).unwrap();
            let home = std::path::PathBuf::from(home);
            authority.issue(&home);
            config_file(
                &home,
                &format!(
                    "listen = [{{ address = '127.0.0.1:0', tls = false }}, {{ address = '127.0.0.2:0', tls = true }}, \
                     {{ address = '127.0.0.3:0', proxy_protocol = true, tls = false }}, 'unix:{0}/philote.sock']\n\
                     {more}\n[tls]\ncertificate = '{0}/cert.pem'\nkey = '{0}/key.pem'\n\
                     [metrics]\nlisten = '127.0.0.1:0'\n",
                    home.display()
                ),
            );
            command.env_remove("PORT");
        });
        let port = |text: &str| {
            let after = text.split("127.0.0.").nth(1).unwrap()[2..].to_owned();
            after.split(|one: char| !one.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        let listeners = daemon.admin("GET", "/v1/status", "")["listeners"].clone();
        let (tls, proxy) = (port(listeners[1].as_str().unwrap()), port(listeners[2].as_str().unwrap()));
        let log = daemon.log();
        let metrics = port(log.split("the metrics are at ").nth(1).unwrap().lines().next().unwrap());
        Everywhere { daemon, authority, tls, proxy, metrics }
    }

    /// Where a kind of listener for clients can be reached; `None` for the Unix socket.
    pub fn address(&self, kind: &str) -> Option<SocketAddr> {
        match kind {
            "plain" => Some(([127, 0, 0, 1], self.daemon.port).into()),
            "TLS" => Some(([127, 0, 0, 2], self.tls).into()),
            "PROXY" => Some(([127, 0, 0, 3], self.proxy).into()),
            _ => None,
        }
    }

    /// The Unix socket for clients.
    pub fn socket(&self) -> PathBuf {
        self.daemon.directory.path().join("philote.sock")
    }

    /// A connection on each kind of listener for clients.
    pub fn connect(&self, kind: &str) -> Box<dyn Stream> {
        let tcp = |last: u8, port: u16| {
            let stream = TcpStream::connect(std::net::SocketAddr::from(([127, 0, 0, last], port))).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        };
        let unix = |name: &str| {
            let stream = UnixStream::connect(self.daemon.directory.path().join(name)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        };
        match kind {
            "plain" => Box::new(tcp(1, self.daemon.port)),
            "TLS" => Box::new(self.authority.connect_to(tcp(2, self.tls), &[&version::TLS13])),
            "PROXY" => {
                let mut stream = tcp(3, self.proxy);
                stream.write_all(b"PROXY TCP4 198.51.100.7 127.0.0.1 4711 80\r\n").unwrap();
                Box::new(stream)
            }
            "unix" => Box::new(unix("philote.sock")),
            "admin" => Box::new(unix("admin.sock")),
            "metrics" => Box::new(tcp(1, self.metrics)),
            _ => unreachable!(),
        }
    }
}

pub const KINDS: [&str; 4] = ["plain", "TLS", "PROXY", "unix"];

/// Reads to the end, which may be a reset behind the last byte.
pub fn read_all(stream: &mut dyn Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// Takes the first answer off; returns its status and what is behind it.
pub fn first_answer(bytes: &[u8]) -> (u16, &[u8]) {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return (0, &[]) };
    let head = String::from_utf8_lossy(&bytes[..end + 4]).into_owned();
    let length = header(&head, "Content-Length").map_or(0, |length| length.parse().unwrap());
    (status(&head), bytes.get(end + 4 + length..).unwrap_or(&[]))
}

pub fn request(method: &str, path: &str, token: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Every route and every refusal that a client can bring about by one request: the status, the request, and whether
/// the connection goes on.
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
fn answers_were_lost_when_something_stood_behind_the_request() {
    let everywhere = Everywhere::start("[websocket]\ncheck_origin = true");
    let health = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut count = 0;
    for kind in KINDS {
        for (code, request, goes_on) in requests() {
            for behind in [health, "GET /hea", "\r\n"] {
                let mut stream = everywhere.connect(kind);
                stream.write_all(format!("{request}{behind}").as_bytes()).unwrap();
                if behind == "\r\n" && goes_on {
                    // Nothing ends this one but its client.
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
fn fault_12_the_101_was_lost_when_a_frame_stood_behind_the_request() {
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

        // philote.v1: the token in the frame, and a refusal in a Close.
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
fn answers_of_the_admin_socket_and_the_metrics_come_whatever_is_behind_the_request() {
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
        // The last is more than a socket holds, so that a close without reading it would be a reset.
        let much = "x".repeat(4_000_000);
        for behind in ["GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "GET /met", "\r\n", &much] {
            let mut stream = everywhere.connect(kind);
            stream.write_all(request.as_bytes()).unwrap();
            let written = stream.write_all(behind.as_bytes());
            let bytes = read_all(&mut *stream);
            let case = format!("{kind}, {behind:.20?} behind {request:.100}");
            let (answered, rest) = first_answer(&bytes);
            assert_eq!(answered, code, "{case}: {}", String::from_utf8_lossy(&bytes));
            assert!(rest.is_empty(), "{case}: one request a connection");
            written.unwrap_or_else(|error| panic!("{case}: {error}"));
        }
    }
}

/// Writes requests until the daemon takes no more.
fn flood(stream: &mut dyn Stream, request: &str) {
    stream.set_write_timeout(Duration::from_millis(500));
    let bytes = request.repeat(FLOOD).into_bytes();
    let mut sent = 0;
    while let Ok(count) = stream.write(&bytes[sent..])
        && count > 0
    {
        sent += count;
    }
    assert!(sent < bytes.len(), "it is read on although the answers are not taken");
}

#[test]
fn pipelined_requests_whose_answers_nobody_read_filled_the_memory() {
    let everywhere = Everywhere::start("[websocket]\nhandshake_timeout = '60s'");
    let api = sign(&json!({"api": true}));
    // HEAD with a body is a case of its own: hyper puts its answers into a buffer that has no bound.
    let large = "GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".to_owned();
    let small = [
        "GET /health HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "HEAD /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx".to_owned(),
        format!(
            "POST /api/publish?auth={api} HTTP/1.1\r\nHost: x\r\nContent-Length: 26\r\n\r\n{}",
            r#"{"channel":"c","data":"x"}"#
        ),
    ];
    // More than sockets hold, so that writing ends only because the daemon reads no more.
    let padding = format!("Host: x\r\nX-Padding: {}\r\n", "x".repeat(1000));
    let before = everywhere.daemon.peak();
    let mut streams = Vec::new();
    for kind in KINDS {
        // Of small answers a TCP socket holds more than a flood brings about, a Unix socket does not.
        for request in [&large].into_iter().chain(small.iter().filter(|_| kind == "unix")) {
            let mut stream = everywhere.connect(kind);
            flood(&mut *stream, &request.replace("Host: x\r\n", &padding));
            streams.push(stream);
        }
        let peak = everywhere.daemon.peak();
        println!("{kind}: {} KiB before, {} KiB at the worst", before / 1024, peak / 1024);
        assert!(peak < before + FLAT, "{kind}: {before} bytes, then {peak}");
    }
    // Of these the first request is answered, the others are drained up to a bound.
    for (kind, request) in [("admin", "GET /v1/status"), ("admin", "GET /none"), ("metrics", "GET /metrics")]
    {
        let mut stream = everywhere.connect(kind);
        let request = format!("{request} HTTP/1.1\r\n{padding}\r\n");
        let sent = (0..2 * FLOOD).take_while(|_| stream.write_all(request.as_bytes()).is_ok()).count();
        println!("{kind}: {sent} requests");
        assert!(sent < 2 * FLOOD, "{kind}: it is read without a bound");
        let peak = everywhere.daemon.peak();
        println!("{kind}: {} KiB before, {} KiB at the worst", before / 1024, peak / 1024);
        assert!(peak < before + FLAT, "{kind}: {before} bytes, then {peak}");
    }
    assert_eq!(everywhere.daemon.http("GET", "/health", "", "").0, 200);
}

#[test]
fn a_flood_that_is_read_in_the_end_is_answered_whole_and_in_order() {
    let everywhere = Everywhere::start("");
    for kind in KINDS {
        let mut stream = everywhere.connect(kind);
        // Far more than the sockets hold; a slow reader is waited for.
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
fn a_client_that_takes_no_answer_is_cut_at_the_deadline() {
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
