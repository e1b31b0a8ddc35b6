//! A client of philote.v1 that costs little: finished frames go out, and payloads come in without being parsed.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use philote::token::{Keys, NewToken, issue};
use serde_json::{Value, json};

/// What one read takes.
const READ_BYTES: usize = 1 << 18;

pub(super) struct Socket {
    stream: TcpStream,
    /// Bytes that were read and belong to no whole frame yet.
    rest: Vec<u8>,
}

impl Socket {
    /// Connects and shows a token for these channels; returns when it is accepted.
    pub(super) fn open(
        address: SocketAddr,
        secret: &str,
        read: &[String],
        write: &[String],
        since: &Value,
    ) -> Socket {
        let token = NewToken { read: read.to_vec(), write: Some(write.to_vec()), ..NewToken::default() };
        let token = issue(&token, &Keys::new([secret.as_bytes()])).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let request = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: philote.v1\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        let mut first = json!({"auth": token});
        if !since.is_null() {
            first["since"] = since.clone();
        }
        stream.write_all(&frame(first.to_string().as_bytes())).unwrap();
        let mut socket = Socket { stream, rest: Vec::new() };
        // Messages may follow at once, and must not be lost: only the answer is taken.
        let answer = socket.one();
        assert!(answer.starts_with(b"{\"access\""), "{}", String::from_utf8_lossy(&answer));
        socket
    }

    /// Another handle for the other direction. It has none of the bytes that this one has read.
    pub(super) fn try_clone(&self) -> Socket {
        Socket { stream: self.stream.try_clone().unwrap(), rest: Vec::new() }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Ends both directions, also for a thread that reads.
    pub(super) fn end(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// The payload of the next frame.
    fn one(&mut self) -> Vec<u8> {
        loop {
            if let Some((start, end)) = bounds(&self.rest) {
                let payload = self.rest[start..end].to_vec();
                self.rest.drain(..end);
                return payload;
            }
            assert!(self.fill(), "the server closed the connection");
        }
    }

    /// The payloads of the next frames; none after the end.
    pub(super) fn payloads(&mut self) -> Option<Vec<Vec<u8>>> {
        loop {
            let (mut payloads, mut at) = (Vec::new(), 0);
            while let Some((start, end)) = bounds(&self.rest[at..]) {
                assert!(
                    self.rest[at] & 0x0f != 8,
                    "closed: {}",
                    String::from_utf8_lossy(&self.rest[at + start..at + end])
                );
                payloads.push(self.rest[at + start..at + end].to_vec());
                at += end;
            }
            self.rest.drain(..at);
            if !payloads.is_empty() {
                return Some(payloads);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn fill(&mut self) -> bool {
        let mut bytes = vec![0; READ_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(count @ 1..) => {
                self.rest.extend_from_slice(&bytes[..count]);
                true
            }
            _ => false,
        }
    }
}

/// Where the payload of the first frame begins and ends, if it is whole. The server's frames are not masked.
fn bounds(bytes: &[u8]) -> Option<(usize, usize)> {
    let (start, length) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        length => (2, usize::from(length)),
    };
    (bytes.len() >= start + length).then_some((start, start + length))
}

/// A text frame of a client. A mask of zeros is valid.
pub(super) fn frame(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x81];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}
