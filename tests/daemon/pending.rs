//! Connections without a token: which of them is closed when there are many, and what they may use.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Daemon, PATIENCE, body_of, frame, header, sign, status, upgrade};

/// How many connections may be accepted and silent, and how many of them from one address.
const MAX_PENDING: usize = 4096;
const SHARE: usize = MAX_PENDING / 4 * 3;

/// Reads one answer on a connection that stays open.
pub fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).unwrap_or_else(|error| panic!("{error} after {bytes:?}"));
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let length = header(&text, "Content-Length").map(|length| length.parse::<usize>().unwrap());
        let whole = text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= length.unwrap_or(0));
        if whole || count == 0 {
            return text;
        }
    }
}

fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    answer(stream)
}

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";

fn batch(token: &str) -> String {
    let body = json!(vec![json!({"channel": "c", "data": "x"}); 50]).to_string();
    let length = body.len();
    format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn a_backend_that_publishes_is_not_closed_for_the_silence_of_others() {
    let daemon = Daemon::start("");
    let batch = batch(&sign(&json!({"api": true})));
    let mut backend = daemon.connect();
    assert_eq!(status(&ask(&mut backend, &batch)), 200);
    let before = daemon.memory().0;
    // Silent connections from several addresses, so that no share ends them: twice as many as there are slots.
    let silent: Vec<_> =
        (0..2 * MAX_PENDING).map(|number| daemon.connect_from(2 + (number % 7) as u8)).collect();
    // The first was closed once they had been silent for their time; publish for longer than that.
    let deadline = Instant::now() + PATIENCE;
    let (mut rounds, mut worst) = (0, Duration::ZERO);
    while daemon.metric("philote_requests_refused_total{reason=\"max_pending\"}") < MAX_PENDING as u64 / 2 {
        assert!(Instant::now() < deadline, "no connection was closed");
        let began = Instant::now();
        assert_eq!(status(&ask(&mut backend, &batch)), 200, "after {rounds} rounds");
        worst = worst.max(began.elapsed());
        rounds += 1;
    }
    let at_worst = daemon.memory().0;
    let cut = read_whole(&silent[0]);
    assert_eq!(status(&cut), 503, "{cut}");
    assert!(header(&cut, "Retry-After").is_some());
    assert!(daemon.ended(1).iter().any(|row| row["reason"] == "max_pending"));
    daemon.wait_for_line("too many connections without a token");
    drop(silent);
    wait_until_all_have_shown_a_token(&daemon);
    println!(
        "{rounds} batches, the slowest {worst:?}; resident KiB {}, {} with {} silent, {} after",
        before >> 10,
        at_worst >> 10,
        2 * MAX_PENDING,
        daemon.memory().0 >> 10
    );
    assert!(at_worst < before + (48 << 20), "{before} to {at_worst}");
    assert_eq!(status(&ask(&mut backend, &batch)), 200);
}

fn wait_until_all_have_shown_a_token(daemon: &Daemon) {
    let pending = || daemon.metric("philote_connections_pending");
    let deadline = Instant::now() + PATIENCE;
    while pending() > 0 {
        assert!(Instant::now() < deadline, "{} are left", pending());
    }
}

/// Returns whether there is something to read.
fn has_input(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let has_input = matches!(stream.peek(&mut [0]), Ok(1));
    stream.set_nonblocking(false).unwrap();
    has_input
}

fn read_whole(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until this long after a connection was made, because the test is about being late.
fn be_late(connected: Instant) {
    std::thread::sleep(Duration::from_millis(1200).saturating_sub(connected.elapsed()));
}

#[test]
fn a_late_request_is_answered_while_others_wait() {
    let daemon = Daemon::start("max_connections = 4000\n");
    let before = daemon.memory().0;
    let mut clients: Vec<_> = (0..3_000).map(|_| (daemon.connect(), Instant::now())).collect();
    let request = upgrade(&sign(&json!({"read": ["c"]})), "");
    for (stream, connected) in &mut clients {
        be_late(*connected);
        stream.write_all(request.as_bytes()).unwrap();
    }
    let mut head = [0; 12];
    for (number, (stream, _)) in clients.iter_mut().enumerate() {
        stream.read_exact(&mut head).unwrap_or_else(|error| panic!("client {number}: {error}"));
        assert_eq!(&head, b"HTTP/1.1 101");
    }
    println!("resident KiB {} before, {} with 3,000 clients", before >> 10, daemon.memory().0 >> 10);
}

#[test]
fn a_late_token_is_accepted_while_others_wait() {
    let daemon = Daemon::start("max_connections = 4000\n");
    let before = daemon.memory().0;
    let mut clients: Vec<_> = (0..3_000).map(|_| (without_token(&daemon), Instant::now())).collect();
    let silent = daemon.memory().0;
    let token = frame(0x81, json!({"auth": sign(&json!({"read": ["c"]}))}).to_string().as_bytes());
    for (stream, opened) in &mut clients {
        be_late(*opened);
        stream.write_all(&token).unwrap();
    }
    let mut head = [0; 12];
    for (number, (stream, _)) in clients.iter_mut().enumerate() {
        stream.read_exact(&mut head).unwrap_or_else(|error| panic!("client {number}: {error}"));
        assert!(head.ends_with(b"{\"access"), "client {number}: {head:?}");
    }
    println!("resident KiB {} before, {} with 3,000 connections without a token", before >> 10, silent >> 10);
}

#[test]
fn one_address_gets_at_most_its_share_of_the_slots() {
    let daemon = Daemon::start("[websocket]\nhandshake_timeout = \"60s\"\n");
    let silent: Vec<_> = (0..SHARE).map(|_| daemon.connect_from(2)).collect();
    // Over the share of the address. The refused connection may also be the one that was silent longest.
    let over: Vec<_> = (0..100).map(|_| daemon.connect_from(2)).collect();
    let mut other = daemon.connect_from(3);
    let began = Instant::now();
    assert_eq!(status(&ask(&mut other, HEALTH)), 200);
    println!("another address waited {:?}", began.elapsed());
    let refused = "philote_requests_refused_total{reason=\"max_pending\"}";
    let deadline = Instant::now() + PATIENCE;
    while daemon.metric(refused) < 100 {
        assert!(Instant::now() < deadline, "{}", daemon.metric(refused));
    }
    assert_eq!(daemon.metric(refused), 100);
    drop((silent, over));
}

#[test]
fn unfinished_requests_do_not_block_others_until_the_deadline() {
    // Half a head, then single bytes: these use slots of requests in progress, which others need as well.
    let daemon = Daemon::start("[websocket]\nhandshake_timeout = \"60s\"\n");
    let mut slow: Vec<_> = (0..1024 + 8).map(|number| daemon.connect_from(2 + (number % 4) as u8)).collect();
    for stream in &mut slow {
        stream.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    }
    // All slots are taken. A further client is admitted when the longest silent connection has been silent for its time.
    let mut other = daemon.connect_from(9);
    assert_eq!(status(&ask(&mut other, HEALTH)), 200);
    let deadline = Instant::now() + PATIENCE;
    let told = loop {
        let told: Vec<_> = slow.iter().filter(|stream| has_input(stream)).map(read_whole).collect();
        assert!(Instant::now() < deadline, "no connection was refused");
        if !told.is_empty() {
            break told;
        }
    };
    for answer in told {
        assert_eq!(
            (status(&answer), body_of(&answer)["error"].as_str()),
            (503, Some("unavailable")),
            "{answer}"
        );
    }
}

#[test]
fn unread_answers_do_not_block_others_until_the_deadline() {
    let daemon = Daemon::start("[websocket]\nhandshake_timeout = \"60s\"\n");
    // More requests than the kernel has room for answers, on more connections than there are slots.
    let requests = "GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20);
    let mut greedy = Vec::new();
    for number in 0..1024 + 8 {
        let mut stream = daemon.connect_from(2 + (number % 4) as u8);
        socket2::SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
        stream.write_all(requests.as_bytes()).unwrap();
        greedy.push(stream);
    }
    let mut other = daemon.connect_from(9);
    assert_eq!(status(&ask(&mut other, HEALTH)), 200);
    assert!(daemon.ended(1).iter().any(|row| row["reason"] == "max_pending"));
}

/// How many connections of one address may have begun to speak.
const SPEAKING_SHARE: usize = 1024 / 4 * 3;

#[test]
fn rejected_clients_that_go_on_sending_hold_no_more_descriptors_than_their_share() {
    let daemon = Daemon::start("");
    let before = daemon.descriptors();
    let mut clients = Vec::new();
    for number in 0..3 * SPEAKING_SHARE {
        let mut stream = daemon.connect();
        // A route, a token, and a first message that are rejected.
        match number % 3 {
            0 => assert_eq!(status(&ask(&mut stream, &HEALTH.replace("GET", "PUT"))), 405),
            1 => assert_eq!(status(&ask(&mut stream, &upgrade("x", ""))), 401),
            _ => {
                stream = without_token(&daemon);
                stream.write_all(&frame(0x81, b"no token")).unwrap();
                assert!(stream.read(&mut [0; 256]).unwrap() > 0);
            }
        }
        // The daemon reads on for ten seconds after its answer, unless the client is silent for one.
        clients.push(stream);
        if number % 64 == 0 {
            clients.iter().for_each(|mut stream| _ = stream.write(b"x"));
        }
    }
    let began = Instant::now();
    let mut held = daemon.descriptors() - before;
    println!("{held} descriptors for {} rejected clients", clients.len());
    while held > SPEAKING_SHARE + 16 {
        assert!(began.elapsed() < Duration::from_secs(2), "{held} descriptors are held");
        clients.iter().for_each(|mut stream| _ = stream.write(b"x"));
        held = daemon.descriptors() - before;
    }
}

#[test]
fn an_idle_connection_is_kept_longer_than_a_handshake_may_take() {
    let daemon =
        Daemon::start("[websocket]\nhandshake_timeout = \"1s\"\n[http]\nkeep_alive_timeout = \"70s\"\n");
    let batch = batch(&sign(&json!({"api": true})));
    let (mut backend, mut monitor) = (daemon.connect(), daemon.connect());
    for _ in 0..2 {
        for (stream, request) in [(&mut backend, batch.as_str()), (&mut monitor, HEALTH)] {
            let answer = ask(stream, request);
            assert_eq!(
                (status(&answer), header(&answer, "Keep-Alive")),
                (200, Some("timeout=70")),
                "{answer}"
            );
        }
        // Twice as long as a handshake may take; silent connections are closed after the handshake timeout.
        for _ in 0..2 {
            assert_eq!(daemon.connect().read(&mut [0]).unwrap(), 0);
        }
    }
    // A request that was started again has the time of a handshake.
    backend.write_all(b"GET /api/info HTTP/1.1\r\n").unwrap();
    assert_eq!(status(&answer(&mut backend)), 408);
    let close = ask(&mut monitor, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!((status(&close), header(&close, "Keep-Alive")), (200, None));
}

#[test]
fn idle_connections_end_after_keep_alive_timeout() {
    let daemon = Daemon::start("[http]\nkeep_alive_timeout = \"1s\"\n");
    let began = Instant::now();
    let mut monitor = daemon.connect();
    assert_eq!(header(&ask(&mut monitor, HEALTH), "Keep-Alive"), Some("timeout=1"));
    assert_eq!(monitor.read(&mut [0]).unwrap(), 0);
    // Later than the client was told, never earlier.
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn kept_connections_are_limited_and_the_longest_idle_is_closed() {
    const MAX_KEPT: usize = 1024;
    // On a busy machine 1,024 answers take longer than a handshake may.
    let timeouts = "[http]\nkeep_alive_timeout = \"1h\"\n[websocket]\nhandshake_timeout = \"5m\"\n";
    let daemon = Daemon::start(timeouts);
    let token = sign(&json!({"api": true}));
    let info = format!("GET /api/info HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut kept: Vec<_> = (0..MAX_KEPT).map(|_| daemon.connect()).collect();
    for stream in &mut kept {
        assert_eq!(status(&ask(stream, &info)), 200);
    }
    // They do not count as connections without a token.
    assert_eq!(daemon.metric("philote_connections_pending"), 0);
    assert_eq!(status(&ask(&mut kept[0], &info)), 200);
    let mut more = daemon.connect();
    assert_eq!(status(&ask(&mut more, &info)), 200);
    let told = read_whole(&kept[1]);
    let ended = || daemon.admin("GET", "/v1/closed", "");
    assert_eq!(status(&told), 503, "the second has been idle longest: {told}; {}", ended());
    assert_eq!(daemon.ended(1)[0]["reason"], "max_kept");
    for number in [0, 2] {
        assert_eq!(status(&ask(&mut kept[number], &info)), 200);
    }
}

/// A connection of philote.v1 that has not sent its token.
fn without_token(daemon: &Daemon) -> TcpStream {
    begin(daemon.connect())
}

/// Sends the request of philote.v1 without a token, and reads the 101.
fn begin(mut stream: TcpStream) -> TcpStream {
    let request =
        upgrade("", "Sec-WebSocket-Protocol: philote.v1\r\n").replace("Authorization: Bearer \r\n", "");
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// The code of the Close at the end of these bytes, behind frames of at most 125 bytes.
fn close_code(mut bytes: &[u8]) -> u16 {
    while bytes[0] != 0x88 {
        bytes = &bytes[2 + usize::from(bytes[1])..];
    }
    u16::from_be_bytes([bytes[2], bytes[3]])
}

#[test]
fn pings_before_the_token_are_limited() {
    let daemon = Daemon::start("");
    for opcode in [0x89, 0x8a] {
        let mut stream = without_token(&daemon);
        for _ in 0..16 {
            stream.write_all(&frame(opcode, b"x")).unwrap();
        }
        if opcode == 0x89 {
            let mut pongs = [0; 16 * 3];
            stream.read_exact(&mut pongs).unwrap();
        }
        stream.write_all(&frame(opcode, b"x")).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(close_code(&rest), 4429, "{rest:?}");
        assert_eq!(daemon.ended(1)[0]["reason"], "pings_before_token");
    }
    // A few pings are allowed.
    let mut stream = without_token(&daemon);
    stream.write_all(&frame(0x89, b"x")).unwrap();
    let token = sign(&json!({"read": ["c"]}));
    stream.write_all(&frame(0x81, json!({"auth": token}).to_string().as_bytes())).unwrap();
    daemon.wait_until("it is connected", |status| status["connections"] == 1);
}

#[test]
fn first_messages_without_a_token_have_a_total_limit() {
    let daemon = Daemon::start("[websocket]\nhandshake_timeout = \"60s\"\n");
    drop(without_token(&daemon));
    let before = daemon.memory().0;
    // All but the end of a token of the maximum length.
    let message = frame(0x81, format!("{{\"auth\": \"{}\"}}", "x".repeat(300_000)).as_bytes());
    let mut silent: Vec<_> = (0..500).map(|_| without_token(&daemon)).collect();
    let mut worst = 0;
    for stream in &mut silent {
        // It may be refused before it has sent everything.
        let _ = stream.write_all(&message[..message.len() - 1]);
        worst = worst.max(daemon.memory().0);
    }
    let full = daemon.ended(1);
    assert_eq!(full[0]["reason"], "first_messages", "{full:?}");
    // A token of the usual length is still accepted.
    let mut usual = without_token(&daemon);
    let token = sign(&json!({"read": ["c"]}));
    usual.write_all(&frame(0x81, json!({"auth": token}).to_string().as_bytes())).unwrap();
    daemon.wait_until("it is connected", |status| status["connections"] == 1);
    // From another address one of any length is accepted.
    let token = sign(&json!({"read": (0..1024).map(|n| format!("{n:0100}")).collect::<Vec<_>>()}));
    let long = frame(0x81, json!({"auth": token}).to_string().as_bytes());
    let mut elsewhere = begin(daemon.connect_from(2));
    elsewhere.write_all(&long).unwrap();
    daemon.wait_until("it is connected", |status| status["connections"] == 2);
    drop(silent);
    wait_until_all_have_shown_a_token(&daemon);
    let after = daemon.memory().0;
    println!("resident KiB {} before, {} at the worst, {} after", before >> 10, worst >> 10, after >> 10);
    assert!(worst < before + (48 << 20), "{before} to {worst}");
    // Their memory is free again, so a long token is accepted.
    let mut here = without_token(&daemon);
    here.write_all(&long).unwrap();
    daemon.wait_until("it is connected", |status| status["connections"] == 3);
}

#[test]
fn the_longest_silent_connection_of_philote_v1_is_closed() {
    let daemon = Daemon::start("[websocket]\nhandshake_timeout = \"5m\"\n");
    let mut waiting: Vec<_> =
        (0..MAX_PENDING).map(|number| begin(daemon.connect_from(2 + (number % 4) as u8))).collect();
    // A client whose request comes with its connection needs no place among the silent.
    let _silent = daemon.connect();
    // Which one waits longest is decided when the daemon has sent its 101: near the beginning, but not the very first.
    let deadline = Instant::now() + PATIENCE;
    let closed = loop {
        if let Some(closed) = waiting.iter().take(16).position(has_input) {
            break closed;
        }
        assert!(Instant::now() < deadline, "none of the longest silent connections was closed");
    };
    let mut bytes = Vec::new();
    let _ = waiting[closed].read_to_end(&mut bytes);
    assert_eq!(close_code(&bytes), 1013, "{closed}");
    assert_eq!(daemon.ended(1)[0]["reason"], "max_pending");
    let mut classic = daemon.client(&["c"]);
    let last = waiting.last_mut().unwrap();
    let token = json!({"auth": sign(&json!({"write": ["c"]}))}).to_string();
    last.write_all(&frame(0x81, token.as_bytes())).unwrap();
    last.write_all(&frame(0x81, br#"{"channel": "c", "data": "x"}"#)).unwrap();
    assert_eq!(classic.data(), "x");
}
