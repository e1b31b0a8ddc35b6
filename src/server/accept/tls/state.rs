//! The state of rustls that reading and writing share, and the bytes that wait with it.

use std::io::{self, IoSlice};

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus, WriteTraffic};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use crate::outbox::Sink;

/// The most bytes that a record adds to its plaintext, in TLS 1.2 and 1.3.
const RECORD_OVERHEAD: usize = 64;

/// The state that reading and writing share.
pub(crate) struct State {
    pub(crate) connection: UnbufferedServerConnection,
    /// The beginning of a record that has not arrived whole.
    pub(crate) incoming: Vec<u8>,
    /// Plaintext for which its reader had no room. This happens only during HTTP, whose buffers are small.
    pub(crate) plain: Vec<u8>,
    /// Ciphertext that the socket has not taken.
    pub(crate) outgoing: Vec<u8>,
    /// The first byte that will be offered has been encrypted already: see [`super::TlsStream`].
    pub(crate) ahead: bool,
    /// The client has announced that it sends no more.
    pub(crate) ended: bool,
    /// rustls has found an error and must not be asked again: it would find the error once more, and panic in a debug
    /// build, in the task of a publisher to this connection.
    failed: bool,
}

/// The result of one round of rustls.
pub(crate) enum Turn {
    /// rustls has written all its own messages, and takes plaintext.
    Ready,
    /// The handshake waits for its client.
    NeedsMore,
}

impl State {
    pub(crate) fn new(connection: UnbufferedServerConnection) -> State {
        State {
            connection,
            incoming: Vec::new(),
            plain: Vec::new(),
            outgoing: Vec::new(),
            ahead: false,
            ended: false,
            failed: false,
        }
    }

    /// Moves plaintext to its reader. Returns whether there was any.
    pub(crate) fn take_plain(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let count = self.plain.len().min(buffer.remaining());
        buffer.put_slice(&self.plain[..count]);
        self.plain.drain(..count);
        if self.plain.is_empty() {
            self.plain = Vec::new();
        }
        count > 0
    }

    /// Lets rustls work through `bytes`: plaintext goes to `plain`, its own messages to `cipher`. Returns how many
    /// bytes were used.
    pub(crate) fn turn(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        cipher: &mut Vec<u8>,
    ) -> (usize, Result<Turn, rustls::Error>) {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut bytes[used..]);
            let turn = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        plain.extend_from_slice(record.payload);
                        discard += record.discard;
                    }
                    None
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, cipher).err().map(Err),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    self.ended = true;
                    Some(Ok(Turn::Ready))
                }
                Ok(ConnectionState::WriteTraffic(_)) => Some(Ok(Turn::Ready)),
                Ok(ConnectionState::BlockedHandshake) => Some(Ok(Turn::NeedsMore)),
                // Early data is never offered, and later states of rustls are not used.
                Ok(_) => Some(Err(rustls::Error::General("an unexpected state".into()))),
                Err(error) => {
                    // The alert that tells the client why.
                    self.failed = true;
                    used += discard;
                    self.encode_last_words(&mut bytes[used..], cipher);
                    return (used, Err(error));
                }
            };
            used += discard;
            if let Some(turn) = turn {
                return (used, turn);
            }
        }
    }

    /// Writes the messages that rustls had before it found an error, and the alert. Asked again, rustls would find
    /// the error once more.
    fn encode_last_words(&mut self, bytes: &mut [u8], cipher: &mut Vec<u8>) {
        let mut used = 0;
        while self.connection.wants_write() {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut bytes[used..]);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { return };
            if encode(&mut data, cipher).is_err() {
                return;
            }
            used += discard;
        }
    }

    /// Calls `write` when rustls has written its own messages and takes plaintext.
    fn with_traffic(
        &mut self,
        cipher: &mut Vec<u8>,
        write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // rustls must be shown the beginning of a record or message again that it has seen already, or it panics.
        let mut incoming = std::mem::take(&mut self.incoming);
        let (used, turn) = self.turn(&mut incoming, &mut Vec::new(), cipher);
        incoming.drain(..used);
        let result = turn.map_err(io::Error::other).and_then(|_| {
            match self.connection.process_tls_records(&mut incoming).state.map_err(io::Error::other)? {
                ConnectionState::WriteTraffic(mut traffic) => write(&mut traffic, cipher),
                _ => Err(io::ErrorKind::BrokenPipe.into()),
            }
        });
        self.incoming = incoming;
        result
    }

    /// Encrypts into `cipher`.
    pub(crate) fn encrypt(&mut self, plain: &[u8], cipher: &mut Vec<u8>) -> io::Result<()> {
        self.with_traffic(cipher, |traffic, cipher| {
            let start = cipher.len();
            let records = plain.len().div_ceil(16 * 1024) + 1;
            cipher.resize(start + plain.len() + records * RECORD_OVERHEAD, 0);
            let count = traffic.encrypt(plain, &mut cipher[start..]).map_err(|_| io::ErrorKind::Other)?;
            cipher.truncate(start + count);
            Ok(())
        })
    }

    /// Encrypts the announcement that no more comes, after the messages of rustls.
    pub(crate) fn encrypt_end(&mut self) -> Vec<u8> {
        let mut cipher = Vec::new();
        let _ = self.with_traffic(&mut cipher, |traffic, cipher| {
            let start = cipher.len();
            cipher.resize(start + 2 * RECORD_OVERHEAD, 0);
            let count = traffic.queue_close_notify(&mut cipher[start..]).unwrap_or(0);
            cipher.truncate(start + count);
            Ok(())
        });
        cipher
    }

    /// Offers the socket what it refused earlier. Returns whether it took all.
    pub(crate) fn flush(&mut self, socket: &TcpStream) -> io::Result<bool> {
        while !self.outgoing.is_empty() {
            match Sink::try_write(socket, &[IoSlice::new(&self.outgoing)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.outgoing = Vec::new();
        Ok(true)
    }

    /// Offers `cipher` to the socket, and keeps what it refuses. Returns whether it took all.
    pub(crate) fn send(&mut self, socket: &TcpStream, cipher: &[u8]) -> io::Result<bool> {
        let mut taken = 0;
        while taken < cipher.len() {
            match Sink::try_write(socket, &[IoSlice::new(&cipher[taken..])]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => taken += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.outgoing = cipher[taken..].to_vec();
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn encode(
    data: &mut rustls::unbuffered::EncodeTlsData<'_, ServerConnectionData>,
    cipher: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    use rustls::unbuffered::EncodeError;
    let start = cipher.len();
    let written = match data.encode(&mut []) {
        Ok(count) => Ok(count),
        Err(EncodeError::InsufficientSize(size)) => {
            cipher.resize(start + size.required_size, 0);
            data.encode(&mut cipher[start..])
        }
        Err(error) => Err(error),
    };
    written.map(|_| ()).map_err(|error| rustls::Error::General(error.to_string()))
}
