//! A client of Server-Sent Events: its request, and the events that it reads.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::{Value, json};

use crate::body::Body;
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
    pub body: Body<S>,
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
    pub fn on(stream: S, request: &str) -> Events<S> {
        Events { body: Body::of(stream, request), comments: 0 }
    }

    /// The next event; `None` at the end of the body.
    pub fn try_next(&mut self) -> Option<Event> {
        let deadline = Instant::now() + PATIENCE;
        let mut event = Event::default();
        loop {
            assert!(Instant::now() < deadline, "only comments arrived");
            let line = self.body.line()?;
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
        assert_eq!(status(&self.body.head), 200, "{}", self.body.head);
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
