//! permessage-deflate: negotiated, sent, received, and bounded.

use std::io::{Read, Write};
use std::net::TcpStream;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::{Value, json};

use crate::support::{Daemon, frame, header, sign, upgrade};

pub const ON: &str = "[websocket]\ncompression = \"64B\"\n";
pub const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The bit of a frame's first byte that marks a compressed message.
const RSV1: u8 = 0x40;

/// A client that sees the frames as they are on the wire.
pub struct Raw {
    stream: TcpStream,
    answer: String,
}

impl Raw {
    pub fn connect(daemon: &Daemon, claims: &Value, more: &str) -> Raw {
        Raw::request(daemon, &upgrade(&sign(claims), more))
    }

    fn request(daemon: &Daemon, request: &str) -> Raw {
        let mut stream = daemon.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        Raw { stream, answer: String::from_utf8(answer).unwrap() }
    }

    fn agreed(&self) -> Option<&str> {
        assert!(self.answer.starts_with("HTTP/1.1 101 "), "{}", self.answer);
        header(&self.answer, "sec-websocket-extensions")
    }

    /// Reads a frame; returns its first byte and its payload.
    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut start = [0; 2];
        self.stream.read_exact(&mut start).unwrap();
        let mut length = u64::from(start[1]);
        if length > 125 {
            let mut bytes = [0; 8];
            let from = if length == 126 { 6 } else { 0 };
            self.stream.read_exact(&mut bytes[from..]).unwrap();
            length = u64::from_be_bytes(bytes);
        }
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).unwrap();
        (start[0], payload)
    }

    /// Reads a message; returns whether it was compressed, and its text.
    fn message(&mut self) -> (bool, String) {
        loop {
            let (first, payload) = self.frame();
            match first {
                0x81 => return (false, String::from_utf8(payload).unwrap()),
                0xc1 => return (true, String::from_utf8(inflated(&payload)).unwrap()),
                0x89 | 0x8a => {}
                _ => panic!("a frame with the first byte {first:#x}: {}", String::from_utf8_lossy(&payload)),
            }
        }
    }

    /// Reads to the Close, and returns the last message, with its code.
    pub fn last_message(&mut self) -> (Value, u16) {
        let mut last = Value::Null;
        loop {
            let (first, payload) = self.frame();
            last = match first {
                0x81 => serde_json::from_slice(&payload).unwrap(),
                0xc1 => serde_json::from_slice(&inflated(&payload)).unwrap(),
                0x88 => return (last, u16::from_be_bytes([payload[0], payload[1]])),
                _ => last,
            };
        }
    }

    /// Reads to the Close, and returns its code.
    fn closed(&mut self) -> u16 {
        loop {
            let (first, payload) = self.frame();
            if first == 0x88 {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }
}

fn deflated(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    let mut out = Vec::with_capacity(2 * text.len() + 100);
    let mut compressor = Compress::new(Compression::best(), false);
    compressor.compress_vec(text, &mut out, FlushCompress::Sync).unwrap();
    out.truncate(out.len() - 4);
    out
}

fn inflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    let payload = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut decoder = Decompress::new(false);
    decoder.decompress_vec(&payload, &mut out, FlushDecompress::Sync).unwrap();
    assert_eq!(decoder.total_in(), payload.len() as u64);
    out
}

fn everything() -> Value {
    json!({"read": ["c"], "write": ["c"], "sub": "s"})
}

fn publish(data: &str) -> String {
    json!({"channel": "c", "data": data}).to_string()
}

#[test]
fn it_is_negotiated_in_every_way_to_an_answer() {
    let on = Daemon::start(ON);
    let token = sign(&everything());
    // hyper answers a request with this header.
    let by_hyper = format!("{OFFER}Content-Length: 0\r\n");
    let v1 = format!("{OFFER}Sec-WebSocket-Protocol: philote.v1\r\n");
    // An offer that is declined, and then one that asks for a window.
    let second_offer = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=7, x-other; a=\"b\"\r\n\
                        Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=\"10\"\r\n";
    let window = format!("{AGREED}; server_max_window_bits=10");
    for (more, expected) in [
        (OFFER, Some(AGREED)),
        (&v1, Some(AGREED)),
        (&by_hyper, Some(AGREED)),
        (second_offer, Some(&window[..])),
        (&format!("{second_offer}Content-Length: 0\r\n"), Some(&window)),
        ("", None),
        ("Sec-WebSocket-Extensions: x-other, y\r\n", None),
    ] {
        assert_eq!(Raw::request(&on, &upgrade(&token, more)).agreed(), expected, "{more}");
    }
    let off = Daemon::start("");
    for more in [OFFER, &by_hyper, &v1] {
        assert_eq!(Raw::request(&off, &upgrade(&token, more)).agreed(), None);
    }
    let mut client = Raw::connect(&off, &everything(), OFFER);
    client.stream.write_all(&frame(0x81 | RSV1, &deflated(publish("x")))).unwrap();
    assert_eq!(client.closed(), 1002);
}

