//! A finished WebSocket frame, encoded once and shared by all who receive it.

use std::ops::Deref;
use std::sync::Arc;

use tokio_tungstenite::tungstenite::Message;

use crate::close::CloseReason;

/// The longest header of a server's frame: two bytes and a 64-bit length (RFC 6455 section 5.2; servers do not mask).
pub(crate) const MAX_HEADER: usize = 10;

/// The most that a control frame may carry (RFC 6455 section 5.5).
const MAX_CONTROL_PAYLOAD: usize = 125;

/// First bytes of final frames: FIN and the opcode (RFC 6455 section 5.2).
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

/// The bytes of one or more finished frames. Cloning shares them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Arc<[u8]>);

impl Frame {
    /// A text frame around what `scratch` holds from [`MAX_HEADER`] on.
    ///
    /// The header is written into the room before the payload, so that the frame costs one allocation and one copy.
    pub(crate) fn text(scratch: &mut [u8]) -> Frame {
        let length = scratch.len().saturating_sub(MAX_HEADER);
        let start = match length {
            0..=125 => {
                scratch[MAX_HEADER - 1] = length as u8;
                MAX_HEADER - 2
            }
            126..=0xffff => {
                scratch[MAX_HEADER - 2..MAX_HEADER].copy_from_slice(&(length as u16).to_be_bytes());
                scratch[MAX_HEADER - 3] = 126;
                MAX_HEADER - 4
            }
            _ => {
                scratch[MAX_HEADER - 8..MAX_HEADER].copy_from_slice(&(length as u64).to_be_bytes());
                scratch[MAX_HEADER - 9] = 127;
                MAX_HEADER - 10
            }
        };
        scratch[start] = TEXT;
        Frame(Arc::from(&scratch[start..]))
    }

    /// The Close frame of a reason: its code and its sentence.
    pub fn close(reason: &CloseReason) -> Frame {
        let mut payload = reason.code().to_be_bytes().to_vec();
        payload.extend_from_slice(reason.sentence().as_bytes());
        Frame::control(CLOSE, &payload)
    }

    /// A ping without payload: what comes back is a sign of life whatever it carries.
    pub fn ping() -> Frame {
        Frame::control(PING, &[])
    }

    /// A client's message as the server would send it.
    pub(crate) fn of(message: &Message) -> Frame {
        let mut scratch = vec![0; MAX_HEADER];
        scratch.extend_from_slice(&message.clone().into_data());
        let Frame(bytes) = Frame::text(&mut scratch);
        let mut bytes = bytes.to_vec();
        if message.is_binary() {
            bytes[0] = BINARY;
        }
        Frame(Arc::from(bytes))
    }

    /// Bytes that are a finished frame already.
    pub(crate) fn finished(bytes: &[u8]) -> Frame {
        Frame(Arc::from(bytes))
    }

    fn control(first: u8, payload: &[u8]) -> Frame {
        let payload = &payload[..payload.len().min(MAX_CONTROL_PAYLOAD)];
        let mut bytes = Vec::with_capacity(2 + payload.len());
        bytes.extend_from_slice(&[first, payload.len() as u8]);
        bytes.extend_from_slice(payload);
        Frame(Arc::from(bytes))
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(payload: &str) -> Frame {
        let mut scratch = vec![0; MAX_HEADER];
        scratch.extend_from_slice(payload.as_bytes());
        Frame::text(&mut scratch)
    }

    #[test]
    fn the_length_takes_the_shortest_form() {
        for (length, header) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 0xff, 0xff]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let frame = text(&"x".repeat(length));
            assert_eq!(frame[..header.len()], header, "{length}");
            assert_eq!(frame.len(), header.len() + length);
        }
    }

    #[test]
    fn every_close_reason_fits_a_control_frame() {
        for reason in CloseReason::all() {
            assert!(reason.sentence().len() + 2 <= MAX_CONTROL_PAYLOAD, "{reason:?}");
            let frame = Frame::close(&reason);
            assert_eq!(frame[2..4], reason.code().to_be_bytes());
        }
    }
}
