//! Frames and bytes that violate the protocol, or reach its limits.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Client, Daemon, PATIENCE, frame, sign, unix_now, upgrade};

fn close_after(daemon: &Daemon, bytes: &[u8]) -> u16 {
    let mut client = daemon.client(&["c"]);
    client.stream().write_all(bytes).unwrap();
    client.closed().0
}

#[test]
fn fault_32_33_39_invalid_frames_close_with_a_code() {
    let daemon = Daemon::start("");
    let mut bystander = daemon.client(&["c"]);
    let message = br#"{"channel":"c","data":"x"}"#;
    let mut cases: Vec<(String, Vec<u8>, u16)> = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>, code: u16| cases.push((name.to_owned(), bytes, code));
    for opcode in [0x81, 0x82, 0x88, 0x89, 0x8a] {
        add(&format!("{opcode:#x} unmasked"), vec![opcode, 0x02, 0x03, 0xe8], 1002);
        for bit in [0x40, 0x20, 0x10] {
            add(&format!("{opcode:#x} with the reserved bit {bit:#x}"), frame(opcode | bit, message), 1002);
        }
    }
    for opcode in (0x83..=0x87).chain(0x8b..=0x8f) {
        add(&format!("the reserved opcode {opcode:#x}"), frame(opcode, message), 1002);
    }
    for opcode in [0x08, 0x09, 0x0a] {
        add(&format!("a fragment of the control frame {opcode:#x}"), frame(opcode, &[0x03, 0xe8]), 1002);
        let long = [&[0x03, 0xe8][..], &[b'x'; 124]].concat();
        add(&format!("126 bytes in the control frame {opcode:#x}"), frame(0x80 | opcode, &long), 1002);
    }
    add("a stray last continuation", frame(0x80, message), 1002);
    add("a stray continuation", frame(0x00, message), 1002);
    add("text inside text", [frame(0x01, b"x"), frame(0x81, message)].concat(), 1002);
    add("binary inside text", [frame(0x01, b"x"), frame(0x82, message)].concat(), 1002);
    add(
        "a continuation after the last",
        [frame(0x01, b"{"), frame(0x80, b""), frame(0x80, b"}")].concat(),
        1002,
    );
    for (name, text) in [
        ("a byte that UTF-8 has not", &b"\xff"[..]),
        ("a surrogate", b"\xed\xa0\x80"),
        ("a pair of surrogates", b"\xed\xa0\x80\xed\xb0\x80"),
        ("an overlong form of two bytes", b"\xc0\xaf"),
        ("an overlong form of three bytes", b"\xe0\x80\xaf"),
        ("an overlong NUL", b"\xc0\x80"),
        ("a character behind the last", b"\xf4\x90\x80\x80"),
        ("a stray continuation byte", b"\x80"),
        ("a character that ends too early", b"x\xc3"),
    ] {
        add(name, frame(0x81, text), 1007);
        add(&format!("{name}, in a close reason"), frame(0x88, &[b"\x03\xe8", text].concat()), 1007);
        for cut in 0..=text.len() {
            let pieces = [frame(0x01, &text[..cut]), frame(0x00, b""), frame(0x80, &text[cut..])].concat();
            add(&format!("{name}, split at {cut}"), pieces, 1007);
        }
    }
    add("a close of one byte", frame(0x88, b"\x03"), 1002);
    for (name, bytes, code) in cases {
        assert_eq!(close_after(&daemon, &bytes), code, "{name}");
    }
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 5000] {
        assert_eq!(close_after(&daemon, &frame(0x88, &code.to_be_bytes())), 1002, "{code}");
    }
    for code in [1000_u16, 1001, 3000, 4999] {
        assert_eq!(
            close_after(&daemon, &frame(0x88, &code.to_be_bytes())),
            code,
            "the server answers with the same code"
        );
    }
    // Only the bystander is still connected, and it received none of this.
    daemon.wait_until("all connections are closed", |status| status["connections"] == 1);
    bystander.settle();
}

#[test]
fn fault_34_declared_lengths_allocate_nothing() {
    let daemon = Daemon::start("max_connections = 2000\n");
    let header = |length: u64| {
        let mut bytes = vec![0x81, 0xff];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes
    };
    for length in [65_537, 1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX] {
        let code = close_after(&daemon, &header(length));
        assert_eq!(code, 1009, "{length}");
    }
    let mut clients: Vec<Client> = (0..1000).map(|_| daemon.client(&[])).collect();
    // Measured after the clients have connected, so that only the effect of the frames counts. The peaks are used, because
    // memory that was reserved for a frame is freed with its connection.
    daemon.forget_peak();
    let (resident, space) = (daemon.peak(), daemon.peak_address_space());
    for (number, client) in clients.iter_mut().enumerate() {
        let length = [65_537, 1 << 31, 1 << 40, u64::MAX][number % 4];
        client.stream().write_all(&header(length)).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.closed().0, 1009);
    }
    let (resident, space) = (daemon.peak() - resident, daemon.peak_address_space() - space);
    println!(
        "1,000 declared lengths: address space grew by {} KiB, resident by {}",
        space >> 10,
        resident >> 10
    );
    // 64 KiB, the limit, for each would be 64 MiB.
    assert!(space < 32 << 20 && resident < 8 << 20, "address space grew by {space}, resident by {resident}");
}

