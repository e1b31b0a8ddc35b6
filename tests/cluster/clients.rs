//! Clients of philote.v1: publishers that count every answer, and readers that come back where they left off.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::{IntoClientRequest, client};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{Client, PATIENCE, sign};

/// What arrives on a connection.
#[derive(Debug)]
pub enum Event {
    Frame(Value),
    /// The code and the reason; 1006 where the connection ended without a Close.
    Closed(u16, String),
}

/// One connection that has shown its token.
pub struct Connection {
    client: Client,
    /// The answer to the token.
    pub access: Value,
}

impl Connection {
    /// Enters with these claims; `since` may be null.
    pub fn enter(address: SocketAddr, claims: &Value, since: &Value) -> Connection {
        Connection::try_enter(address, claims, since)
            .unwrap_or_else(|event| panic!("not admitted: {event:?}"))
    }

    pub fn try_enter(address: SocketAddr, claims: &Value, since: &Value) -> Result<Connection, Event> {
        let failed = |error: &dyn std::fmt::Display| Event::Closed(1006, error.to_string());
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| failed(&error))?;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!("ws://{address}/").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
        let (socket, _) = client(request, stream).map_err(|error| failed(&error))?;
        let mut connection = Connection { client: Client { socket }, access: Value::Null };
        let mut first = json!({"auth": sign(claims)});
        if !since.is_null() {
            first["since"] = since.clone();
        }
        connection.client.send(first.to_string());
        match connection.next() {
            Event::Frame(mut frame) if frame["access"].is_object() => {
                connection.access = frame["access"].take();
                Ok(connection)
            }
            other => Err(other),
        }
    }

    pub fn send(&mut self, frame: &Value) -> Result<(), Event> {
        let sent = self.client.socket.send(Message::text(frame.to_string()));
        sent.map_err(|error| Event::Closed(1006, error.to_string()))
    }

    /// The next event, which must come.
    pub fn next(&mut self) -> Event {
        self.next_within(PATIENCE).unwrap_or_else(|| panic!("nothing arrived for {PATIENCE:?}"))
    }

    /// The next event that arrives within this time.
    pub fn next_within(&mut self, time: Duration) -> Option<Event> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Zero would mean no timeout.
            self.client.stream().set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            match self.client.socket.read() {
                Ok(Message::Text(text)) => return Some(Event::Frame(serde_json::from_str(&text).unwrap())),
                Ok(Message::Close(Some(CloseFrame { code, reason }))) => {
                    let _ = self.client.socket.flush();
                    return Some(Event::Closed(code.into(), reason.to_string()));
                }
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(error) => return Some(Event::Closed(1006, error.to_string())),
            }
        }
    }

    /// The next frame with `data`.
    pub fn message(&mut self) -> Value {
        loop {
            match self.next() {
                Event::Frame(frame) if frame["data"].is_string() => return frame,
                Event::Frame(_) => {}
                Event::Closed(code, reason) => panic!("closed with {code}: {reason}"),
            }
        }
    }

    /// Its `data`.
    pub fn data(&mut self) -> String {
        self.message()["data"].as_str().unwrap().to_owned()
    }
}

/// Publishes numbered messages, each with an `ack`: "NAME 1", "NAME 2" and so on.
pub struct Publisher {
    connection: Connection,
    name: String,
    sent: u64,
    waiting: BTreeSet<u64>,
    /// The numbers whose `ack` came, in the order of the answers, with the `id` in it.
    pub stored: Vec<(u64, Value)>,
    /// The other answers, by error code.
    pub refused: BTreeMap<String, BTreeSet<u64>>,
}

impl Publisher {
    /// How many messages it sends before it waits for an answer.
    const WINDOW: usize = 200;

    pub fn enter(address: SocketAddr, name: &str, channels: &[&str]) -> Publisher {
        let connection = Connection::enter(address, &json!({"write": channels, "sub": name}), &Value::Null);
        let (stored, refused) = (Vec::new(), BTreeMap::new());
        Publisher { connection, name: name.to_owned(), sent: 0, waiting: BTreeSet::new(), stored, refused }
    }

    /// Sends the next message, and waits while too many are unanswered.
    pub fn publish(&mut self, channel: &str) {
        while self.waiting.len() >= Publisher::WINDOW {
            self.answer();
        }
        self.sent += 1;
        let data = format!("{} {}", self.name, self.sent);
        let frame = json!({"channel": channel, "data": data, "ack": self.sent.to_string()});
        self.connection.send(&frame).unwrap_or_else(|event| panic!("{event:?}"));
        self.waiting.insert(self.sent);
    }

