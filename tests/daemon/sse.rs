//! Channels read as Server-Sent Events: what a browser and a program see, on every kind of listener.

mod client;

use std::io::{Read, Write};

use rustix::process::Signal;
use serde_json::{Value, json};

pub use self::client::{Events, request};
use crate::everywhere::{Everywhere, KINDS};
use crate::support::*;

/// Waits until a message that was published now comes to this reader.
fn next_data(events: &mut Events) -> String {
    events.next().data()["data"].as_str().unwrap().to_owned()
}

#[test]
fn every_listener_serves_the_bytes_of_a_websocket_as_events() {
    let everywhere = Everywhere::start("[history]\nmessages = 10\n");
    let daemon = &everywhere.daemon;
    let token = sign(&json!({"sub": "ann", "read": ["chat", "b"], "may": {"read": ["room:*"]}}));
    for kind in KINDS {
        let mut events =
            Events::on(everywhere.connect(kind), &request("channel=chat&channel=room:1", &token, ""));
        let access = events.access();
        assert_eq!(
            (&access["subject"], &access["read"]),
            (&json!("ann"), &json!(["chat", "room:1"])),
            "{kind}"
        );
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store"),
            ("x-accel-buffering", "no"),
            ("connection", "close"),
        ] {
            assert_eq!(header(&events.body.head, name), Some(value), "{kind}");
        }
        assert!(header(&events.body.head, "date").unwrap().ends_with(" GMT"));
        let rows = daemon.admin("GET", "/v1/connections?subject=ann", "");
        assert_eq!(rows["connections"][0]["transport"], "events", "{kind}");
        let mut reader = daemon.client(&["chat"]);
        let mut writer = daemon.client(&["b", "chat", "room:1"]);
        // A text of each kind that a line of events might break.
        for data in ["one", "two\nlines\r\n\n: x", "", "ü\u{2028}\"\\", &"x".repeat(60_000)] {
            writer.publish("b", "not named");
            writer.publish("chat", data);
            let event = events.next();
            let frame = match reader.socket.read().unwrap() {
                tokio_tungstenite::tungstenite::Message::Text(text) => text.to_string(),
                other => panic!("{other:?}"),
            };
            assert!(event.text == frame && event.event.is_none(), "{kind}: {data:.20}");
        }
        drop(events);
        daemon.wait_until("it is gone", |status| status["connections"] == 2);
    }
}

#[test]
fn a_lasting_rejection_is_a_status_and_a_temporary_one_an_event() {
    let daemon = Daemon::start("max_connections = 3\n[limits]\nconnections_per_subject = 1\n");
    let claims = json!({"sub": "ann", "read": ["c"], "may": {"read": ["room:*"]}});
    let many: String = (0..17).map(|number| format!("channel=c{number}&")).collect();
    let long = format!("channel={}", "x".repeat(256));
    for (query, more, expected) in [
        ("channel=d", "", 403),
        ("channel=room:*", "", 400),
        ("channel=", "", 400),
        (&*many, "", 400),
        (&*long, "", 400),
        ("last_event_id=41", "", 400),
        ("", "Last-Event-ID: c=ab-\r\n", 400),
        ("", "Last-Event-ID: \u{1}\r\n", 400),
        ("", "Last-Event-ID: c=ab-1\r\nLast-Event-ID: c=ab-1\r\n", 400),
        ("auth=x&auth=x", "", 400),
        ("", "Content-Length: 1\r\n", 400),
        ("", "Last-Event-ID: closed\r\n", 204),
    ] {
        let answer = daemon.exchange(request(query, &sign(&claims), &format!("Connection: close\r\n{more}")));
        assert_eq!(status(&answer), expected, "{query} {more}: {answer}");
        if expected != 204 {
            assert!(body_of(&answer)["message"].is_string(), "{query} {more}: {answer}");
        }
    }
    let answer = daemon.exchange(request("", "bad", ""));
    assert_eq!((status(&answer), header(&answer, "www-authenticate")), (401, Some("Bearer")));
    let many: Vec<String> = (0..17).map(|number| format!("c{number}")).collect();
    let answer = daemon.exchange(request("", &sign(&json!({"read": many})), ""));
    assert!(status(&answer) == 400 && answer.contains("17 channels"), "{answer}");

    let _first = Events::open(&daemon, "", &claims, "");
    let second = Events::open(&daemon, "", &claims, "");
    let close = second.closed().0;
    assert_eq!(
        (close.data()["code"].as_u64(), &close.data()["reason"]),
        (Some(4429), &json!("this token's subject has too many connections: connections_per_subject is 1"))
    );
    assert!((5000..=10_000).contains(&close.retry.unwrap()), "a browser comes back later: {close:?}");
    let _others = [daemon.client(&["c"]), daemon.client(&["c"])];
    let close = Events::of(&daemon, &["c"]).closed().0;
    assert_eq!((close.data()["code"].as_u64(), close.id), (Some(1013), None));
    // The token is shown in the query as well.
    let ended = daemon.exchange(format!(
        "GET /?auth={} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n",
        sign(&json!({"read": ["c"]}))
    ));
    assert!(ended.contains("event: close\ndata: {\"code\":1013,"), "{ended}");
    let listed = daemon.ended(1);
    assert_eq!((&listed[0]["reason"], &listed[0]["code"]), (&json!("max_connections"), &json!(1013)));
}

