//! Messages that are published by a POST, and the pages that may do so and read events.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::sse::{Events, request};
use crate::support::*;

/// Posts a body with this token; returns the whole answer.
fn post(daemon: &Daemon, query: &str, token: &str, more: &str, body: &str) -> String {
    daemon.exchange(format!(
        "POST /any/path?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n{more}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn message(channel: &str, data: &str) -> String {
    json!({"channel": channel, "data": data, "ack": "7"}).to_string()
}

#[test]
fn a_post_publishes_like_a_message_on_a_websocket() {
    let daemon = Daemon::start("[history]\nmessages = 10\n");
    let mut socket = daemon.client(&["c"]);
    let mut events = Events::of(&daemon, &["c"]);
    let own = events.access()["connection"].as_str().unwrap().to_owned();
    let token = sign(&json!({"sub": "ann", "write": ["c"], "may": {"write": ["room:*"]}}));
    let answer = post(&daemon, "", &token, "", &message("c", "one"));
    assert_eq!(status(&answer), 200, "{answer}");
    let answer = body_of(&answer);
    assert_eq!((&answer["ack"], &answer["readers"]), (&json!("7"), &json!(2)), "{answer}");
    let got = socket.receive();
    assert_eq!(
        (&got["data"], &got["subject"], &got["id"]),
        (&json!("one"), &json!("ann"), &answer["id"]),
        "{got}"
    );
    assert_eq!(events.next().data(), got);

    // A client's own stream does not get what it posts; no other connection can be left out.
    let without = |id: &str| {
        body_of(&post(&daemon, &format!("connection={id}"), &token, "", &message("c", "two")))["readers"]
            .clone()
    };
    assert_eq!(without(&own), 1);
    assert_eq!(socket.data(), "two");
    let other = daemon.admin("GET", "/v1/connections?sort=oldest", "")["connections"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(without(&other), 2);
    assert_eq!(without("00000000-0000-4000-8000-000000000000"), 2);
    assert_eq!([socket.data(), socket.data()], ["two", "two"]);
    for _ in 0..2 {
        assert_eq!(events.next().data()["data"], "two");
    }

    // By the beginning of a name, without data and ack, and in chunks.
    let answer = body_of(&post(&daemon, "", &token, "", r#"{"Channel": "room:1"}"#));
    assert_eq!((&answer["ack"], &answer["readers"]), (&Value::Null, &json!(0)), "{answer}");
    let body = message("c", "three");
    let chunked = daemon.exchange(format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{body}\r\n0\r\n\r\n", body.len()
    ));
    assert_eq!(status(&chunked), 200, "{chunked}");
    assert_eq!(socket.data(), "three");
    // The connection is kept for the next message.
    let mut stream = daemon.connect();
    for number in 0..3 {
        let body = message("c", &number.to_string());
        write!(
            stream,
            "POST /?auth={token} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        assert_eq!(socket.data(), number.to_string());
    }
    let mut answers = [0; 12];
    stream.read_exact(&mut answers).unwrap();
    assert_eq!(&answers, b"HTTP/1.1 200");
}

#[test]
fn what_cannot_be_posted_is_refused_with_a_status() {
    let daemon = Daemon::start("[websocket]\nmax_message_size = \"1KiB\"\n");
    let mut reader = daemon.client(&["c"]);
    let token = sign(&json!({"read": ["c", "d"], "write": ["c"]}));
    let long = message("c", &"x".repeat(1024));
    for (query, body, expected, error) in [
        ("", &*message("d", "x"), 403, "forbidden"),
        ("", "", 400, "bad_message"),
        ("", "null", 400, "bad_message"),
        ("", "[]", 400, "bad_message"),
        ("", r#"{"data": "x"}"#, 400, "bad_message"),
        ("", r#"{"channel": "c", "data": 1}"#, 400, "bad_message"),
        ("", r#"{"channel": "c", "data": "\ud800"}"#, 400, "bad_message"),
        ("", r#"{"channel": "c", "ack": 1}"#, 400, "bad_message"),
        ("", r#"{"join": ["c"]}"#, 400, "bad_message"),
        ("", r#"{"auth": "x"}"#, 400, "bad_message"),
        ("", &*long, 413, "body_too_large"),
        ("connection=x", &*message("c", "x"), 400, "bad_request"),
        ("auth=x&auth=x", &*message("c", "x"), 400, "bad_request"),
    ] {
        let answer = post(&daemon, query, &token, "", body);
        assert_eq!(
            (status(&answer), &body_of(&answer)["error"]),
            (expected, &json!(error)),
            "{body:.60}: {answer}"
        );
    }
    for token in ["bad", &sign(&json!({"write": ["c"], "exp": 1}))] {
        let answer = post(&daemon, "", token, "", &message("c", "x"));
        assert_eq!((status(&answer), header(&answer, "www-authenticate")), (401, Some("Bearer")), "{answer}");
    }
    let none =
        daemon.exchange("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(status(&none), 405, "{none}");
    let none = daemon
        .exchange(format!("POST / HTTP/1.1\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"));
    assert_eq!(status(&none), 400, "{none}");
    assert_eq!(status(&post(&daemon, "", &token, "", &message("c", "good"))), 200);
    assert_eq!(reader.data(), "good", "nothing else was published");
}

#[test]
fn a_subject_that_posts_has_the_rate_of_one_connection() {
    let daemon = Daemon::start("[limits]\nmessages_per_second = 5\n");
    let claims = |subject: &str| sign(&json!({"sub": subject, "write": ["c"]}));
    // Each POST comes on a connection of its own.
    let post = |subject: &str| post(&daemon, "", &claims(subject), "", &message("c", "x"));
    let mut taken = 0;
    let refused = (0..1000).find_map(|_| {
        let answer = post("ann");
        taken += usize::from(status(&answer) == 200);
        (status(&answer) != 200).then_some(answer)
    });
    let refused = refused.expect("one beyond the rate is refused");
    assert!(taken >= 5, "{taken} were taken");
    assert_eq!((status(&refused), &body_of(&refused)["error"]), (429, &json!("rate_limited")), "{refused}");
    assert!(header(&refused, "retry-after").is_some(), "{refused}");
    assert_eq!(status(&post("bob")), 200, "another subject has its own rate");
}

#[test]
fn only_allowed_pages_read_and_publish() {
    let daemon = Daemon::start("[websocket]\nallowed_origins = [\"https://*.example.org\"]\n");
    let token = sign(&json!({"read": ["c"], "write": ["c"]}));
    let good = "Origin: https://chat.example.org\r\n";
    let evil = "Origin: https://evil.test\r\n";
    let preflight = |origin: &str| {
        daemon.exchange(format!(
            "OPTIONS /any HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{origin}Access-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: authorization\r\n\r\n"
        ))
    };
    let allowed = |answer: &str| header(answer, "access-control-allow-origin").map(str::to_owned);
    let answer = preflight(good);
    assert_eq!(
        (status(&answer), allowed(&answer).as_deref()),
        (204, Some("https://chat.example.org")),
        "{answer}"
    );
    assert_eq!(header(&answer, "access-control-allow-methods"), Some("GET, POST"));
    for name in ["Authorization", "Content-Type", "Last-Event-ID"] {
        assert!(header(&answer, "access-control-allow-headers").unwrap().contains(name));
    }
    let answer = preflight(evil);
    assert_eq!((status(&answer), allowed(&answer)), (403, None), "{answer}");

    let answer = post(&daemon, "", &token, good, &message("c", "x"));
    assert_eq!(
        (status(&answer), allowed(&answer).is_some(), header(&answer, "vary")),
        (200, true, Some("Origin")),
        "{answer}"
    );
    // A page can read why it is refused.
    for answer in [post(&daemon, "", "bad", good, ""), daemon.exchange(request("", "bad", good))] {
        assert_eq!((status(&answer), allowed(&answer).is_some()), (401, true), "{answer}");
    }
    for answer in
        [post(&daemon, "", &token, evil, &message("c", "x")), daemon.exchange(request("", &token, evil))]
    {
        assert_eq!((status(&answer), allowed(&answer)), (403, None), "{answer}");
    }
    let mut events = Events::open(&daemon, "", &json!({"read": ["c"]}), good);
    events.access();
    assert_eq!(allowed(&events.body.head).as_deref(), Some("https://chat.example.org"));
    assert_eq!(header(&events.body.head, "vary"), Some("Origin"));
    // What was served before knows no pages of other origins.
    let plain = daemon.exchange(format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{good}\r\n"));
    assert_eq!((status(&plain), allowed(&plain)), (426, None), "{plain}");
}
