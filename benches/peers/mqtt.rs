//! MQTT 5 over WebSocket at QoS 0. Since version 5 subscribers can refuse copies of their own messages.

use philote::bench::{Dialect, Seat, client_frame};

const BINARY: u8 = 0x82;
/// First bytes of packets: their types, with the flags that the standard requires.
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
/// Subscription options: QoS 0, no copies of the subscriber's own messages.
const NO_LOCAL: u8 = 0x04;

#[derive(Clone, Copy)]
pub(super) struct Mqtt;

impl Dialect for Mqtt {
    fn headers(&self, _: &Seat) -> String {
        "Sec-WebSocket-Protocol: mqtt\r\n".to_owned()
    }

    fn greeting(&self, seat: &Seat) -> Option<Vec<u8>> {
        let mut frames = Vec::new();
        // Version 5, a clean start, no keep-alive, no properties; the server chooses the client's id.
        packet(CONNECT, &[b"\0\x04MQTT\x05\x02\0\0", b"\0", b"\0\0"], &mut frames);
        if seat.reads {
            let name = (seat.channel.len() as u16).to_be_bytes();
            packet(SUBSCRIBE, &[b"\0\x01\0", &name, seat.channel.as_bytes(), &[NO_LOCAL]], &mut frames);
        }
        Some(frames)
    }

    fn greeted(&self, seat: &Seat, payload: &[u8]) -> bool {
        let last = if seat.reads { SUBACK } else { CONNACK };
        let mut found = false;
        packets(payload, |kind, _| found |= kind == last);
        found
    }

    fn publish(&self, seat: &Seat, data: &[u8], out: &mut Vec<u8>) {
        let name = (seat.channel.len() as u16).to_be_bytes();
        packet(PUBLISH, &[&name, seat.channel.as_bytes(), b"\0", data], out);
    }

    fn messages(&self, seat: &Seat, payload: &[u8], _: &mut Vec<u8>, mut take: impl FnMut(&[u8])) {
        packets(payload, |kind, body| {
            // Skips the topic with its length, and the length of the properties, which is 0.
            if let Some(data) = body.get(2 + seat.channel.len() + 1..)
                && kind == PUBLISH
            {
                take(data);
            }
        });
    }
}

/// Appends a WebSocket frame with one packet.
fn packet(kind: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let mut left = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut header = vec![kind];
    loop {
        let more = if left > 127 { 0x80 } else { 0 };
        header.push((left & 0x7f) as u8 | more);
        left >>= 7;
        if more == 0 {
            break;
        }
    }
    let all: Vec<&[u8]> = std::iter::once(&header[..]).chain(parts.iter().copied()).collect();
    client_frame(BINARY, &all, out);
}

/// Calls `show` with the first byte and the body of each complete packet in a frame.
fn packets(mut rest: &[u8], mut show: impl FnMut(u8, &[u8])) {
    while let [kind, after @ ..] = rest {
        let (mut length, mut digits) = (0, 0);
        loop {
            let Some(digit) = after.get(digits) else { return };
            length |= usize::from(digit & 0x7f) << (7 * digits);
            digits += 1;
            if digit & 0x80 == 0 {
                break;
            }
        }
        let Some(body) = after.get(digits..digits + length) else { return };
        show(*kind, body);
        rest = &after[digits + length..];
    }
}
