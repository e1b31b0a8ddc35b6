//! Requests: how they are answered, and which are refused and in which order.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Daemon, PATIENCE, body_of, header, sign, status, upgrade};

fn token() -> String {
    sign(&json!({"read": ["c"], "write": ["c"]}))
}

#[test]
fn health_info_and_unknown_routes_have_their_status() {
    let daemon = Daemon::start("");
    let get = |path: &str| daemon.http("GET", path, "", "");
    assert_eq!(get("/health"), (200, json!({"status": "ok", "cluster": null})));
    assert_eq!(get("/health/ready").0, 200);
    assert_eq!(get("/api/none").0, 404);
    assert_eq!(get("/api").0, 404);
    assert_eq!(daemon.http("POST", "/health", "", "").0, 405);
    assert_eq!(daemon.http("DELETE", "/api/publish", &token(), "").0, 405);

    assert_eq!(get("/api/info").0, 401);
    assert_eq!(daemon.http("GET", "/api/info", &token(), "").0, 403, "the claim api is missing");
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
fn fault_03_04_too_large_heads_get_431() {
    let daemon = Daemon::start("");
    let long = upgrade(&token(), &format!("X-Long: {}\r\n", "x".repeat(17_000)));
    assert_eq!(status(&daemon.exchange(long)), 431);
    let target = upgrade(&token(), "").replace("GET /", &format!("GET /{}", "x".repeat(17_000)));
    assert_eq!(status(&daemon.exchange(target)), 431);
    let endless = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(17_000));
    assert_eq!(status(&daemon.exchange(endless)), 431, "refused before the head is complete");
    // A large head within the limit reaches the check of the token.
    let large = upgrade("bad", &format!("X-Long: {}\r\n", "x".repeat(15_500)));
    assert_eq!(status(&daemon.exchange(large)), 401);
    // Together with the six headers of `upgrade`, 100 and 101.
    for (more, expected) in [(94, 401), (95, 431), (1_000, 431)] {
        let many: String = (0..more).map(|n| format!("X-{n}: 1\r\n")).collect();
        assert_eq!(status(&daemon.exchange(upgrade("bad", &many))), expected, "{more}");
    }
    daemon.client(&["c"]).settle();
}

/// Scanners send thousands of these. Each gets its answer and costs a part of a log line.
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
    // Of each kind 20 lines within 10 s are written in full, then a summary; a slow machine needs a few times as long.
    assert!(lines < 200, "{lines} lines for {TIMES} connections");
}

#[test]
fn fault_01_02_17_slow_requests_end_at_the_deadline_and_leave_nothing() {
    let daemon = Daemon::start("[websocket]\nhandshake_timeout = \"2s\"\n");
    let (mut one, mut other) = (daemon.client(&["c"]), daemon.client(&["c"]));
    let before = daemon.descriptors();
    let began = Instant::now();
    let mut silent: Vec<_> = (0..20).map(|_| daemon.connect()).collect();
    // Their sending side is closed: before the request, in its first line, in its middle.
    let request = upgrade(&token(), "");
    let mut half_closed: Vec<_> = [0, 8, request.len() / 2]
        .map(|part| {
            let mut stream = daemon.connect();
            stream.write_all(&request.as_bytes()[..part]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            stream
        })
        .into();
    // Single bytes do not extend the deadline: not from the first one on, nor in the headers, nor at the end.
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
    // Other clients are served all the time.
    let mut longest = Duration::ZERO;
    while tricklers.iter().any(|trickler| !trickler.is_finished()) {
        let asked = Instant::now();
        one.publish("c", "x");
        other.data();
        longest = longest.max(asked.elapsed());
        assert!(began.elapsed() < PATIENCE, "single bytes keep a connection open");
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
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "closed without an answer");
    }
    assert!(began.elapsed() >= Duration::from_millis(1_900));
    for stream in &mut half_closed {
        let _ = stream.read_to_string(&mut String::new());
    }
    // All clients still hold their ends open, so it was the server that closed these connections.
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
    // The requests differ, so that the order of the answers shows.
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

    // If the client does not read, the server stops reading requests once a few answers wait.
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
fn rejections_are_decided_in_the_documented_order() {
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
fn http_publishes_one_message_or_an_array_of_them() {
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
    assert_eq!(second["issuer"], first["issuer"], "the id of the daemon");
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
fn raw_characters_in_the_target_get_a_400_with_a_sentence_and_a_log_line() {
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
    // Other servers accept these too.
    for target in ["/\u{e9}", "/{room}", "/a|b", "/%"] {
        let answer = daemon.exchange(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(status(&answer), 426, "{target}: {answer}");
    }
}
