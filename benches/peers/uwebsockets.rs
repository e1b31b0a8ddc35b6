//! The server of `uwebsockets.cpp`: the readers get frames of as many bytes as those of Philote.

use philote::bench::{Dialect, Philote, Seat, TEXT, client_frame};

/// The length of the issuer in a delivery of Philote.
const ISSUER: &[u8] = &[b'0'; 36];

#[derive(Clone, Copy)]
pub(super) struct Uwebsockets;

impl Dialect for Uwebsockets {
    fn headers(&self, seat: &Seat) -> String {
        format!("Channel: {}\r\nReads: {}\r\n", seat.channel, u8::from(seat.reads))
    }

    // The server passes a frame on as it is, so the publisher sends what a reader of Philote would get.
    fn publish(&self, seat: &Seat, data: &[u8], out: &mut Vec<u8>) {
        let channel = seat.channel.as_bytes();
        let parts: [&[u8]; 7] =
            [b"{\"issuer\":\"", ISSUER, b"\",\"channel\":\"", channel, b"\",\"data\":\"", data, b"\"}"];
        client_frame(TEXT, &parts, out);
    }

    fn messages(&self, seat: &Seat, payload: &[u8], answer: &mut Vec<u8>, take: impl FnMut(&[u8])) {
        Philote.messages(seat, payload, answer, take);
    }
}
