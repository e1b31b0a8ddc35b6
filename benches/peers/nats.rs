//! nats-server's client protocol over WebSocket: lines, and messages with their length.

use philote::bench::{Dialect, Seat, client_frame};

const BINARY: u8 = 0x82;

#[derive(Clone, Copy)]
pub(super) struct Nats;

impl Dialect for Nats {
    fn headers(&self, _: &Seat) -> String {
        String::new()
    }

    fn greeting(&self, seat: &Seat) -> Option<Vec<u8>> {
        // Without echo, publishers do not receive their own messages.
        let mut lines = String::from("CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false}\r\n");
        if seat.reads {
            lines += &format!("SUB {} 1\r\n", seat.channel);
        }
        lines += "PING\r\n";
        let mut frame = Vec::new();
        client_frame(BINARY, &[lines.as_bytes()], &mut frame);
        Some(frame)
    }

    fn greeted(&self, _: &Seat, payload: &[u8]) -> bool {
        payload.ends_with(b"PONG\r\n")
    }

    fn publish(&self, seat: &Seat, data: &[u8], out: &mut Vec<u8>) {
        let line = format!("PUB {} {}\r\n", seat.channel, data.len());
        client_frame(BINARY, &[line.as_bytes(), data, b"\r\n"], out);
    }

    fn messages(&self, seat: &Seat, payload: &[u8], answer: &mut Vec<u8>, mut take: impl FnMut(&[u8])) {
        let mut rest = payload;
        while !rest.is_empty() {
            // MSG channel 1 length: 1 is the subscription's id.
            let fixed = b"MSG ".len() + seat.channel.len() + b" 1 ".len();
            if rest.starts_with(b"MSG ") && rest.len() > fixed {
                let digits = rest[fixed..].iter().take_while(|byte| byte.is_ascii_digit());
                let (count, length) = digits
                    .fold((0, 0), |(count, sum), digit| (count + 1, sum * 10 + usize::from(digit - b'0')));
                let start = fixed + count + 2;
                let Some(data) = rest.get(start..start + length) else { return };
                take(data);
                rest = rest.get(start + length + 2..).unwrap_or_default();
            } else {
                let end = rest.windows(2).position(|two| two == b"\r\n").map_or(rest.len(), |at| at + 2);
                if rest.starts_with(b"PING") {
                    client_frame(BINARY, &[b"PONG\r\n"], answer);
                }
                rest = &rest[end..];
            }
        }
    }
}
