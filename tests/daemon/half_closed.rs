//! Clients that stop sending, or close the connection, after a request: each started request is completed.

use std::io::{Read, Write};
use std::net::Shutdown;

use serde_json::json;

use crate::everywhere::{Everywhere, KINDS, first_answer, read_all, request};
use crate::support::*;

/// Requests of each kind, so many that a rare race occurs at least once.
const TIMES: usize = 100;

#[test]
fn half_closed_requests_are_answered_completely() {
    let everywhere = Everywhere::start("");
    let api = sign(&json!({"api": true}));
    let batch: Vec<_> = (0..200).map(|n| json!({"channel": "nobody", "data": n.to_string()})).collect();
    let publish = request("POST", "/api/publish", &api, &json!(batch).to_string());
    let chunked = format!(
        "POST /api/publish?auth={api} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1a\r\n{}\r\n0\r\n\r\n",
        r#"{"channel":"c","data":"x"}"#
    );
    let requests = [
        (200, request("GET", "/api/channels", &api, "")),
        (200, request("GET", "/health", "", "")),
        (200, request("GET", "/api/openapi.json", "", "")),
        (200, request("POST", "/api/disconnect", &api, r#"{"subject":"nobody"}"#)),
        (200, publish),
        (200, chunked),
        (401, request("GET", "/api/info", "bad", "")),
        (426, request("GET", "/", "", "")),
        // The body or the head never arrives.
        (400, request("POST", "/api/publish", &api, "{}").replace("Length: 2", "Length: 9")),
        (400, "GET / HT".to_owned()),
    ];
    for kind in KINDS {
        for (code, request) in &requests {
            for time in 0..TIMES {
                let mut stream = everywhere.connect(kind);
                stream.write_all(request.as_bytes()).unwrap();
                stream.stop_sending();
                let bytes = read_all(&mut *stream);
                let answer = String::from_utf8_lossy(&bytes);
                assert_eq!(first_answer(&bytes).0, *code, "{kind}, time {time}: {request:.100}\n{answer}");
            }
        }
    }
    let messages = json!({"messages": [{"channel": "c", "data": "x"}]}).to_string();
    for (kind, request) in [
        ("admin", request("GET", "/v1/status", "", "")),
        ("admin", request("POST", "/v1/publish", "", &messages)),
        ("metrics", request("GET", "/metrics", "", "")),
    ] {
        for time in 0..TIMES {
            let mut stream = everywhere.connect(kind);
            stream.write_all(request.as_bytes()).unwrap();
            stream.stop_sending();
            assert_eq!(first_answer(&read_all(&mut *stream)).0, 200, "{kind}, time {time}: {request:.100}");
        }
    }
}

#[test]
fn all_requests_sent_before_the_client_half_closes_are_answered() {
    let everywhere = Everywhere::start("");
    for kind in KINDS {
        let mut stream = everywhere.connect(kind);
        stream.write_all("GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50).as_bytes()).unwrap();
        stream.stop_sending();
        let bytes = read_all(&mut *stream);
        let mut rest = &bytes[..];
        for number in 0..50 {
            let (code, behind) = first_answer(rest);
            assert_eq!(code, 200, "{kind}, answer {number}");
            rest = behind;
        }
        assert!(rest.is_empty());
    }
}

#[test]
fn a_batch_whose_client_disconnects_is_delivered_completely() {
    const BATCH: usize = 5_000;
    let daemon = Daemon::start("");
    let api = sign(&json!({"api": true}));
    for (number, how) in ["closes", "resets", "half closes", "hangs"].into_iter().cycle().take(20).enumerate()
    {
        let mut reader = daemon.client(&["c"]);
        let (begun, begins) = std::sync::mpsc::channel();
        let counted = std::thread::spawn(move || {
            let mut count = 0;
            while reader.data() != "end" {
                let _ = begun.send(());
                count += 1;
            }
            count
        });
        let batch: Vec<_> = (0..BATCH).map(|n| json!({"channel": "c", "data": n.to_string()})).collect();
        let mut stream = daemon.connect();
        stream
            .write_all(request("POST", "/api/publish", &api, &json!(batch).to_string()).as_bytes())
            .unwrap();
        let published = |what| daemon.metric("philote_messages_received_total") == what;
        let done = ((number + 1) * BATCH + number) as u64;
        match how {
            "closes" => drop(stream),
            "resets" => {
                socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
                // In the middle of the batch. Earlier, the daemon would discard the unread part.
                begins.recv_timeout(PATIENCE).unwrap();
                drop(stream);
            }
            "half closes" => {
                stream.shutdown(Shutdown::Write).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert_eq!(status(&answer), 200);
            }
            _ => {
                let mut answer = [0; 12];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"HTTP/1.1 200");
            }
        }
        let deadline = std::time::Instant::now() + PATIENCE;
        while !published(done) {
            assert!(
                std::time::Instant::now() < deadline,
                "{how}: {:?} messages, not {done}",
                daemon.metric("philote_messages_received_total")
            );
        }
        daemon.http("POST", "/api/publish", &api, r#"{"channel":"c","data":"end"}"#);
        assert_eq!(counted.join().unwrap(), BATCH, "{how}");
    }
}