#[test]
fn fault_36_the_number_of_fragments_is_bounded() {
    let daemon = Daemon::start("");
    let mut other = daemon.client(&["c"]);
    let flood = |first: &[u8], rest: &[u8], count: usize| -> Vec<u8> {
        std::iter::once(frame(0x01, first)).chain((0..count).map(|_| frame(0x00, rest))).flatten().collect()
    };
    let floods = [flood(b"{", b"x", 65_536), flood(b"", b"", 1_000_000)];
    let (mut one, mut two) = (daemon.client(&["others"]), daemon.client(&["others"]));
    let done = AtomicBool::new(false);
    let before = daemon.processor_time();
    let (exchanges, longest) = std::thread::scope(|scope| {
        let talking = scope.spawn(|| {
            let (mut exchanges, mut longest) = (0, Duration::ZERO);
            loop {
                let began = Instant::now();
                one.publish("others", "x");
                two.data();
                longest = longest.max(began.elapsed());
                exchanges += 1;
                if done.load(Relaxed) {
                    return (exchanges, longest);
                }
            }
        });
        for _ in 0..5 {
            for bytes in &floods {
                let mut client = daemon.client(&["c"]);
                // The server may have closed the connection before everything is sent.
                let _ = client.stream().write_all(bytes);
                assert_eq!(client.closed().0, 1008);
            }
        }
        done.store(true, Relaxed);
        talking.join().unwrap()
    });
    let work = daemon.processor_time() - before;
    println!("others: {exchanges} exchanges, the longest {longest:?}; {work:?} of processor time for all");
    assert!(longest < Duration::from_secs(2), "{exchanges}, {longest:?}");
    // A message with the maximum number of fragments is accepted.
    let text = br#"{"channel":"c","data":"pieces"}"#;
    let mut pieces = frame(0x01, b"");
    text.iter().for_each(|byte| pieces.extend(frame(0x00, &[*byte])));
    pieces.extend(frame(0x80, b""));
    let mut writer = daemon.client(&["c"]);
    writer.stream().write_all(&pieces).unwrap();
    assert_eq!(other.data(), "pieces");
}

#[test]
fn fault_37_pings_without_reading_close_with_a_full_queue() {
    let daemon = Daemon::start("");
    let mut client = daemon.client(&["c"]);
    client.settle();
    daemon.forget_peak();
    let before = daemon.peak();
    let pings = frame(0x89, &[b'x'; 125]).repeat(1000);
    client.stream().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut sent = 0_u64;
    let deadline = Instant::now() + PATIENCE;
    // After its Close the server discards what arrives for a while; send until it has closed the connection.
    while client.stream().write_all(&pings).is_ok() {
        sent += pings.len() as u64;
        assert!(Instant::now() < deadline, "it still reads pings: {sent}");
    }
    let row = daemon.ended(1).remove(0);
    assert_eq!((&row["code"], &row["reason"]), (&json!(4413), &json!("slow_consumer")), "{row}");
    let grown = daemon.peak() - before;
    println!(
        "{} KiB of pings, of which no answer was read: resident grew by {} KiB",
        sent >> 10,
        grown >> 10
    );
    // queue_bytes is 1 MiB, and a queue exceeds it by at most the answers to one read.
    assert!(grown < 8 << 20, "{grown}");
}

#[test]
fn fault_38_unsolicited_pongs_are_ignored() {
    let daemon = Daemon::start("");
    let mut client = daemon.client(&["c"]);
    client.stream().write_all(&frame(0x8a, b"x").repeat(1000)).unwrap();
    client.settle();
}