#[test]
fn all_readers_get_the_same_messages_compressed_once() {
    let daemon = Daemon::start(ON);
    let claims = everything();
    let mut plain = Raw::connect(&daemon, &claims, "");
    let mut readers: Vec<Raw> = (0..3).map(|_| Raw::connect(&daemon, &claims, OFFER)).collect();
    let small = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n";
    let mut small = Raw::connect(&daemon, &claims, small);
    let mut publisher = Raw::connect(&daemon, &claims, OFFER);
    let texts: Vec<String> = [1, 5, 20, 60, 400, 3000]
        .iter()
        .map(|count| format!("{count} {}", "schön \"und\" ".repeat(*count)))
        .collect();
    for (number, text) in texts.iter().enumerate() {
        let message = publish(text);
        let bytes = match number % 3 {
            0 => frame(0x81, message.as_bytes()),
            1 => frame(0x81 | RSV1, &deflated(&message)),
            _ => {
                let payload = deflated(&message);
                let (one, two) = payload.split_at(payload.len() / 2);
                [frame(0x01 | RSV1, one), frame(0x89, b"ping"), frame(0x80, two)].concat()
            }
        };
        publisher.stream.write_all(&bytes).unwrap();
    }
    for (number, text) in texts.iter().enumerate() {
        let (_, expected) = plain.message();
        assert_eq!(serde_json::from_str::<Value>(&expected).unwrap()["data"], **text);
        for reader in &mut readers {
            let (is_compressed, text) = reader.message();
            assert_eq!(text, expected);
            assert!(is_compressed || number < 2, "{text}");
        }
        let (is_compressed, text) = small.message();
        assert_eq!((is_compressed && expected.len() > 512, text), (false, expected));
    }
    let figures = daemon.admin("GET", "/v1/status", "")["compression"].clone();
    let compressed = figures["messages"].as_u64().unwrap();
    assert!((4..=6).contains(&compressed), "each once, for all readers: {figures}");
    assert!(figures["bytes_after"].as_u64().unwrap() * 10 < figures["bytes_before"].as_u64().unwrap());
    assert_eq!(daemon.metric("philote_messages_compressed_total"), compressed);
    assert_eq!(daemon.metric("philote_compression_input_bytes_total"), figures["bytes_before"]);
    assert_eq!(daemon.metric("philote_compression_output_bytes_total"), figures["bytes_after"]);
    let rows = daemon.admin("GET", "/v1/connections", "");
    let compresses = rows["connections"].as_array().unwrap().iter().filter(|row| row["compression"] == true);
    assert_eq!((compresses.count(), rows["matched"].as_u64()), (5, Some(6)));
}

