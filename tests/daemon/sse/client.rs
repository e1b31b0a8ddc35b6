//! A client of Server-Sent Events: its request, and the events that it reads.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::*;

/// An event.
#[derive(Debug, Default)]
pub struct Event {
    pub event: Option<String>,
    pub id: Option<String>,
    pub retry: Option<u64>,
    pub text: String,
}

impl Event {
    pub fn data(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{self:?}"))
    }
}

/// An open stream of events.
pub struct Events<S: Read = TcpStream> {
    pub stream: BufReader<S>,
    pub head: String,
    pub chunked: bool,
    /// Bytes behind the last whole line.
    pub rest: Vec<u8>,
    /// The comments that came.
    pub comments: usize,
}

pub fn request(query: &str, token: &str, more: &str) -> String {
    format!(
        "GET /any/path?{query} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
    )
}

impl Events {
    pub fn open(daemon: &Daemon, query: &str, claims: &Value, more: &str) -> Events {
        Events::on(daemon.connect(), &request(query, &sign(claims), more))
    }

    /// A reader of these channels.
    pub fn of(daemon: &Daemon, channels: &[&str]) -> Events {
        Events::open(daemon, "", &json!({"read": channels}), "")
    }
}

impl<S: Read + Write> Events<S> {
    /// Sends these bytes, and reads the head of the answer.
    pub fn on(mut stream: S, request: &str) -> Events<S> {
        stream.write_all(request.as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "no head: {head}");
        }
        let chunked = header(&head, "transfer-encoding") == Some("chunked");
        Events { stream, head, chunked, rest: Vec::new(), comments: 0 }
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

    /// The next event; `None` at the end of the body.
    pub fn try_next(&mut self) -> Option<Event> {
        let deadline = Instant::now() + PATIENCE;
        let mut event = Event::default();
        loop {
            assert!(Instant::now() < deadline, "only comments arrived");
            let line = self.line()?;
            match line.split_once(':') {
                Some(("", _)) => self.comments += 1,
                Some((field, value)) => {
                    let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
                    match field {
                        "event" => event.event = Some(value),
                        "id" => event.id = Some(value),
                        "retry" => event.retry = Some(value.parse().unwrap()),
                        "data" => event.text = value,
                        _ => panic!("{line}"),
                    }
                }
                None if line.is_empty() && event.text.is_empty() => event = Event::default(),
                None if line.is_empty() => return Some(event),
                None => panic!("{line}"),
            }
        }
    }

    pub fn next(&mut self) -> Event {
        self.try_next().expect("the stream has ended")
    }

    /// The first event, which tells what the token allows.
    pub fn access(&mut self) -> Value {
        assert_eq!(status(&self.head), 200, "{}", self.head);
        let first = self.next();
        assert_eq!(first.event.as_deref(), Some("access"));
        assert!((1000..=5000).contains(&first.retry.unwrap()), "{first:?}");
        first.data()["access"].clone()
    }

    /// Reads to the end; returns the close event, and the data of the messages before it.
    pub fn closed(mut self) -> (Event, Vec<Value>) {
        let mut messages = Vec::new();
        loop {
            let event = self.next();
            if event.event.as_deref() == Some("close") {
                assert!(self.try_next().is_none(), "nothing comes after the close");
                return (event, messages);
            }
            messages.push(event.data());
        }
    }

    pub fn code(self) -> u64 {
        self.closed().0.data()["code"].as_u64().unwrap()
    }
}
