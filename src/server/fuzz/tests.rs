//! Requests to the clients' port whose outcome must not depend on the code that answers them.

use super::*;

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

/// The lines of good upgrade requests: the token in the header, in the query, in both, and to follow in a frame.
fn upgrades() -> Vec<Vec<String>> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let usual = format!(
        "Host: x.test\nUpgrade: websocket\nConnection: keep-alive, Upgrade\nSec-WebSocket-Version: 13\n{KEY}"
    );
    let bearer = "Authorization: Bearer TOKEN";
    let v1 = "Sec-WebSocket-Protocol: other, philote.v1";
    [
        format!("GET / HTTP/1.1\n{usual}\n{bearer}"),
        format!("GET /any/path?x=1&auth=TOKEN HTTP/1.1\n{usual}\nOrigin: http://x.test\nUser-Agent: y"),
        format!("GET /?auth=bad HTTP/1.1\n{usual}\n{bearer}\n{v1}\nX-Forwarded-For: 192.0.2.7"),
        format!("GET / HTTP/1.1\n{usual}\n{v1}\nOrigin: https://x.test"),
    ]
    .map(|text| lines(&text))
    .into()
}

/// Each request, and each with one thing changed.
fn requests() -> Vec<Vec<u8>> {
    const LINES: [&str; 32] = [
        "Content-Length: 0",
        "Content-Length: 3",
        "Content-Length: x",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip",
        "Expect: 100-continue",
        "Host: other.test",
        "HOST:x.test",
        "Host: \u{e9}",
        "Origin: null",
        "Origin: https://evil.test",
        "Origin: http://x.test\u{7f}",
        "Authorization: Bearer TOKEN",
        "Authorization: Basic dTpw",
        "authorization: TOKEN",
        "Authorization: Bearer x.y.z",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Version: 8",
        "Sec-WebSocket-Key: c2hvcnQ=",
        "Upgrade: h2c",
        "Upgrade: h2c, WebSocket",
        "Connection: close",
        "Connection: close, upgrade",
        "Sec-WebSocket-Protocol: philote.v1",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Sec-WebSocket-Extensions: x; y=\"z\", permessage-deflate; server_max_window_bits=9",
        "X-Forwarded-For: 198.51.100.1, 10.0.0.1",
        "Forwarded: for=198.51.100.2",
        " folded",
        "Space : before",
        "no colon",
        "Nul: a\0b",
    ];
    const FIRST: [&str; 17] = [
        "POST / HTTP/1.1",
        "HEAD / HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "get / HTTP/1.1",
        "GET / HTTP/1.0",
        "GET / HTTP/2.0",
        "GET  / HTTP/1.1",
        "GET http://x.test/ HTTP/1.1",
        "GET /#x?auth=TOKEN HTTP/1.1",
        "GET /?auth=TOKEN#x HTTP/1.1",
        "GET /?auth=TOKEN&auth=TOKEN HTTP/1.1",
        "GET /?a=%00&%61uth=TOKEN HTTP/1.1",
        "GET /\"<>|^ HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET //x HTTP/1.1",
        "GET /api HTTP/1.1",
        "GET /health/ready HTTP/1.1",
    ];
    let mut all: Vec<Vec<u8>> = Vec::new();
    let request = |lines: &[String]| (lines.join("\r\n") + "\r\n\r\n").into_bytes();
    for lines in upgrades() {
        all.push(request(&lines));
        all.push([&request(&lines)[..], b"\x81\x80abcd\x88\x80abcd"].concat());
        all.push((lines.join("\n") + "\n\n").into_bytes());
        for cut in [1, 40, 200] {
            all.push(request(&lines).into_iter().take(cut).collect());
        }
        for at in 1..lines.len() {
            let mut fewer = lines.clone();
            let line = fewer.remove(at);
            all.push(request(&fewer));
            fewer.insert(at, line.to_ascii_uppercase());
            all.push(request(&fewer));
            fewer[at] = line.clone();
            fewer.push(line.clone());
            all.push(request(&fewer));
            fewer[at] = format!("{}: ", line.split_once(':').unwrap().0);
            all.push(request(&fewer));
        }
        for line in LINES {
            let name = line.split(':').next().unwrap().to_ascii_lowercase();
            let with = [&lines[..], &[line.to_owned()]].concat();
            all.push(request(&with));
            let mut instead: Vec<String> =
                lines.iter().filter(|one| !one.to_ascii_lowercase().starts_with(&name)).cloned().collect();
            instead.push(line.to_owned());
            all.push(request(&instead));
        }
        for first in FIRST {
            let mut other = lines.clone();
            other[0] = first.to_owned();
            all.push(request(&other));
        }
        for (count, length) in [(20, 10), (40, 10), (150, 10), (3, 5_000), (4, 5_000), (20, 1_000)] {
            let many = (0..count).map(|number| format!("X-{number}: {}", "v".repeat(length)));
            all.push(request(&lines.iter().cloned().chain(many).collect::<Vec<_>>()));
        }
    }
    all
}

#[test]
fn fault_07_a_request_has_the_same_outcome_without_hyper() {
    let (mut upgraded, mut others, mut different) = (0, 0, Vec::new());
    for text in requests() {
        let [direct, hyper] = outcomes(&text, 0);
        if direct != hyper {
            different.push(format!("{}\n{direct:?}\n{hyper:?}", text.escape_ascii()));
        }
        let answer = converse(Way::Direct, |token| vec![replace(&text, b"TOKEN", token.as_bytes())]);
        // Only hyper sends the time.
        let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        if head.starts_with("http/1.1 101 ") && !head.contains("\r\ndate: ") {
            upgraded += 1;
        } else {
            others += 1;
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n\n"));
    assert!(upgraded > 100 && others > 100, "{upgraded} without hyper, {others} others");
}
