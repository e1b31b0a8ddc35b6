//! Bytes that break the protocol, or stretch it.

use std::io::{Read, Write};
use std::time::Duration;

use crate::support::{Client, Daemon, frame};

fn close_after(daemon: &Daemon, bytes: &[u8]) -> u16 {
    let mut client = daemon.client(&["c"]);
    client.stream().write_all(bytes).unwrap();
    client.closed().0
}

#[test]
fn fault_32_33_39_broken_frames_close_with_a_code() {
    let daemon = Daemon::start("");
    let unmasked = [0x81, 0x02, b'h', b'i'];
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", unmasked.to_vec(), 1002),
        ("a reserved bit", frame(0xc1, b"x"), 1002),
        ("a reserved opcode", frame(0x83, b"x"), 1002),
        ("a reserved control opcode", frame(0x8b, b"x"), 1002),
        ("a fragmented ping", frame(0x09, b"x"), 1002),
        ("a long ping", frame(0x89, &[b'x'; 126]), 1002),
        ("a stray continuation", frame(0x80, b"x"), 1002),
        ("text inside text", [frame(0x01, b"x"), frame(0x81, b"y")].concat(), 1002),
        ("invalid UTF-8", frame(0x81, b"\xff"), 1007),
        ("a surrogate in UTF-8", frame(0x81, b"\xed\xa0\x80"), 1007),
        ("an overlong form", frame(0x81, b"\xc0\xaf"), 1007),
        ("UTF-8 that ends too early", [frame(0x01, b"\xc3"), frame(0x80, b"")].concat(), 1007),
        ("a close reason that is not UTF-8", frame(0x88, b"\x03\xe8\xff"), 1007),
        ("a close of one byte", frame(0x88, b"\x03"), 1002),
    ];
    for (name, bytes, code) in cases {
        assert_eq!(close_after(&daemon, &bytes), code, "{name}");
    }
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 5000] {
        assert_eq!(close_after(&daemon, &frame(0x88, &code.to_be_bytes())), 1002, "{code}");
    }
    for code in [1000_u16, 1001, 3000, 4999] {
        assert_eq!(close_after(&daemon, &frame(0x88, &code.to_be_bytes())), code, "its own code comes back");
    }
    daemon.wait_until("all places are free again", |status| status["connections"] == 0);
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
    let (_, before) = daemon.memory();
    let mut clients: Vec<Client> = (0..1000).map(|_| daemon.client(&[])).collect();
    for client in &mut clients {
        client.stream().write_all(&header(1 << 40)).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.closed().0, 1009);
    }
    let (_, after) = daemon.memory();
    assert!(after - before < 200 << 20, "address space grew by {} MiB", (after - before) >> 20);
}

#[test]
fn fault_36_fragments_are_bounded() {
    let daemon = Daemon::start("");
    let mut other = daemon.client(&["c"]);
    let tiny: Vec<u8> =
        std::iter::once(frame(0x01, b"{")).chain((0..65_536).map(|_| frame(0x00, b"x"))).flatten().collect();
    assert_eq!(close_after(&daemon, &tiny), 1008);
    let empty: Vec<u8> =
        std::iter::once(frame(0x01, b"")).chain((0..100_000).map(|_| frame(0x00, b""))).flatten().collect();
    let mut client = daemon.client(&["c"]);
    // The server may have ended it before all is sent.
    let _ = client.stream().write_all(&empty);
    assert_eq!(client.closed().0, 1008);
    // A message in as many pieces as are allowed is whole.
    let text = br#"{"channel":"c","data":"pieces"}"#;
    let mut pieces = frame(0x01, b"");
    text.iter().for_each(|byte| pieces.extend(frame(0x00, &[*byte])));
    pieces.extend(frame(0x80, b""));
    let mut writer = daemon.client(&["c"]);
    writer.stream().write_all(&pieces).unwrap();
    assert_eq!(other.data(), "pieces");
}

#[test]
fn fault_37_pings_without_reading_end_with_a_full_queue() {
    let daemon = Daemon::start("[limits]\nqueue_messages = 200\n");
    let mut client = daemon.client(&["c"]);
    let pings = frame(0x89, &[b'x'; 125]).repeat(1000);
    client.stream().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // Until the server reads no more, because it has ended the connection.
    while client.stream().write_all(&pings).is_ok() {
        if daemon.log().contains("too slow") {
            break;
        }
    }
    daemon.wait_for_line("too slow");
    let (resident, _) = daemon.memory();
    assert!(resident < 100 << 20, "{resident}");
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

#[test]
fn fault_40_a_close_that_is_never_answered() {
    let daemon = Daemon::start("");
    let mut client = daemon.client(&["c"]);
    client.stream().write_all(&frame(0xc1, b"broken")).unwrap();
    // The client keeps its side open and says nothing: the server's end comes at once, and its place is free in time.
    let mut bytes = Vec::new();
    client.stream().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes[..4], [0x88, bytes[1], 0x03, 0xea]);
    daemon.wait_until("the place is free", |status| status["connections"] == 0);
}

#[test]
fn fault_41_resets_leave_nothing() {
    let daemon = Daemon::start("max_connections = 1000\n");
    for number in 0..300 {
        let mut client = daemon.client(&["c"]);
        if number % 2 == 0 {
            client.stream().write_all(&frame(0x81, br#"{"channel":"c","data":"x"}"#)[..20]).unwrap();
        }
        socket2::SockRef::from(&*client.stream()).set_linger(Some(Duration::ZERO)).unwrap();
    }
    let status = daemon.wait_until("all are gone", |status| status["connections"] == 0);
    assert_eq!(status["channels"], 0);
    assert_eq!(status["queued_bytes"], 0);
    daemon.client(&["c"]).settle();
}
