//! Requests and handshakes: what is refused, how, and in which order.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::support::{Daemon, PATIENCE, body_of, frame, header, sign, status, upgrade};

fn token() -> String {
    sign(&json!({"read": ["c"], "write": ["c"]}))
}

#[test]
fn health_info_and_unknown_routes() {
    let daemon = Daemon::start("");
    let get = |path: &str| daemon.http("GET", path, "", "");
    assert_eq!(get("/health"), (200, json!({"status": "ok", "cluster": null})));
    assert_eq!(get("/health/ready").0, 200);
    assert_eq!(get("/api/none").0, 404);
    assert_eq!(get("/api").0, 404);
    assert_eq!(daemon.http("POST", "/health", "", "").0, 405);
    assert_eq!(daemon.http("DELETE", "/api/publish", &token(), "").0, 405);

    assert_eq!(get("/api/info").0, 401);
    assert_eq!(daemon.http("GET", "/api/info", &token(), "").0, 403, "api is not true");
    let (code, info) = daemon.http("GET", "/api/info", &sign(&json!({"api": true})), "");
    assert_eq!(code, 200);
    assert_eq!(info["tcp_port"], daemon.port.to_string());
    assert_eq!((&info["max_connections"], &info["connections"]), (&json!(255), &json!(0)));
    for key in [
        "version",
        "num_cpu",
        "uptime_in_seconds",
        "uptime_in_days",
        "pid",
        "read_buffer_size",
        "write_buffer_size",
        "check_origin",
    ] {
        assert!(info.get(key).is_some(), "{key}");
    }
}

#[test]
fn fault_05_06_07_08_15_malformed_upgrades() {
    let daemon = Daemon::start("");
    let good = upgrade(&token(), "");
    let cases = [
        (good.replace("GET", "POST"), 405),
        (good.replace("HTTP/1.1", "HTTP/1.0"), 400),
        (good.replace("Host: x\r\n", ""), 400),
        (good.replace("Upgrade: websocket", "Upgrade: h2c"), 400),
        (good.replace("Upgrade: websocket\r\n", ""), 400),
        (good.replace("Connection: Upgrade", "Connection: close"), 400),
        // Keys of 15, 17 and 0 bytes, one that is no base64, and none.
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
    assert_eq!(header(&daemon.exchange(good.replace("GET", "PUT")), "Allow"), Some("GET"));
}

#[test]
fn fault_03_04_large_heads() {
    let daemon = Daemon::start("");
    let long = upgrade(&token(), &format!("X-Long: {}\r\n", "x".repeat(17_000)));
    assert_eq!(status(&daemon.exchange(long)), 431);
    let target = upgrade(&token(), "").replace("GET /", &format!("GET /{}", "x".repeat(17_000)));
    assert_eq!(status(&daemon.exchange(target)), 431);
    let endless = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(17_000));
    assert_eq!(status(&daemon.exchange(endless)), 431, "before it ends");
    // What is large and within the limit reaches the token's check.
    let large = upgrade("bad", &format!("X-Long: {}\r\n", "x".repeat(15_500)));
    assert_eq!(status(&daemon.exchange(large)), 401);
    // With the six of `upgrade`, 100 and 101.
    for (more, expected) in [(94, 401), (95, 431), (1_000, 431)] {
        let many: String = (0..more).map(|n| format!("X-{n}: 1\r\n")).collect();
        assert_eq!(status(&daemon.exchange(upgrade("bad", &many))), expected, "{more}");
    }
    daemon.client(&["c"]).settle();
}

/// Scanners send such by the thousand: each gets its answer and costs a part of a line.
#[test]
fn fault_05_noise_is_logged_at_a_limited_rate() {
    const TIMES: usize = 1_000;
    let daemon = Daemon::start("");
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello";
    for number in 0..TIMES {
        let noise: &[u8] = if number % 2 == 0 { hello } else { b"\x00\xff noise\r\n\r\n" };
        let answer = daemon.exchange(noise);
        assert_eq!(status(&answer), 400, "{answer}");
    }
    daemon.client(&["c"]).settle();
    let lines = daemon.log().lines().count();
    // Of a kind 20 lines are written in full within 10 s, and a summary; a slow machine needs a few times as long.
    assert!(lines < 200, "{lines} lines for {TIMES} connections");
}

