//! Many WebSocket connections on one thread, in an epoll loop.
//!
//! It must cost much less than the server that it loads, so reading a message neither parses JSON nor allocates nor
//! wakes a task.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::error::BenchError;
use super::tls::{Session, Tls};
use super::wire::{Dialect, Kind, SharedSeat, client_frame, first_frame};

/// Handshakes in progress at once: fewer than the server accepts from all its clients.
const HANDSHAKES: usize = 128;
/// How long to wait for the next connection to open.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for connections to close; those that are left are cut off.
const GOODBYE: Duration = Duration::from_secs(10);
/// The most bytes of one read.
const READ_BYTES: usize = 256 * 1024;
/// Sockets that are read before messages that are due are published.
const EVENTS: usize = 256;

/// First bytes of the client frames that close a connection and answer a ping.
const CLOSE: u8 = 0x88;
const PONG: u8 = 0x8a;

/// The connections of a scenario.
pub(super) struct Swarm<D> {
    dialect: D,
    address: SocketAddr,
    tls: Option<Tls>,
    poll: Poll,
    connections: Vec<Connection>,
    buffer: Box<[u8]>,
    /// The plaintext of one read.
    plain: Vec<u8>,
    /// The number of open connections.
    pub(super) open: usize,
    /// How many connections the server closed, and the reason of the first.
    closed: Option<(usize, String)>,
    /// Connections that got a data frame after they asked to join or leave channels.
    pub(super) answered: Vec<usize>,
    /// The length of the last data frame, with its header.
    pub(super) frame_length: usize,
}

struct Connection {
    stream: TcpStream,
    tls: Option<Session>,
    seat: SharedSeat,
    stage: Stage,
    /// The beginning of an incomplete frame.
    carry: Vec<u8>,
    unsent: Vec<u8>,
    /// It has asked to join or leave channels.
    asks: bool,
}

impl Connection {
    /// Sends the queued bytes; fails with `WouldBlock` if the socket does not accept all of them.
    fn send(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            return tls.send(&mut self.unsent, &mut self.stream);
        }
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() || self.tls.as_ref().is_some_and(Session::wants_write)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for the response to its upgrade request.
    Upgrading,
    /// Waits for the answer to its greeting.
    Greeting,
    Open,
    Closing,
    Ended,
}

impl<D: Dialect> Swarm<D> {
    /// A swarm without connections; they will be opened to `address`.
    pub(super) fn new(dialect: D, address: SocketAddr, tls: Option<Tls>) -> Result<Self, BenchError> {
        Ok(Self {
            dialect,
            address,
            tls,
            poll: Poll::new().map_err(|error| BenchError::System("make an epoll", error))?,
            connections: Vec::new(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            plain: Vec::new(),
            open: 0,
            closed: None,
            answered: Vec::new(),
            frame_length: 0,
        })
    }

    /// Opens a connection for each seat, in order: the first gets index 0.
    pub(super) fn open(
        &mut self,
        seats: &[SharedSeat],
        mut tick: impl FnMut(usize),
    ) -> Result<(), BenchError> {
        self.connections.reserve_exact(seats.len());
        let mut progress = (0, Instant::now());
        while self.open < seats.len() {
            while self.connections.len() < seats.len().min(self.open + HANDSHAKES) {
                self.connect(&seats[self.connections.len()])?;
            }
            self.turn(Some(Duration::from_millis(100)), |_, _| {})?;
            if self.open > progress.0 {
                progress = (self.open, Instant::now());
                tick(self.open);
            } else if progress.1.elapsed() > PATIENCE {
                return Err(BenchError::Slow { open: self.open, wanted: seats.len() });
            }
            self.check()?;
        }
        Ok(())
    }

    fn connect(&mut self, seat: &SharedSeat) -> Result<(), BenchError> {
        let failed = |error| BenchError::Connect(self.address, error);
        let stream = TcpStream::connect(self.address).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let tls = self.tls.as_ref().map(Tls::begin).transpose().map_err(failed)?;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: cGhpbG90ZWN0bCBiZW5jaA==\r\n{}\r\n",
            self.address,
            self.dialect.headers(seat)
        );
        // Sent when the socket first becomes writable.
        self.adopt(stream, tls, seat, Stage::Upgrading, request.into_bytes())
    }

    /// Takes over a stream that is already past its upgrade.
    pub(super) fn adopt_open(
        &mut self,
        stream: std::net::TcpStream,
        seat: &SharedSeat,
    ) -> Result<(), BenchError> {
        stream.set_nonblocking(true).map_err(|error| BenchError::System("prepare a socket", error))?;
        self.open += 1;
        self.adopt(TcpStream::from_std(stream), None, seat, Stage::Open, Vec::new())
    }

