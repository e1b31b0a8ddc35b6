//! Upgrades to a WebSocket: which are accepted, and how others are refused.

use std::io::{Read, Write};

use serde_json::json;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::support::{Daemon, body_of, frame, header, sign, sign_with, status, upgrade};

fn token() -> String {
    sign(&json!({"read": ["c"], "write": ["c"]}))
}

#[test]
fn fault_05_06_07_08_15_malformed_upgrades_get_their_status() {
    let daemon = Daemon::start("");
    let good = upgrade(&token(), "");
    let cases = [
        (good.replace("GET", "POST"), 405),
        (good.replace("HTTP/1.1", "HTTP/1.0"), 400),
        (good.replace("Host: x\r\n", ""), 400),
        (good.replace("Upgrade: websocket", "Upgrade: h2c"), 400),
        (good.replace("Upgrade: websocket\r\n", ""), 400),
        (good.replace("Connection: Upgrade", "Connection: close"), 400),
        // Keys of 15, 17 and 0 bytes, one that is not base64, and none.
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub24="), 400),
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZXM="), 400),
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", ""), 400),
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "not base64 at all!!!"), 400),
        (good.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400),
        (good.replace("Version: 13", "Version: 8"), 426),
        (good.replace("Sec-WebSocket-Version: 13\r\n", ""), 426),
        (upgrade(&token(), "Transfer-Encoding: chunked\r\n"), 400),
        (upgrade(&token(), "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + "0\r\n\r\n", 400),
        (upgrade(&token(), "Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n", 400),
        (upgrade(&token(), "Content-Length: 5\r\n") + "hello", 400),
        ("GET /room HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 426),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03 a TLS hello".to_owned(), 400),
        ("noise\r\n\r\n".to_owned(), 400),
    ];
    for (request, expected) in cases {
        let answer = daemon.exchange(&request);
        assert_eq!(status(&answer), expected, "{request}\n{answer}");
    }
    daemon.client(&["c"]).settle();
    let head = daemon.exchange(good.replace("GET", "HEAD"));
    assert_eq!((status(&head), head.split("\r\n\r\n").nth(1)), (405, Some("")), "no body");
    assert_eq!(
        header(&daemon.exchange(good.replace("Version: 13", "Version: 8")), "Sec-WebSocket-Version"),
        Some("13")
    );
    assert_eq!(header(&daemon.exchange(good.replace("GET", "PUT")), "Allow"), Some("GET, POST"));
}

#[test]
fn fault_09_10_11_connection_options_and_offers_are_handled() {
    let daemon = Daemon::start("");
    let answer = |request: String| {
        let mut stream = daemon.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    for connection in [
        "connection: keep-alive, uPgRaDe",
        "CONNECTION: UPGRADE , Keep-Alive",
        "Connection:upgrade,keep-alive",
        "Connection: keep-alive\r\nConnection: Upgrade",
    ] {
        let any_case = upgrade(&token(), "")
            .replace("Connection: Upgrade", connection)
            .replace("websocket", "WebSocket");
        let accepted = answer(any_case);
        assert_eq!(status(&accepted), 101, "{accepted}");
        assert_eq!(header(&accepted, "Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }
    let offered = answer(upgrade(&token(), "Sec-WebSocket-Extensions: permessage-deflate\r\n"));
    assert_eq!((status(&offered), header(&offered, "Sec-WebSocket-Extensions")), (101, None));
    let names: Vec<String> = (0..100).map(|n| format!("proto{n}")).collect();
    for protocols in [names.join(", "), " ".repeat(8_000), "\u{e9}\u{fc}".to_owned()] {
        let answer = answer(upgrade(&token(), &format!("Sec-WebSocket-Protocol: {protocols}\r\n")));
        assert_eq!((status(&answer), header(&answer, "Sec-WebSocket-Protocol")), (101, None));
    }
    let v1 = Some("philote.v1");
    for protocols in [
        "philote.v1".to_owned(),
        format!("{}, philote.v1", names.join(", ")),
        format!("{}philote.v1{}", " ".repeat(4_000), " ".repeat(4_000)),
        "a, philote.v1, philote.v1".to_owned(),
        "philote.v2\r\nSec-WebSocket-Protocol: philote.v1".to_owned(),
    ] {
        let answer = answer(upgrade(&token(), &format!("Sec-WebSocket-Protocol: {protocols}\r\n")));
        assert_eq!((status(&answer), header(&answer, "Sec-WebSocket-Protocol")), (101, v1), "{protocols}");
        assert_eq!(answer.matches("philote.v1").count(), 1, "{answer}");
    }
    for protocols in
        ["philote.v10", "PHILOTE.V1", "xphilote.v1", "philote v1", "philote.v1/x", "\"philote.v1\"", ",,,"]
    {
        let answer = answer(upgrade(&token(), &format!("Sec-WebSocket-Protocol: {protocols}\r\n")));
        assert_eq!((status(&answer), header(&answer, "Sec-WebSocket-Protocol")), (101, None), "{protocols}");
    }
    assert_eq!(daemon.metric("philote_panics_total"), 0);
}

/// The 101 is sent first, then the effect of what follows the request in the same packet, and nothing is lost.
#[test]
fn fault_12_frames_in_the_same_packet_as_the_request_are_handled_after_the_101() {
    let daemon = Daemon::start("");
    let mut reader = daemon.client(&["c"]);
    let message = |data: &str| frame(0x81, json!({"channel": "c", "data": data}).to_string().as_bytes());
    let (early, late) = (message("early"), message("late"));
    let answered = |bytes: &[u8], end: &[u8]| {
        let mut stream = daemon.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(end) {
            assert_eq!(
                stream.read(&mut byte).unwrap(),
                1,
                "an end after {}",
                String::from_utf8_lossy(&answer)
            );
            answer.push(byte[0]);
        }
        assert_eq!(status(&String::from_utf8_lossy(&answer)), 101);
        stream
    };
    let request = upgrade(&token(), "").into_bytes();
    for split in 0..=late.len() {
        let bytes = [&request[..], &early, &frame(0x89, b"ping"), &late[..split]].concat();
        let mut stream = answered(&bytes, b"\x8a\x04ping");
        stream.write_all(&late[split..]).unwrap();
        assert_eq!((reader.data(), reader.data()), ("early".to_owned(), "late".to_owned()), "{split}");
    }
    // The frames cause an error, a Close, and the access of philote.v1.
    answered(&[&request[..], &frame(0x81, b"{")].concat(), b"\"}");
    answered(&[&request[..], &frame(0xc1, b"x")].concat(), b"broken");
    let v1 = upgrade("", "Sec-WebSocket-Protocol: philote.v1\r\n").replace("Authorization: Bearer \r\n", "");
    let auth = frame(0x81, json!({"auth": token()}).to_string().as_bytes());
    answered(&[v1.as_bytes(), &auth, &early].concat(), b"}}");
    assert_eq!(reader.data(), "early");
    reader.settle();
}

#[test]
fn fault_13_origins_are_compared_and_others_get_403() {
    let daemon =
        Daemon::start("[websocket]\ncheck_origin = true\nallowed_origins = [\"https://*.example.org\"]\n");
    let with = |origin: &str| {
        let mut request = daemon.request("/");
        let headers = request.headers_mut();
        headers.insert("Authorization", token().parse().unwrap());
        if !origin.is_empty() {
            headers.insert("Origin", origin.parse().unwrap());
        }
        daemon.open(request).map(drop)
    };
    with("").unwrap();
    with(&format!("http://{}", daemon.address())).unwrap();
    with("https://a.example.org").unwrap();
    for origin in
        ["null", "https://example.com", "https://evil.test/.example.org", "https://evil.test#.example.org"]
    {
        let error = with(origin).unwrap_err().to_string();
        assert!(error.contains("403"), "{error}");
    }
    daemon.wait_for_line("https://example.com");
    // A request with two of these headers is refused, in either order.
    let (good, bad) = ("https://a.example.org", "https://evil.test");
    for (first, second) in [(good, bad), (bad, good), (good, good)] {
        let answer = daemon.exchange(upgrade(&token(), &format!("Origin: {first}\r\nOrigin: {second}\r\n")));
        assert_eq!(status(&answer), 400, "{first} {second}");
        assert_eq!(body_of(&answer)["message"], "the header Origin appears twice");
    }
}

#[test]
fn fault_13_a_request_may_have_one_host_one_token_and_one_version() {
    let daemon = Daemon::start("");
    let good = sign(&json!({"read": ["c"], "api": true}));
    let bad =
        sign_with(&json!({"read": ["c"], "api": true}), "another secret of more than thirty-two characters");
    let token = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for (name, more) in [
        ("Host", "Host: x\r\n".to_owned()),
        ("Authorization", token(&good)),
        ("Authorization", token(&bad)),
        ("Sec-WebSocket-Version", "Sec-WebSocket-Version: 13\r\n".to_owned()),
    ] {
        let api = format!("GET /api/info HTTP/1.1\r\nHost: x\r\n{}{more}{more}\r\n", token(&good));
        for request in [upgrade(&good, &more), api] {
            let answer = daemon.exchange(&request);
            assert_eq!(status(&answer), 400, "{request}");
            assert_eq!(body_of(&answer)["message"], format!("the header {name} appears twice"));
        }
    }
}

#[test]
fn fault_13_a_page_without_an_origin_is_allowed_by_name() {
    let daemon = Daemon::start("[websocket]\nallowed_origins = [\"null\"]\n");
    let with = |origin: &str| {
        let mut request = daemon.request("/");
        request.headers_mut().insert("Authorization", token().parse().unwrap());
        request.headers_mut().insert("Origin", origin.parse().unwrap());
        daemon.open(request).map(drop)
    };
    with("null").unwrap();
    assert!(with("https://example.com").unwrap_err().to_string().contains("403"));
}

#[test]
fn the_example_key_of_rfc_6455_is_accepted_with_its_trailing_bits() {
    let daemon = Daemon::start("");
    let with = |key: &str| {
        let mut stream = daemon.connect();
        stream.write_all(upgrade(&token(), "").replace("dGhlIHNhbXBsZSBub25jZQ==", key).as_bytes()).unwrap();
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    for key in ["AQIDBAUGBwgJCgsMDQ4PEC==", "AQIDBAUGBwgJCgsMDQ4PEA==", "//////////////////////=="] {
        let answer = with(key);
        // It is computed from the key as sent, not from the decoded bytes.
        let accept = derive_accept_key(key.as_bytes());
        assert_eq!(
            (status(&answer), header(&answer, "Sec-WebSocket-Accept")),
            (101, Some(&*accept)),
            "{key}"
        );
    }
    for key in [
        "AQIDBAUGBwgJCgsMDQ4PEC=",
        "AQIDBAUGBwgJCgsMDQ4PEC",
        "AQIDBAUGBwgJCgsMDQ4PEBA=",
        "AQIDBAUGBwgJCgsMDQ4P====",
        "AQIDBAUGBwgJCgsMDQ4-_w==",
    ] {
        assert_eq!(status(&with(key)), 400, "{key}");
    }
}

#[test]
fn a_websocket_at_the_api_gets_a_404_that_names_other_paths() {
    let daemon = Daemon::start("");
    for path in ["/api", "/api/", "/api/none", "/api/info", "/api/publish", "/health", "/health/x"] {
        let answer = daemon.exchange(upgrade(&token(), "").replace("GET /", &format!("GET {path}")));
        let message = body_of(&answer)["message"].as_str().unwrap().to_owned();
        assert_eq!(status(&answer), 404, "{path}");
        assert!(message.contains("connect to any other path"), "{path}: {message}");
    }
    let (code, answer) = daemon.http("GET", "/api/none", "", "");
    assert_eq!((code, &answer["message"]), (404, &json!("there is no such route in the API")));
    // A proxy may add this header to every request.
    let request =
        "GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade, close\r\n\r\n";
    assert_eq!(status(&daemon.exchange(request)), 200);
}

#[test]
fn a_426_has_an_upgrade_header() {
    let daemon = Daemon::start("");
    for request in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        upgrade(&token(), "").replace("Version: 13", "Version: 8"),
        upgrade(&token(), "").replace("Sec-WebSocket-Version: 13\r\n", ""),
    ] {
        let answer = daemon.exchange(request);
        assert_eq!((status(&answer), header(&answer, "Upgrade")), (426, Some("websocket")), "{answer}");
        let connection = header(&answer, "Connection").unwrap();
        assert!(connection.split(", ").any(|word| word == "upgrade"), "{connection}");
        assert!(connection.split(", ").any(|word| word == "close"), "{connection}");
    }
}
