//! A plain NATS client: the protocol as text, so that tests can send what philote never would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::PATIENCE;

pub struct NatsClient {
    reader: BufReader<TcpStream>,
    /// The number of the newest subscription.
    subscriptions: u64,
}

/// A message as it arrives.
#[derive(Debug)]
pub struct NatsMessage {
    pub subject: String,
    pub payload: Vec<u8>,
}

impl NatsClient {
    pub fn connect(address: SocketAddr) -> NatsClient {
        NatsClient::try_connect(address).unwrap_or_else(|| panic!("no NATS server answers at {address}"))
    }

    pub fn try_connect(address: SocketAddr) -> Option<NatsClient> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = NatsClient { reader: BufReader::new(stream), subscriptions: 0 };
        client.line().filter(|line| line.starts_with("INFO "))?;
        client.write(
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\n",
        );
        client.flush();
        Some(client)
    }

    pub fn publish(&mut self, subject: &str, payload: &[u8]) {
        self.publish_with_reply(subject, "", payload);
    }

    pub fn publish_with_reply(&mut self, subject: &str, reply: &str, payload: &[u8]) {
        let mut bytes = format!("PUB {subject} {reply} {}\r\n", payload.len()).into_bytes();
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        self.write(&bytes);
    }

    pub fn subscribe(&mut self, subject: &str) {
        self.subscriptions += 1;
        let line = format!("SUB {subject} {}\r\n", self.subscriptions);
        self.write(line.as_bytes());
        self.flush();
    }

    /// Returns when the server has handled everything sent before. Messages that arrive meanwhile are dropped.
    pub fn flush(&mut self) {
        self.write(b"PING\r\n");
        while self.line().unwrap_or_else(|| panic!("the NATS server closed the connection")) != "PONG" {}
    }

    /// The next message of any subscription.
    pub fn next(&mut self) -> NatsMessage {
        self.try_next().unwrap_or_else(|| panic!("the NATS server closed the connection"))
    }

    /// The same; none if the connection ends.
    pub fn try_next(&mut self) -> Option<NatsMessage> {
        loop {
            let line = self.line()?;
            let words: Vec<&str> = line.split(' ').collect();
            // MSG SUBJECT SID [REPLY] SIZE, and HMSG SUBJECT SID [REPLY] HEADER-SIZE SIZE.
            let headers = match words[0] {
                "MSG" => 0,
                "HMSG" => words[words.len() - 2].parse().unwrap(),
                "PING" => {
                    self.write(b"PONG\r\n");
                    continue;
                }
                _ => continue,
            };
            let size: usize = words[words.len() - 1].parse().unwrap();
            let mut payload = vec![0; size + 2];
            self.reader.read_exact(&mut payload).unwrap();
            payload.truncate(size);
            return Some(NatsMessage { subject: words[1].to_owned(), payload: payload.split_off(headers) });
        }
    }

    /// Whether a request is answered within this time. The connection is of no use afterwards.
    pub fn answers(mut self, subject: &str, time: Duration) -> bool {
        self.subscribe("_INBOX.test.answers");
        self.reader.get_mut().set_read_timeout(Some(time)).unwrap();
        self.publish_with_reply(subject, "_INBOX.test.answers", b"");
        self.try_next().is_some_and(|message| !message.payload.is_empty())
    }

    /// Sends a request and waits for its answer.
    pub fn request(&mut self, subject: &str, payload: &str) -> Vec<u8> {
        let inbox = format!("_INBOX.test.{}", self.subscriptions);
        self.subscribe(&inbox);
        self.publish_with_reply(subject, &inbox, payload.as_bytes());
        loop {
            let message = self.next();
            if message.subject == inbox {
                return message.payload;
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        // A server that goes away is seen by the next read.
        let _ = self.reader.get_mut().write_all(bytes);
    }

    /// The next line without its end; none after the end of the stream.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line).ok()?;
        (count > 0).then(|| line.trim_end().to_owned())
    }
}