#[test]
fn other_requests_are_answered_as_before() {
    let daemon = Daemon::start("");
    let token = sign(&json!({"read": ["c"], "api": true}));
    for accept in ["*/*", "text/html", "application/json", "text/event-stream;q=0"] {
        let answer = daemon
            .exchange(format!("GET / HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"));
        assert_eq!(status(&answer), 426, "{accept}: {answer}");
        assert_eq!(header(&answer, "vary"), None);
    }
    let accept = "Accept: text/event-stream\r\n";
    let (mut socket, answer) = (daemon.connect(), &mut [0; 12]);
    socket.write_all(upgrade(&token, accept).as_bytes()).unwrap();
    socket.read_exact(answer).unwrap();
    assert_eq!(answer, b"HTTP/1.1 101");
    for (request, expected) in
        [("GET /health", 200), ("GET /api/info", 200), ("HEAD /", 405), ("OPTIONS /", 405), ("PUT /", 405)]
    {
        let answer = daemon.exchange(format!(
            "{request} HTTP/1.1\r\nHost: x\r\n{accept}Connection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
        ));
        assert_eq!(status(&answer), expected, "{request}: {answer}");
    }
}

#[test]
fn a_reader_returns_to_where_it_was() {
    let daemon = Daemon::start("[history]\nmessages = 5\n");
    let claims = json!({"read": ["a", "b"]});
    let mut writer = daemon.client(&["a", "b"]);
    let mut events = Events::open(&daemon, "", &claims, "");
    let begin = events.next().id.unwrap();
    writer.publish("a", "1");
    writer.publish("b", "2");
    writer.publish("a", "3");
    let ids: Vec<String> = (0..3).map(|_| events.next().id.unwrap()).collect();
    drop(events);
    writer.publish("b", "4");
    writer.publish("a", "5");
    writer.settle();
    let returns = |query: &str, header: &str| {
        let more = if header.is_empty() { String::new() } else { format!("Last-Event-ID: {header}\r\n") };
        let mut events = Events::open(&daemon, query, &claims, &more);
        let recovered = events.access()["recovered"].clone();
        (recovered, events)
    };
    let take = |events: &mut Events, count| -> Vec<String> {
        let mut data: Vec<String> = (0..count).map(|_| next_data(events)).collect();
        data.sort_unstable();
        data
    };
    let whole = json!({"a": true, "b": true});
    let query = |cursor: &str| {
        form_urlencoded::Serializer::new(String::new()).append_pair("last_event_id", cursor).finish()
    };
    for (cursor, missed) in
        [(&begin, &["1", "2", "3", "4", "5"][..]), (&ids[0], &["2", "3", "4", "5"]), (&ids[2], &["4", "5"])]
    {
        let (recovered, mut events) = returns("", cursor);
        assert_eq!(
            (&recovered, take(&mut events, missed.len())),
            (&whole, missed.iter().map(|data| (*data).to_owned()).collect())
        );
        assert_eq!(returns(&query(cursor), "").0, whole);
        // The header is newer than a query that a browser repeats.
        assert_eq!(take(&mut returns(&query(cursor), &ids[2]).1, 2), ["4", "5"]);
    }
    // Each stream goes on behind what was missed, with a cursor that is as good.
    let (_, mut events) = returns("", &ids[2]);
    let last = [events.next(), events.next()].map(|event| event.id.unwrap())[1].clone();
    writer.publish("a", "6");
    assert_eq!(next_data(&mut events), "6");
    assert_eq!(take(&mut returns("", &last).1, 1), ["6"]);
    // A channel without its id wants all, and one that is not named nothing.
    let (recovered, mut events) = returns("", "b=");
    assert_eq!((recovered, take(&mut events, 2)), (Value::Null, vec!["2".to_owned(), "4".to_owned()]));
    // What is not kept any more, or was never, is not recovered.
    (7..13).for_each(|number| writer.publish("a", &number.to_string()));
    writer.settle();
    let (recovered, mut events) = returns("", &ids[2]);
    assert_eq!((recovered, take(&mut events, 1)), (json!({"a": false, "b": true}), vec!["4".to_owned()]));
    assert_eq!(returns("", "a=1-1&none=1-1").0, json!({"a": false}));
    drop(events);
}