#[test]
fn fault_09_10_11_offers() {
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
    for protocols in ["philote.v10", "xphilote.v1", "philote v1", "philote.v1/x", "\"philote.v1\"", ",,,"] {
        let answer = answer(upgrade(&token(), &format!("Sec-WebSocket-Protocol: {protocols}\r\n")));
        assert_eq!((status(&answer), header(&answer, "Sec-WebSocket-Protocol")), (101, None), "{protocols}");
    }
    assert_eq!(daemon.metric("philote_panics_total"), 0);
}

/// Whatever comes right behind the request, the 101 is sent first, and then what that gets; nothing is lost of it.
#[test]
fn fault_12_frames_in_the_same_packet_as_the_request() {
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
    // What the frames get is an error, a Close, and in philote.v1 the access.
    answered(&[&request[..], &frame(0x81, b"{")].concat(), b"\"}");
    answered(&[&request[..], &frame(0xc1, b"x")].concat(), b"broken");
    let v1 = upgrade("", "Sec-WebSocket-Protocol: philote.v1\r\n").replace("Authorization: Bearer \r\n", "");
    let auth = frame(0x81, json!({"auth": token()}).to_string().as_bytes());
    answered(&[v1.as_bytes(), &auth, &early].concat(), b"}}");
    assert_eq!(reader.data(), "early");
    reader.settle();
}