    fn adopt(
        &mut self,
        mut stream: TcpStream,
        tls: Option<Session>,
        seat: &SharedSeat,
        stage: Stage,
        unsent: Vec<u8>,
    ) -> Result<(), BenchError> {
        let token = Token(self.connections.len());
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self.poll.registry().register(&mut stream, token, interest);
        registered.map_err(|error| BenchError::System("watch a socket", error))?;
        let (seat, carry) = (seat.clone(), Vec::new());
        self.connections.push(Connection { stream, tls, seat, stage, carry, unsent, asks: false });
        Ok(())
    }

    /// Waits for events and reads sockets; passes the data of each message to `take`, with the index of its connection.
    pub(super) fn turn(
        &mut self,
        wait: Option<Duration>,
        mut take: impl FnMut(usize, &[u8]),
    ) -> Result<(), BenchError> {
        thread_local!(static ROOM: std::cell::Cell<Option<Events>> = const { std::cell::Cell::new(None) });
        let mut events = ROOM.take().unwrap_or_else(|| Events::with_capacity(EVENTS));
        match self.poll.poll(&mut events, wait) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                return Err(BenchError::System("wait for sockets", error));
            }
            _ => {}
        }
        for event in &events {
            let index = event.token().0;
            if event.is_readable() || event.is_error() {
                self.read(index, &mut take)?;
            }
            if event.is_writable() && self.connections[index].has_unsent() {
                self.flush(index)?;
            }
        }
        ROOM.set(Some(events));
        Ok(())
    }

    fn read(&mut self, index: usize, take: &mut impl FnMut(usize, &[u8])) -> Result<(), BenchError> {
        loop {
            let connection = &mut self.connections[index];
            if connection.stage == Stage::Ended {
                return Ok(());
            }
            let count = match connection.stream.read(&mut self.buffer) {
                Ok(0) => return self.ended(index, "the end of its stream"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if connection.stage == Stage::Upgrading => {
                    return Err(BenchError::Connect(self.address, error));
                }
                Err(error) => return self.ended(index, &error.to_string()),
            };
            // Taken out, because it cannot be borrowed together with the connection's state.
            let buffer = std::mem::take(&mut self.buffer);
            let result = if self.tls.is_some() {
                self.decrypted(index, &buffer[..count], take)
            } else {
                self.received(index, &buffer[..count], take)
            };
            self.buffer = buffer;
            result?;
            // A short read has emptied the socket: more bytes cause a new event.
            if count < READ_BYTES {
                return Ok(());
            }
        }
    }

    /// Decrypts what a connection received over TLS, and sends the handshake's answers.
    fn decrypted(
        &mut self,
        index: usize,
        cipher: &[u8],
        take: &mut impl FnMut(usize, &[u8]),
    ) -> Result<(), BenchError> {
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let connection = &mut self.connections[index];
        let decrypted = connection.tls.as_mut().map_or(Ok(()), |tls| tls.decrypt(cipher, &mut plain));
        let sent = self.flush(index);
        if let Err(error) = decrypted {
            // The alert has been sent.
            return match self.connections[index].stage {
                Stage::Upgrading => Err(BenchError::Tls(self.address, error)),
                _ => self.ended(index, &error.to_string()),
            };
        }
        sent?;
        let result = if plain.is_empty() { Ok(()) } else { self.received(index, &plain, take) };
        self.plain = plain;
        result
    }

    fn received(
        &mut self,
        index: usize,
        bytes: &[u8],
        take: &mut impl FnMut(usize, &[u8]),
    ) -> Result<(), BenchError> {
        if self.connections[index].carry.is_empty() {
            let used = self.handle(index, bytes, take)?;
            self.connections[index].carry.extend_from_slice(&bytes[used..]);
        } else {
            let mut carry = std::mem::take(&mut self.connections[index].carry);
            carry.extend_from_slice(bytes);
            let used = self.handle(index, &carry, take)?;
            carry.drain(..used);
            // An idle connection keeps no buffer.
            self.connections[index].carry = if carry.is_empty() { Vec::new() } else { carry };
        }
        Ok(())
    }

    /// Handles the complete frames in `bytes`, and returns their length.
    fn handle(
        &mut self,
        index: usize,
        bytes: &[u8],
        take: &mut impl FnMut(usize, &[u8]),
    ) -> Result<usize, BenchError> {
        let mut used = 0;
        if self.connections[index].stage == Stage::Upgrading {
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(0) };
            self.upgraded(index, &bytes[..end], &bytes[end + 4..])?;
            used = end + 4;
        }
        while let Some((kind, start, end)) = first_frame(&bytes[used..]) {
            let payload = &bytes[used + start..used + end];
            used += end;
            let connection = &mut self.connections[index];
            match kind {
                Kind::Data if connection.stage == Stage::Open => {
                    self.frame_length = end;
                    if connection.asks {
                        self.answered.push(index);
                    }
                    self.dialect.messages(&connection.seat, payload, &mut connection.unsent, |data| {
                        take(index, data);
                    });
                }
                Kind::Data if connection.stage == Stage::Greeting => {
                    if self.dialect.greeted(&connection.seat, payload) {
                        connection.stage = Stage::Open;
                        self.open += 1;
                    }
                }
                Kind::Ping => client_frame(PONG, &[payload], &mut connection.unsent),
                Kind::Close => {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                    self.ended(index, &format!("{code} {reason}"))?;
                    return Ok(bytes.len());
                }
                Kind::Data | Kind::Pong => {}
            }
        }
        if !self.connections[index].unsent.is_empty() {
            self.flush(index)?;
        }
        Ok(used)
    }

    fn upgraded(&mut self, index: usize, head: &[u8], body: &[u8]) -> Result<(), BenchError> {
        let head = String::from_utf8_lossy(head);
        let status = head.lines().next().unwrap_or_default().trim_start_matches("HTTP/1.1 ");
        if !status.starts_with("101") {
            let answer = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
            let sentence = answer["message"].as_str().unwrap_or("it gave no reason").to_owned();
            return Err(BenchError::Refused { status: status.to_owned(), sentence });
        }
        let connection = &mut self.connections[index];
        match self.dialect.greeting(&connection.seat) {
            Some(greeting) => {
                connection.unsent.extend_from_slice(&greeting);
                connection.stage = Stage::Greeting;
            }
            None => {
                connection.stage = Stage::Open;
                self.open += 1;
            }
        }
        Ok(())
    }

    /// Handles the end of a connection: the server has closed it, or has answered its Close frame.
    fn ended(&mut self, index: usize, how: &str) -> Result<(), BenchError> {
        let connection = &mut self.connections[index];
        let before = std::mem::replace(&mut connection.stage, Stage::Ended);
        connection.carry = Vec::new();
        connection.unsent = Vec::new();
        let _ = self.poll.registry().deregister(&mut connection.stream);
        let _ = connection.stream.shutdown(std::net::Shutdown::Both);
        match before {
            Stage::Closing => self.open -= 1,
            Stage::Open => {
                self.open -= 1;
                self.closed.get_or_insert_with(|| (0, how.to_owned())).0 += 1;
            }
            Stage::Upgrading | Stage::Greeting => {
                let error = io::Error::new(ErrorKind::UnexpectedEof, how.to_owned());
                return Err(BenchError::Connect(self.address, error));
            }
            Stage::Ended => {}
        }
        Ok(())
    }

    /// Fails if the server has closed a connection.
    pub(super) fn check(&self) -> Result<(), BenchError> {
        match &self.closed {
            Some((count, first)) => Err(BenchError::Closed { count: *count, first: first.clone() }),
            None => Ok(()),
        }
    }

    /// Queues a message on a connection; [`Swarm::flush`] sends queued bytes with one system call.
    pub(super) fn publish(&mut self, index: usize, data: &[u8]) {
        let connection = &mut self.connections[index];
        self.dialect.publish(&connection.seat, data, &mut connection.unsent);
    }

    /// Queues a request to join or leave channels.
    pub(super) fn ask(&mut self, index: usize, joins: bool, channels: &[String]) {
        let connection = &mut self.connections[index];
        connection.asks = true;
        self.dialect.ask(joins, channels, &mut connection.unsent);
    }

    /// Sends as many of a connection's queued bytes as the socket accepts; the rest follows when it is writable.
    pub(super) fn flush(&mut self, index: usize) -> Result<(), BenchError> {
        let connection = &mut self.connections[index];
        match connection.send() {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
            Err(error) if connection.stage == Stage::Upgrading => {
                return Err(BenchError::Connect(self.address, error));
            }
            Err(error) => return self.ended(index, &error.to_string()),
            Ok(()) => {}
        }
        // The buffer of a large message is freed, so that the generator can hold many connections.
        if connection.unsent.is_empty() && connection.unsent.capacity() > 4096 {
            connection.unsent = Vec::new();
        }
        Ok(())
    }

    /// Closes all connections, and waits until the server has answered.
    pub(super) fn close(mut self) -> Result<(), BenchError> {
        const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            if connection.stage == Stage::Open {
                connection.stage = Stage::Closing;
                client_frame(CLOSE, &[&NORMAL], &mut connection.unsent);
                self.flush(index)?;
            }
        }
        let deadline = Instant::now() + GOODBYE;
        while self.open > 0 && Instant::now() < deadline {
            self.turn(Some(Duration::from_millis(100)), |_, _| {})?;
        }
        Ok(())
    }
}