#[test]
fn a_token_may_come_compressed_in_the_first_frame() {
    let daemon = Daemon::start(ON);
    let request = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: philote.v1\r\n";
    let auth = json!({"auth": sign(&everything())}).to_string();
    let mut client = Raw::request(&daemon, &format!("{request}{OFFER}\r\n"));
    assert_eq!(client.agreed(), Some(AGREED));
    client.stream.write_all(&frame(0x81 | RSV1, &deflated(&auth))).unwrap();
    let (is_compressed, access) = client.message();
    assert!(!is_compressed && access.contains("\"access\""), "replies are not compressed: {access}");
    client
        .stream
        .write_all(&frame(0x81 | RSV1, &deflated(r#"{"channel":"c","data":"x","ack":"1"}"#)))
        .unwrap();
    assert_eq!(client.message().1, r#"{"ack":"1","readers":0}"#);
    // A stranger's bomb.
    let mut stranger = Raw::request(&daemon, &format!("{request}{OFFER}\r\n"));
    stranger.stream.write_all(&frame(0x81 | RSV1, &deflated(vec![b' '; 10_000_000]))).unwrap();
    assert_eq!(stranger.closed(), 1009);
}

#[test]
fn a_bomb_is_1009_and_takes_no_memory() {
    let daemon = Daemon::start(&format!("{ON}max_message_size = \"64KiB\"\n"));
    let bomb = frame(0x81 | RSV1, &deflated(vec![b'x'; 60_000_000]));
    assert!(bomb.len() < 64 * 1024, "it is within the limit as it arrives: {}", bomb.len());
    let mut clients: Vec<Raw> = (0..20).map(|_| Raw::connect(&daemon, &everything(), OFFER)).collect();
    let (before, _) = daemon.memory();
    daemon.forget_peak();
    for (number, client) in clients.iter_mut().enumerate() {
        // Whole, and in two parts, which take different ways.
        let (one, two) = bomb.split_at(if number % 2 == 0 { 0 } else { bomb.len() / 2 });
        client.stream.write_all(one).unwrap();
        client.stream.write_all(two).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.closed(), 1009);
    }
    let peak = daemon.peak().saturating_sub(before);
    assert!(peak < 20_000_000, "{peak} bytes for bombs of 60 MB each");
    let mut other = Raw::connect(&daemon, &everything(), OFFER);
    other.stream.write_all(&frame(0x81 | RSV1, &deflated(" ".repeat(70_000)))).unwrap();
    assert_eq!(other.closed(), 1009, "the limit is that of the message");
}

/// A read is at most 64 KiB, so that readers are written before their queues are long. Decompressed, it would be more.
#[test]
fn short_frames_of_long_messages_do_not_fill_the_queues_of_readers() {
    let daemon = Daemon::start(ON);
    let mut reader = Raw::connect(&daemon, &json!({"read": ["c"]}), "");
    let mut publisher = Raw::connect(&daemon, &json!({"write": ["c"]}), OFFER);
    let long = frame(0xc1, &deflated(publish(&"x".repeat(60_000))));
    publisher.stream.write_all(&long.repeat(20)).unwrap();
    for _ in 0..20 {
        assert!(reader.message().1.len() > 60_000);
    }
    let rows = daemon.admin("GET", "/v1/connections?channel=c&sort=greatest_queue", "");
    let most = rows["connections"][0]["greatest_queue"].as_u64().unwrap();
    assert!((1..20).contains(&most), "{most} messages were queued at once");
}

#[test]
fn what_cannot_be_decompressed_closes_with_a_code() {
    let daemon = Daemon::start(ON);
    let text = deflated(publish("x"));
    for (what, bytes, code) in [
        ("plain text that is said to be compressed", frame(0xc1, publish("x").as_bytes()), 1007),
        ("cut short", frame(0xc1, &text[..text.len() / 2]), 1007),
        ("bytes after the end", frame(0xc1, &[&text[..], b"more"].concat()), 1007),
        ("a text that is not UTF-8", frame(0xc1, &deflated(b"\xff\xff")), 1007),
        ("a compressed ping", frame(0xc9, &text[..4]), 1002),
        ("a compressed close", frame(0xc8, b"\x03\xe8"), 1002),
        ("a compressed continuation", [frame(0x41, &text), frame(0xc0, b"")].concat(), 1002),
        ("a compressed continuation of plain text", [frame(0x01, b"x"), frame(0xc0, b"")].concat(), 1002),
        ("compressed inside a message", [frame(0x01, b"x"), frame(0xc1, &text)].concat(), 1002),
        ("another reserved bit", frame(0xe1, &text), 1002),
    ] {
        let mut client = Raw::connect(&daemon, &everything(), OFFER);
        client.stream.write_all(&bytes).unwrap();
        assert_eq!(client.closed(), code, "{what}");
    }
    // Valid, if unusual: a final block, an empty message, empty fragments.
    let mut reader = Raw::connect(&daemon, &everything(), "");
    let mut client = Raw::connect(&daemon, &everything(), OFFER);
    let mut last = Vec::with_capacity(1000);
    let mut compressor = Compress::new(Compression::best(), false);
    compressor.compress_vec(publish("final").as_bytes(), &mut last, FlushCompress::Finish).unwrap();
    let fragments = [frame(0x41, b""), frame(0x00, &text), frame(0x80, b"")].concat();
    let stream =
        [frame(0xc1, &[0]), frame(0xc1, b""), frame(0xc1, &[&last[..], &[0]].concat()), fragments].concat();
    client.stream.write_all(&stream).unwrap();
    for data in ["final", "x"] {
        assert_eq!(serde_json::from_str::<Value>(&reader.message().1).unwrap()["data"], data);
    }
    for _ in 0..2 {
        assert!(client.message().1.contains("bad_message"), "an empty message is no JSON");
    }
}

#[test]
fn a_reload_holds_for_new_connections() {
    let daemon = Daemon::start(ON);
    let reload = |config: &str| {
        crate::support::config_file(daemon.directory.path(), config);
        let report = daemon.admin("POST", "/v1/reload", "");
        assert_eq!(report["applied"], json!(["websocket.compression"]), "{report}");
    };
    let long = "word ".repeat(100);
    let mut old = Raw::connect(&daemon, &everything(), OFFER);
    let mut publisher = Raw::connect(&daemon, &json!({"write": ["c"]}), "");
    let mut publish_once = |reader: &mut Raw| {
        publisher.stream.write_all(&frame(0x81, publish(&long).as_bytes())).unwrap();
        reader.message().0
    };
    assert!(publish_once(&mut old));
    reload("[websocket]\ncompression = \"off\"\n");
    assert_eq!(Raw::connect(&daemon, &everything(), OFFER).agreed(), None);
    assert!(!publish_once(&mut old), "nothing is compressed any more");
    old.stream.write_all(&frame(0xc1, &deflated("{}"))).unwrap();
    assert!(old.message().1.contains("bad_message"), "what was negotiated is still read");
    assert_eq!(daemon.admin("GET", "/v1/status", "")["compression"], Value::Null);
    reload("[websocket]\ncompression = \"4KiB\"\n");
    assert_eq!(Raw::connect(&daemon, &everything(), OFFER).agreed(), Some(AGREED));
    assert!(!publish_once(&mut old), "it is shorter than that");
}
