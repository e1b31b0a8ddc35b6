//! An answer of HTTP whose body goes on: its head, and the lines of its body as they come.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::support::header;

/// The answer to one request.
pub struct Body<S: Read = TcpStream> {
    pub stream: BufReader<S>,
    pub head: String,
    pub chunked: bool,
    /// Bytes behind the last whole line.
    rest: Vec<u8>,
}

impl<S: Read + Write> Body<S> {
    /// Sends this request, and reads the head of the answer.
    pub fn of(mut stream: S, request: &str) -> Body<S> {
        stream.write_all(request.as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "no head: {head}");
        }
        let chunked = header(&head, "transfer-encoding") == Some("chunked");
        Body { stream, head, chunked, rest: Vec::new() }
    }

    /// The next line; `None` at the end of the body.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end_matches('\n').to_owned());
            }
            if !self.chunked {
                if self.stream.read_until(b'\n', &mut self.rest).unwrap() == 0 {
                    return None;
                }
                continue;
            }
            let mut size = String::new();
            self.stream.read_line(&mut size).unwrap();
            let size =
                usize::from_str_radix(size.trim(), 16).unwrap_or_else(|_| panic!("no chunk: {size:?}"));
            let mut chunk = vec![0; size + 2];
            self.stream.read_exact(&mut chunk).unwrap();
            assert!(chunk.ends_with(b"\r\n"));
            if size == 0 {
                assert!(self.rest.is_empty(), "a line is not complete");
                assert_eq!(self.stream.read(&mut [0]).unwrap(), 0, "the connection ends with the body");
                return None;
            }
            self.rest.extend_from_slice(&chunk[..size]);
        }
    }
}