    /// Waits for the answers to everything sent.
    pub fn settle(&mut self) {
        while !self.waiting.is_empty() {
            self.answer();
        }
    }

    fn answer(&mut self) {
        let Event::Frame(frame) = self.connection.next() else { panic!("a publisher was closed") };
        let number: u64 = frame["ack"].as_str().unwrap_or_else(|| panic!("{frame}")).parse().unwrap();
        assert!(self.waiting.remove(&number), "answered twice: {frame}");
        match frame["error"].as_str() {
            None => self.stored.push((number, frame["id"].clone())),
            Some(code) => assert!(self.refused.entry(code.to_owned()).or_default().insert(number)),
        }
    }

    /// How many messages it has sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The numbers with this answer.
    pub fn refused_with(&self, code: &str) -> BTreeSet<u64> {
        self.refused.get(code).cloned().unwrap_or_default()
    }
}

/// Reads one channel on any node, and comes back with the last `id` whenever it is closed or moved.
pub struct Follower {
    channel: String,
    connection: Connection,
    place: Value,
    /// The messages in their order.
    pub messages: Vec<Value>,
    /// The values of `recovered` that it was told when it came back.
    pub recovered: Vec<bool>,
    /// The codes and reasons of its closes.
    pub closes: Vec<(u16, String)>,
}

impl Follower {
    pub fn enter(address: SocketAddr, channel: &str) -> Follower {
        let connection = Connection::enter(address, &json!({"read": [channel]}), &Value::Null);
        let place = connection.access["ids"][channel].clone();
        let (messages, recovered, closes) = (Vec::new(), Vec::new(), Vec::new());
        Follower { channel: channel.to_owned(), connection, place, messages, recovered, closes }
    }

    /// Leaves without a Close and comes back at this node.
    pub fn move_to(&mut self, address: SocketAddr) {
        let since = json!({&self.channel: self.place});
        let deadline = Instant::now() + PATIENCE;
        self.connection = loop {
            match Connection::try_enter(address, &json!({"read": [self.channel]}), &since) {
                Ok(connection) => break connection,
                Err(event) => assert!(Instant::now() < deadline, "not admitted: {event:?}"),
            }
            thread::sleep(Duration::from_millis(10));
        };
        let recovered = self.connection.access["recovered"][&self.channel].as_bool();
        let recovered = recovered.unwrap_or_else(|| panic!("not told: {}", self.connection.access));
        self.recovered.push(recovered);
        if !recovered {
            self.place = self.connection.access["ids"][&self.channel].clone();
        }
    }

    /// Reads for this long or until a message with this text; true if that came. Comes back at `address` when closed.
    pub fn read(&mut self, address: SocketAddr, time: Duration, last: &str) -> bool {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.connection.next_within(left.min(2 * PATIENCE)) {
                None if left > PATIENCE => panic!("no message after {} others", self.messages.len()),
                None => return false,
                Some(Event::Frame(frame)) => {
                    assert!(frame["data"].is_string(), "{frame}");
                    self.place = frame["id"].clone();
                    let found = frame["data"] == last;
                    self.messages.push(frame);
                    if found {
                        return true;
                    }
                }
                Some(Event::Closed(code, reason)) => {
                    self.closes.push((code, reason));
                    self.move_to(address);
                }
            }
        }
    }

    pub fn data(&self) -> Vec<&str> {
        self.messages.iter().map(|message| message["data"].as_str().unwrap()).collect()
    }
}

/// Each publisher's numbers in the order in which they were read.
pub fn by_publisher<'a>(data: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, Vec<u64>> {
    let mut numbers: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for text in data {
        let (name, number) = text.rsplit_once(' ').unwrap_or_else(|| panic!("{text}"));
        numbers.entry(name).or_default().push(number.parse().unwrap());
    }
    numbers
}

/// The number in an `id`, which is "EPOCH-N".
pub fn number_of(id: &Value) -> u64 {
    id.as_str().and_then(|id| id.rsplit_once('-')?.1.parse().ok()).unwrap_or_else(|| panic!("no id: {id}"))
}

/// The epoch in an `id`.
pub fn epoch_of(id: &Value) -> &str {
    id.as_str().and_then(|id| Some(id.rsplit_once('-')?.0)).unwrap_or_else(|| panic!("no id: {id}"))
}