#[test]
fn fault_39_data_after_a_close_is_ignored() {
    let daemon = Daemon::start("");
    let (mut reader, mut client) = (daemon.client(&["c"]), daemon.client(&["c"]));
    let mut bytes = frame(0x88, &1000_u16.to_be_bytes());
    bytes.extend(frame(0x81, br#"{"channel":"c","data":"late"}"#));
    client.stream().write_all(&bytes).unwrap();
    assert_eq!(client.closed().0, 1000);
    reader.settle();
}

/// A client that never answers a Close, and keeps its own side open, loses its connection at the deadline, whatever the
/// reason of the Close and however much it reads.
#[test]
fn fault_40_a_close_that_is_never_answered_ends_at_the_deadline() {
    let daemon = Daemon::start("[auth]\nleeway = \"0s\"\n");
    let mut writer = daemon.client_with(&json!({"write": ["full"]}));
    writer.settle();
    let before = daemon.descriptors();
    let claims =
        |subject: &str, read: &str| json!({"sub": subject, "read": [read], "exp": unix_now() + 3600});
    let mut broken = daemon.client_with(&claims("broken", "c"));
    let mut disconnected = daemon.client_with(&claims("disconnected", "c"));
    let mut expired = daemon.client_with(&json!({"read": ["c"], "exp": unix_now() + 2}));
    // It reads none of the messages that wait for it, so that not even the Close can be sent.
    let full = daemon.client_with(&claims("full", "full"));
    let text = "x".repeat(50_000);
    while daemon.admin("GET", "/v1/connections?subject=full", "")["connections"][0]["queued_bytes"].as_u64()
        < Some(100_000)
    {
        writer.publish("full", &text);
        writer.settle();
    }
    broken.stream().write_all(&frame(0xc1, b"broken")).unwrap();
    for subject in ["disconnected", "full"] {
        daemon.admin("POST", "/v1/disconnect", &json!({"subject": subject}).to_string());
    }
    for (client, code) in [(&mut broken, 1002_u16), (&mut disconnected, 4403), (&mut expired, 4401)] {
        // Raw bytes, because a library would answer. The server ends the connection after its Close.
        let mut bytes = Vec::new();
        client.stream().read_to_end(&mut bytes).unwrap();
        assert_eq!((bytes[0], &bytes[2..4]), (0x88, &code.to_be_bytes()[..]), "{bytes:?}");
    }
    daemon.wait_for_descriptors(before);
    daemon.wait_until("the connections are closed", |status| status["connections"] == 1);
    writer.settle();
    drop((broken, disconnected, expired, full));
}

/// Clients reset their connections at every stage: in the handshake, right after the 101, within a frame, and while
/// messages are being sent to them.
#[test]
fn fault_41_resets_at_every_stage_leave_no_connection() {
    let daemon = Daemon::start("max_connections = 1000\n");
    daemon.client(&["c"]).settle();
    daemon.wait_until("it has gone", |status| status["connections"] == 0);
    let before = daemon.descriptors();
    let reset = |stream: &std::net::TcpStream| {
        socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    };
    let mut writer = daemon.client_with(&json!({"write": ["c"]}));
    let token = sign(&json!({"read": ["c"], "write": ["c"]}));
    let request = upgrade(&token, "");
    for number in 0..300 {
        // The whole request, whose answer is being sent, and parts of it.
        let mut handshake = daemon.connect();
        let part = [request.len(), 0, 1, request.len() / 2, request.len() - 1][number % 5];
        handshake.write_all(&request.as_bytes()[..part]).unwrap();
        reset(&handshake);
        let mut client = daemon.try_client(&token).unwrap();
        match number % 3 {
            0 => client.stream().write_all(&frame(0x81, br#"{"channel":"c","data":"x"}"#)[..20]).unwrap(),
            1 => {
                for _ in 0..20 {
                    writer.publish("c", &"x".repeat(10_000));
                }
                client.socket.read().unwrap();
            }
            _ => {}
        }
        reset(client.stream());
    }
    writer.settle();
    drop(writer);
    let status = daemon.wait_until("all are gone", |status| status["connections"] == 0);
    assert_eq!(status["channels"], 0);
    assert_eq!(status["queued_bytes"], 0);
    daemon.wait_for_descriptors(before);
    for gauge in [
        "philote_connections",
        "philote_connections_pending",
        "philote_channels",
        "philote_queued_bytes",
        "philote_queue_messages_sum",
        "philote_panics_total",
    ] {
        assert_eq!(daemon.metric(gauge), 0, "{gauge}");
    }
    assert!(
        !daemon.log().contains("internal error") && !daemon.log().contains("panicked"),
        "{}",
        daemon.log()
    );
    daemon.client(&["c"]).settle();
}

#[test]
fn fault_42_binary_frames_are_handled_as_text() {
    let daemon = Daemon::start("");
    let (mut writer, mut reader) = (daemon.client(&["c"]), daemon.client(&["c"]));
    for data in ["binary", "\u{e9}\u{1f600}", ""] {
        let message = json!({"channel": "c", "data": data}).to_string();
        writer.socket.send(Message::binary(message.clone().into_bytes())).unwrap();
        let read = reader.socket.read().unwrap();
        assert!(
            matches!(&read, Message::Text(text) if text.contains(data)),
            "readers must get a text frame: {read:?}"
        );
        // Fragmented as well.
        let (one, two) = message.as_bytes().split_at(5);
        writer.stream().write_all(&[frame(0x02, one), frame(0x80, two)].concat()).unwrap();
        assert_eq!(reader.data(), data);
    }
    for bytes in [
        &b""[..],
        b"\0",
        b"\xff\xfe",
        b"\x92\xc4\x01c\xc4\x01x",
        b"{\"channel\":\"c\",\"data\":\"\xff\"}",
        b"{\"channel\":\"c\",\"data\":\"\xed\xa0\x80\"}",
        b"\xef\xbb\xbf{\"channel\":\"c\",\"data\":\"x\"}",
    ] {
        writer.socket.send(Message::binary(bytes.to_vec())).unwrap();
        let answer = writer.receive();
        assert_eq!(answer["error"], "bad_message", "{bytes:?}: {answer}");
    }
    writer.settle();
    reader.settle();
}