#[test]
fn fault_13_origins() {
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
    // Of two headers none is believed, in either order.
    let (good, bad) = ("https://a.example.org", "https://evil.test");
    for (first, second) in [(good, bad), (bad, good), (good, good)] {
        let answer = daemon.exchange(upgrade(&token(), &format!("Origin: {first}\r\nOrigin: {second}\r\n")));
        assert_eq!(status(&answer), 400, "{first} {second}");
        assert_eq!(body_of(&answer)["message"], "the header Origin is there twice");
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
fn fault_01_02_17_slow_requests_end_at_the_deadline_and_leave_nothing() {
    let daemon = Daemon::start("[websocket]\nhandshake_timeout = \"2s\"\n");
    let (mut one, mut other) = (daemon.client(&["c"]), daemon.client(&["c"]));
    let before = daemon.descriptors();
    let began = Instant::now();
    let mut silent: Vec<_> = (0..20).map(|_| daemon.connect()).collect();
    // Their own side is closed: before the request, in its first line, in its middle.
    let request = upgrade(&token(), "");
    let mut half_closed: Vec<_> = [0, 8, request.len() / 2]
        .map(|part| {
            let mut stream = daemon.connect();
            stream.write_all(&request.as_bytes()[..part]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            stream
        })
        .into();
    // One byte now and then does not help: not from the very first one on, nor in the headers, nor at the end.
    let starts = ["", "GET / HTTP/1.1\r\nHost: x\r\n", &request[..request.len() - 2]];
    let mut slow = starts.map(|start| {
        let mut stream = daemon.connect();
        stream.write_all(start.as_bytes()).unwrap();
        stream
    });
    let tricklers = slow.each_ref().map(|stream| {
        let mut trickle = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            while trickle.write_all(b"X").is_ok() {
                std::thread::park_timeout(Duration::from_millis(100));
            }
        })
    });
    // Others go on all the time.
    let mut longest = Duration::ZERO;
    while tricklers.iter().any(|trickler| !trickler.is_finished()) {
        let asked = Instant::now();
        one.publish("c", "x");
        other.data();
        longest = longest.max(asked.elapsed());
        assert!(began.elapsed() < PATIENCE, "a byte now and then keeps a connection");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    println!("others: the longest exchange took {longest:?}");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    for (stream, start) in slow.iter_mut().zip(starts) {
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert_eq!(status(&answer), 408, "{start:?}: {answer}");
        assert_eq!(body_of(&answer)["error"], "request_timeout");
    }
    for stream in &mut silent {
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "closed without a word");
    }
    assert!(began.elapsed() >= Duration::from_millis(1_900));
    for stream in &mut half_closed {
        let _ = stream.read_to_string(&mut String::new());
    }
    // All clients still hold their ends: what is gone was closed here.
    daemon.wait_for_descriptors(before);
    assert_eq!(daemon.metric("philote_connections_pending"), 0);
    tricklers.into_iter().for_each(|trickler| trickler.join().unwrap());
    one.settle();
    drop((silent, half_closed, slow));
}

#[test]
fn fault_16_pipelined_requests_are_answered_in_order_and_cost_no_memory() {
    let daemon = Daemon::start("");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let (health, document) = (get("/health"), get("/api/openapi.json"));
    // Told apart by what is in them, and by the places where they must be.
    let is_document = |number: usize| number * number % 7 == 2;
    let requests: String =
        (0..1_000).map(|number| if is_document(number) { &*document } else { &*health }).collect();
    let end = "DELETE /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = daemon.exchange(requests + end);
    let answers: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(answers.len(), 1_001);
    for (number, answer) in answers[..1_000].iter().enumerate() {
        assert!(
            answer.starts_with("200 ") && answer.contains("\"openapi\"") == is_document(number),
            "{number}"
        );
    }
    assert!(answers[1_000].starts_with("405 "), "{}", answers[1_000]);

    // And where nobody reads the answers: it reads no more requests once a few answers wait.
    for path in ["/health", "/api/openapi.json", "/api/none", "/room"] {
        daemon.forget_peak();
        let before = daemon.peak();
        let mut streams: Vec<_> = (0..10).map(|_| daemon.connect()).collect();
        let many = get(path).repeat(1_000);
        let mut sent = 0;
        for stream in &mut streams {
            stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            while sent < 16 << 20 && stream.write_all(many.as_bytes()).is_ok() {
                sent += many.len();
            }
        }
        let grown = daemon.peak() - before;
        println!("{path}: {} KiB of requests, resident grew by {} KiB", sent >> 10, grown >> 10);
        assert!(grown < 8 << 20, "{path}: {grown}");
        daemon.client(&["c"]).settle();
    }
}

#[test]
fn refusals_are_decided_in_the_documented_order() {
    let daemon = Daemon::start("max_connections = 1\n[websocket]\ncheck_origin = true\n");
    let foreign = "Origin: http://foreign\r\n";
    assert_eq!(status(&daemon.exchange(upgrade(&token(), foreign))), 403);
    assert_eq!(status(&daemon.exchange(upgrade("bad", foreign))), 401, "401 before 403");
    let _first = daemon.client(&["c"]);
    let full = daemon.exchange(upgrade("bad", foreign));
    assert_eq!(status(&full), 503, "503 before 401");
    assert!(header(&full, "Retry-After").is_some());
    assert_eq!(body_of(&full)["message"], "the server is full: max_connections is 1");
    assert_eq!(
        status(&daemon.exchange(upgrade("bad", foreign).replace("GET", "PUT"))),
        405,
        "405 before 503"
    );
    assert_eq!(daemon.http("GET", "/health/ready", "", "").0, 503);
    assert_eq!(daemon.http("GET", "/health", "", "").0, 200);
}

#[test]
fn publishing_over_http() {
    let daemon = Daemon::start("");
    let mut reader = daemon.client(&["a", "b"]);
    let api = sign(&json!({"api": true, "sub": "backend"}));
    let (code, answer) = daemon.http("POST", "/api/publish", &api, r#"{"Channel":"a","data":"one"}"#);
    assert_eq!((code, answer), (200, json!({"published": [{"channel": "a", "readers": 1}]})));
    let batch = json!([{"channel": "a", "data": "two"}, {"channel": "b", "data": "three"}, {"channel": "nobody", "data": "x"}]);
    let (code, answer) = daemon.http("POST", "/api/publish", &api, &batch.to_string());
    assert_eq!((code, &answer["published"][2]["readers"]), (200, &json!(0)));
    let first = reader.receive();
    assert_eq!((&first["subject"], &first["data"]), (&json!("backend"), &json!("one")));
    let second = reader.receive();
    assert_eq!(second["issuer"], first["issuer"], "the daemon's own id");
    assert_eq!(reader.data(), "three");

    let narrow = sign(&json!({"api": true, "write": ["a"]}));
    assert_eq!(daemon.http("POST", "/api/publish", &narrow, &batch.to_string()).0, 403);
    let bad = json!([{"channel": "a", "data": "four"}, {"channel": "a", "data": 5}]).to_string();
    let (code, answer) = daemon.http("POST", "/api/publish", &api, &bad);
    assert_eq!((code, &answer["error"]), (400, &json!("bad_message")));
    assert!(answer["message"].as_str().unwrap().starts_with("message 1: "));
    let huge = json!({"channel": "a", "data": "x".repeat(1 << 20)}).to_string();
    assert_eq!(daemon.http("POST", "/api/publish", &api, &huge).0, 413);
    let big = json!({"channel": "a", "data": "x".repeat(70_000)}).to_string();
    assert_eq!(daemon.http("POST", "/api/publish", &api, &big).0, 400);
    assert_eq!(daemon.http("POST", "/api/publish", &token(), "{}").0, 403);
    reader.settle();
}

#[test]
fn the_sample_key_of_rfc_6455_was_refused_for_its_trailing_bits() {
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
        // Of the key as it was sent, not of what it stands for.
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
fn raw_characters_in_the_target_got_an_empty_400_that_no_log_knew() {
    let daemon = Daemon::start("");
    let targets: [&[u8]; 12] = [
        b"/<script>",
        b"/a>b",
        b"/?x=\"",
        b"/?x=<",
        b"/?auth=>",
        b"/api/channels/<c>",
        b"/health?\"",
        b"/\xe9",
        b"/?auth=\xff\xfe",
        b"/?x=\xc3\xa9<",
        b"/a b",
        b"/\x7f",
    ];
    for (number, target) in targets.into_iter().enumerate() {
        let answer = daemon.exchange([b"GET ", target, b" HTTP/1.1\r\nHost: x\r\n\r\n"].concat());
        let body = body_of(&answer);
        assert_eq!((status(&answer), &body["error"]), (400, &json!("bad_request")), "{target:?}: {answer}");
        assert!(body["message"].as_str().unwrap().contains("percent-encoded"), "{target:?}: {answer}");
        let refused = daemon.ended(number + 1);
        assert_eq!((refused.len(), &refused[0]["code"]), (number + 1, &json!(400)), "{target:?}");
        daemon.wait_for_line("percent-encoded");
    }
    // Other servers take these too.
    for target in ["/\u{e9}", "/{room}", "/a|b", "/%"] {
        let answer = daemon.exchange(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(status(&answer), 426, "{target}: {answer}");
    }
}

#[test]
fn a_websocket_at_the_api_is_told_where_clients_connect() {
    let daemon = Daemon::start("");
    for path in ["/api", "/api/", "/api/none", "/api/info", "/api/publish", "/health", "/health/x"] {
        let answer = daemon.exchange(upgrade(&token(), "").replace("GET /", &format!("GET {path}")));
        let message = body_of(&answer)["message"].as_str().unwrap().to_owned();
        assert_eq!(status(&answer), 404, "{path}");
        assert!(message.contains("connect with any other path"), "{path}: {message}");
    }
    let (code, answer) = daemon.http("GET", "/api/none", "", "");
    assert_eq!((code, &answer["message"]), (404, &json!("there is no such route in the API")));
    // A proxy may add this to every request.
    let request =
        "GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade, close\r\n\r\n";
    assert_eq!(status(&daemon.exchange(request)), 200);
}

#[test]
fn a_426_names_what_to_upgrade_to() {
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
