//! Makes events of the frames that other readers get: `access`, a message, a comment in place of a ping, and `close`.

use std::io::Write;
use std::ops::RangeInclusive;

use super::cursor::{CLOSED, Change, Cursor};
use crate::frame::{self, Part};

/// The range of the random time in milliseconds after which a browser returns whose stream has ended: not all at once, and
/// the next attempt soon.
const RETURN: RangeInclusive<u64> = 1_000..=5_000;

/// The same if the server is full, stops, or is asked too often.
const RETURN_LATER: RangeInclusive<u64> = 5_000..=10_000;

/// How a stream marks the end of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By chunks (RFC 9112 section 7.1).
    Chunked,
    /// By the end of the connection, for HTTP/1.0.
    UntilEnd,
}

/// The digits of the length of a chunk. It is written before the length is known, so the number of digits is fixed.
const CHUNK_DIGITS: usize = 8;

/// Makes events of frames, and knows the position of the stream behind them.
#[derive(Debug)]
pub(super) struct Encoder {
    framing: Framing,
    cursor: Cursor,
    /// Decides about random times: a part of the connection's id.
    random: u64,
}

impl Encoder {
    /// Makes an encoder; `random` is different for each stream.
    pub(super) fn new(framing: Framing, random: u64) -> Encoder {
        Encoder { framing, cursor: Cursor::default(), random }
    }

    /// Appends the event of a frame. Returns how it changed the position.
    pub(super) fn append(&mut self, frame: &Part<'_>, out: &mut Vec<u8>) -> Option<Change> {
        let start = out.len();
        let chunked = self.framing == Framing::Chunked;
        if chunked {
            out.extend_from_slice(&[b'0'; CHUNK_DIGITS]);
            out.extend_from_slice(b"\r\n");
        }
        let begin = out.len();
        let change = match frame.first {
            frame::CLOSE => {
                self.append_close(frame.payload, out);
                None
            }
            frame::TEXT => self.append_text(frame.payload, out),
            // A ping: a comment, which keeps proxies from ending the stream.
            _ => {
                out.extend_from_slice(b":\n\n");
                None
            }
        };
        if chunked {
            let length = out.len() - begin;
            // A slice of this length always has room.
            let _ = write!(&mut out[start..start + CHUNK_DIGITS], "{length:0width$x}", width = CHUNK_DIGITS);
            out.extend_from_slice(b"\r\n");
            if frame.first == frame::CLOSE {
                out.extend_from_slice(b"0\r\n\r\n");
            }
        }
        change
    }

    /// Undoes a change, because its event was not sent. The last one must be undone first.
    pub(super) fn undo(&mut self, change: Change) {
        self.cursor.undo(change);
    }

    fn append_text(&mut self, text: &[u8], out: &mut Vec<u8>) -> Option<Change> {
        let mut change = None;
        if text.starts_with(b"{\"access\":") {
            self.cursor = Cursor::of_access(text);
            self.append_retry(RETURN, out);
            out.extend_from_slice(b"event: access\n");
        } else {
            change = self.cursor.advance(text);
        }
        // The server writes JSON without line breaks.
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(text);
        if !self.cursor.is_empty() {
            // Writing to a Vec can't fail.
            let _ = write!(out, "\nid: {}", self.cursor);
        }
        out.extend_from_slice(b"\n\n");
        change
    }

    fn append_close(&self, payload: &[u8], out: &mut Vec<u8>) {
        let (code, reason) = payload
            .split_first_chunk()
            .map_or((1005, &[][..]), |(code, reason)| (u16::from_be_bytes(*code), reason));
        match code {
            1013 | 4429 => self.append_retry(RETURN_LATER, out),
            // It must not come back.
            4403 => {
                // Writing to a Vec can't fail.
                let _ = writeln!(out, "id: {CLOSED}");
            }
            _ => {}
        }
        let close = serde_json::json!({"code": code, "reason": String::from_utf8_lossy(reason)});
        // Writing to a Vec can't fail.
        let _ = write!(out, "event: close\ndata: {close}\n\n");
    }

    fn append_retry(&self, range: RangeInclusive<u64>, out: &mut Vec<u8>) {
        let retry = range.start() + self.random % (range.end() - range.start() + 1);
        // Writing to a Vec can't fail.
        let _ = writeln!(out, "retry: {retry}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::CloseReason;
    use crate::frame::Frame;

    fn event(encoder: &mut Encoder, frame: &Frame) -> String {
        let mut out = Vec::new();
        let (part, rest) = frame::split(frame).unwrap();
        assert!(rest.is_empty());
        encoder.append(&part, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn text(text: &str) -> Frame {
        Frame::echo(text.as_bytes(), false, None)
    }

    #[test]
    fn each_frame_becomes_one_event() {
        let mut encoder = Encoder::new(Framing::UntilEnd, 7);
        let access = r#"{"access":{"read":["chat"],"ids":{"chat":"ab-1"}}}"#;
        let expected = format!("retry: 1007\nevent: access\ndata: {access}\nid: chat=ab-1\n\n");
        assert_eq!(event(&mut encoder, &text(access)), expected);
        let message =
            r#"{"issuer":"00000000-0000-0000-0000-000000000000","channel":"chat","data":"x","id":"ab-2"}"#;
        assert_eq!(event(&mut encoder, &text(message)), format!("data: {message}\nid: chat=ab-2\n\n"));
        assert_eq!(event(&mut encoder, &Frame::ping()), ":\n\n");
        let close = event(&mut encoder, &Frame::close(&CloseReason::Restarting));
        let sentence = CloseReason::Restarting.sentence();
        assert_eq!(close, format!("event: close\ndata: {{\"code\":1012,\"reason\":\"{sentence}\"}}\n\n"));
    }

    #[test]
    fn without_a_history_events_have_no_id() {
        let mut encoder = Encoder::new(Framing::UntilEnd, 0);
        assert!(!event(&mut encoder, &text(r#"{"access":{"read":["chat"]}}"#)).contains("\nid:"));
        let message = r#"{"issuer":"00000000-0000-0000-0000-000000000000","channel":"chat","data":"x"}"#;
        assert_eq!(event(&mut encoder, &text(message)), format!("data: {message}\n\n"));
    }

    #[test]
    fn a_client_that_must_not_come_back_is_told_by_its_last_id() {
        let mut encoder = Encoder::new(Framing::UntilEnd, 3);
        for reason in CloseReason::all() {
            let close = event(&mut encoder, &Frame::close(&reason));
            assert_eq!(close.contains("id: closed\n"), reason.code() == 4403, "{close}");
            assert_eq!(close.contains("retry: 5003\n"), matches!(reason.code(), 1013 | 4429), "{close}");
        }
    }

    #[test]
    fn a_chunk_has_its_length_and_a_close_ends_the_body() {
        let mut encoder = Encoder::new(Framing::Chunked, 0);
        assert_eq!(event(&mut encoder, &Frame::ping()), "00000003\r\n:\n\n\r\n");
        for text in [
            event(&mut encoder, &text(&"x".repeat(70_000))),
            event(&mut encoder, &Frame::close(&CloseReason::Stopping)),
        ] {
            let (length, rest) = text.split_once("\r\n").unwrap();
            let (event, end) = rest.split_at(usize::from_str_radix(length, 16).unwrap());
            assert!(event.ends_with("\n\n"));
            assert_eq!(end, if event.contains("close") { "\r\n0\r\n\r\n" } else { "\r\n" });
        }
    }
}
