//! rustls's state, which both halves of a connection share, and the bytes that it waits with.

use std::io::{self, IoSlice};

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus, WriteTraffic};

use crate::outbox::Sink;
use crate::server::accept::sink::TcpSink;

/// What a record adds to its plaintext at most, in TLS 1.2 and 1.3.
const RECORD_OVERHEAD: usize = 64;

/// What both halves share.
pub(crate) struct State {
    pub(crate) connection: UnbufferedServerConnection,
    /// The beginning of a record whose end has not arrived.
    pub(crate) incoming: Vec<u8>,
    /// Ciphertext that the socket has refused so far.
    pub(crate) outgoing: Vec<u8>,
    /// The first byte that will be offered has been encrypted already: see [`crate::server::accept::tls::connection::TlsSink`].
    pub(crate) ahead: bool,
    /// The client has said that it sends no more.
    pub(crate) ended: bool,
    /// rustls has found a fault, and is not to be asked again: it would find it once more, and panic in a debug build,
    /// in the task of whoever publishes to this connection.
    failed: bool,
}

/// What one round of rustls came to.
pub(crate) enum Turn {
    /// It has said all it had to, and may be given plaintext.
    Ready,
    /// The handshake waits for its client.
    NeedsMore,
}

impl State {
    pub(crate) fn new(connection: UnbufferedServerConnection) -> State {
        State {
            connection,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            ahead: false,
            ended: false,
            failed: false,
        }
    }

    /// Lets rustls work through `bytes`: plaintext goes to `plain`, what it has to say to `cipher`. Returns how many
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
                // Early data is never offered; what a later rustls adds is not asked for.
                Ok(_) => Some(Err(rustls::Error::General("an unexpected state".into()))),
                Err(error) => {
                    // The alert that says why.
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

    /// What rustls had to say before it found a fault, and the alert. Asked further, it would find the fault again.
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

    /// Hands what may be written to `write`, once rustls has said what it has to say by itself.
    fn with_traffic(
        &mut self,
        cipher: &mut Vec<u8>,
        write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // rustls must be shown the beginning of a record or message that it has seen already, or it panics.
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

    /// Encrypts the word that no more comes, behind what rustls has to say by itself.
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

    /// Offers the socket what it refused earlier. Returns whether nothing of it is left.
    pub(crate) fn flush(&mut self, socket: &TcpSink) -> io::Result<bool> {
        while !self.outgoing.is_empty() {
            match socket.try_write(&[IoSlice::new(&self.outgoing)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.outgoing = Vec::new();
        Ok(true)
    }

    /// Offers the socket `cipher`, and keeps what it refuses. Returns whether it took all.
    pub(crate) fn send(&mut self, socket: &TcpSink, cipher: &[u8]) -> io::Result<bool> {
        let mut taken = 0;
        while taken < cipher.len() {
            match socket.try_write(&[IoSlice::new(&cipher[taken..])]) {
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