#[test]
fn the_last_event_tells_why_the_stream_ends() {
    let mut daemon = Daemon::start("[shutdown]\ndrain = \"2s\"\n[auth]\nleeway = \"0s\"\n");
    let open = |claims: Value| {
        let mut events = Events::open(&daemon, "", &claims, "");
        events.access();
        events
    };
    let named = |subject: &str| open(json!({"sub": subject, "read": ["c"]}));
    let events = named("ann");
    daemon.admin("POST", "/v1/disconnect", r#"{"subject": "ann"}"#);
    let (close, _) = events.closed();
    assert_eq!(close.data(), json!({"code": 4403, "reason": "disconnected by an administrator"}));
    let id = close.id.unwrap();
    let answer = daemon.exchange(request(
        "",
        &sign(&json!({"read": ["c"]})),
        &format!("Connection: close\r\nLast-Event-ID: {id}\r\n"),
    ));
    assert_eq!(status(&answer), 204, "a browser that was told to leave stops: {answer}");

    let events = named("bob");
    daemon.admin("POST", "/v1/disconnect", r#"{"subject": "bob", "reconnect": true}"#);
    let (close, _) = events.closed();
    assert_eq!((close.data()["code"].as_u64(), close.id), (Some(1012), None));

    let events = named("carol");
    daemon.admin("POST", "/v1/disconnect", r#"{"subject": "carol", "refuse_for": 60}"#);
    assert_eq!(events.code(), 4403);
    let answer = daemon.exchange(request("", &sign(&json!({"sub": "carol", "read": ["c"]})), ""));
    assert_eq!(status(&answer), 403, "{answer}");

    assert_eq!(open(json!({"read": ["c"], "exp": unix_now() + 1})).code(), 4401);

    let last = named("dora");
    daemon.signal(Signal::TERM);
    let (close, _) = last.closed();
    assert_eq!((close.data()["code"].as_u64(), close.id), (Some(1001), None));
    assert!(daemon.wait().success());
    assert!(!daemon.log().contains("were cut"), "{}", daemon.log());
}

#[test]
fn a_withdrawn_key_ends_its_streams() {
    let daemon = Daemon::start_with(
        &format!("[auth]\nsecret = \"{SECRET}\"\n[shutdown]\ndrain = \"1s\"\n"),
        |command| {
            command.env_remove("SECRET");
        },
    );
    let mut events = Events::of(&daemon, &["c"]);
    events.access();
    config_file(
        daemon.directory.path(),
        "[auth]\nsecret = \"another secret of these tests, of 47 bytes.....\"\n[shutdown]\ndrain = \"1s\"\n",
    );
    assert!(daemon.admin("POST", "/v1/reload", "")["error"].is_null());
    let (close, _) = events.closed();
    assert_eq!((close.data()["code"].as_u64(), close.id), (Some(4401), None));
}

#[test]
fn a_thousand_readers_of_both_kinds_see_one_order() {
    const EACH: usize = 500;
    const MESSAGES: usize = 40;
    let daemon = Daemon::start("max_connections = 1100\n[history]\nmessages = 100\n");
    let mut sockets: Vec<Client> = (0..EACH).map(|_| daemon.client(&["c"])).collect();
    let mut streams: Vec<Events> = (0..EACH).map(|_| Events::of(&daemon, &["c"])).collect();
    streams.iter_mut().for_each(|events| drop(events.access()));
    for transport in ["websocket", "events"] {
        let name = format!("philote_connections_by_transport{{transport=\"{transport}\"}}");
        assert_eq!(daemon.metric(&name), EACH as u64, "{transport}");
    }
    let writers = [0, 1].map(|writer| (writer, daemon.client_with(&json!({"write": ["c"]}))));
    let writing = writers.map(|(writer, mut client)| {
        std::thread::spawn(move || {
            (0..MESSAGES / 2).for_each(|number| client.publish("c", &format!("{writer} {number}")));
            client.settle();
        })
    });
    writing.into_iter().for_each(|thread| thread.join().unwrap());
    let first: Vec<String> = (0..MESSAGES).map(|_| sockets[0].receive().to_string()).collect();
    for socket in &mut sockets[1..] {
        first.iter().for_each(|message| assert_eq!(socket.receive().to_string(), *message));
    }
    for events in &mut streams {
        first.iter().for_each(|message| assert_eq!(events.next().data().to_string(), *message));
    }
}

#[test]
fn a_reader_that_takes_nothing_is_closed_and_holds_up_nobody() {
    let daemon = Daemon::start("[limits]\nqueue_messages = 200\n");
    let mut slow = Events::of(&daemon, &["c"]);
    let mut swift = daemon.client(&["c"]);
    let mut writer = daemon.client(&["c"]);
    let data = "x".repeat(50_000);
    let before = daemon.memory().0;
    let mut sent = 0;
    let listed = loop {
        writer.publish("c", &data);
        assert_eq!(swift.data().len(), data.len());
        sent += 1;
        assert!(sent < 2_000, "it is not closed");
        let closed = daemon.admin("GET", "/v1/connections/closed", "");
        if let Some(row) = closed["connections"].as_array().unwrap().first() {
            break row.clone();
        }
        let rows = daemon.admin("GET", "/v1/connections?sort=queued&limit=1", "");
        if !rows["connections"][0]["closing"].is_null() {
            break rows["connections"][0].clone();
        }
    };
    let reason = listed["reason"].as_str().or(listed["closing"].as_str());
    assert_eq!(reason, Some("slow_consumer"), "{listed}");
    assert!(daemon.memory().0 < before + (64 << 20), "{before} to {}", daemon.memory().0);
    // It is told, behind whole messages in order.
    slow.access();
    let (close, messages) = slow.closed();
    assert_eq!(close.data()["code"], 4413);
    assert!(messages.len() < sent && messages.iter().all(|message| message["data"] == *data));
}

#[test]
fn a_reader_that_sends_nothing_stays_and_is_told_that_it_is_there() {
    let daemon = Daemon::start("[websocket]\nping_interval = \"1s\"\npong_timeout = \"1s\"\n");
    let mut events = Events::of(&daemon, &["c"]);
    events.access();
    // A WebSocket that is as silent is closed after two seconds.
    let mut silent = daemon.connect();
    silent.write_all(upgrade(&sign(&json!({"read": ["c"]})), "").as_bytes()).unwrap();
    assert_eq!(daemon.ended(1)[0]["reason"], "no_pong");
    while events.comments < 3 {
        assert_eq!(events.body.line().as_deref(), Some(":"));
        assert_eq!(events.body.line().as_deref(), Some(""));
        events.comments += 1;
    }
    daemon.client(&["c"]).publish("c", "still there");
    assert_eq!(next_data(&mut events), "still there");
    // What a client sends has no meaning, and its end is noticed.
    events.body.stream.get_mut().write_all(&[b'x'; 100_000]).unwrap();
    daemon.client(&["c"]).publish("c", "again");
    assert_eq!(next_data(&mut events), "again");
    drop(events);
    let named = |rows: &Vec<Value>| rows.iter().filter(|row| row["reason"] == "no_pong").count();
    assert_eq!(named(&daemon.ended(4)), 1, "only the WebSocket was closed");
}

#[test]
fn a_client_of_http_1_0_reads_to_the_end_of_the_connection() {
    let daemon = Daemon::start("");
    let token = sign(&json!({"sub": "ann", "read": ["c"]}));
    let request =
        format!("GET / HTTP/1.0\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut events = Events::on(daemon.connect(), &request);
    assert!(!events.body.chunked, "{}", events.body.head);
    events.access();
    daemon.client(&["c"]).publish("c", "x");
    assert_eq!(next_data(&mut events), "x");
    daemon.admin("POST", "/v1/disconnect", r#"{"subject": "ann"}"#);
    assert_eq!(events.code(), 4403);
}

#[test]
fn half_a_request_and_one_in_pieces() {
    let daemon = Daemon::start("[websocket]\nhandshake_timeout = \"1s\"\n");
    let request = request("", &sign(&json!({"read": ["c"]})), "");
    let half = daemon.exchange(&request[..request.len() - 3]);
    assert_eq!(status(&half), 408, "{half}");
    let mut stream = daemon.connect();
    let (first, rest) = request.split_at(40);
    stream.write_all(first.as_bytes()).unwrap();
    // Bytes behind the request are discarded.
    let mut events = Events::on(stream, &format!("{rest}GET / HTTP/1.1\r\n"));
    events.access();
    // The time for the request does not end the stream.
    assert_eq!(daemon.ended(1).len(), 1);
    daemon.client(&["c"]).publish("c", "x");
    assert_eq!(next_data(&mut events), "x");
}
