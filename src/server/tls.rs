//! TLS between a socket and the rest: what the handshake needs, and a connection's two halves afterwards.
//!
//! rustls works on buffers of ours, so that an idle connection keeps none: each thread has one for what comes in and
//! two for what goes out. Reader and writer share rustls's state behind a lock that is also held while the ciphertext
//! is offered to the socket: records must leave in the order in which they were numbered, and both never wait there.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert, ServerConnectionData, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus, WriteTraffic};
use rustls::{ServerConfig, version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, tcp};

use super::stream::TcpSink;
use crate::config::{TlsSettings, provider};
use crate::outbox::Sink;
use crate::sync::lock;

/// Plaintext that is encrypted for one system call: four records of the largest size.
const PLAIN_BYTES: usize = 64 * 1024;
/// What a record adds to its plaintext at most, in TLS 1.2 and 1.3.
const RECORD_OVERHEAD: usize = 64;
/// The largest record on the wire (RFC 8446 section 5.2).
const LARGEST_RECORD: usize = 5 + 16 * 1024 + 256;
/// The most that one read takes: with a record that was begun it fits the session's buffer of 64 KiB, decrypted.
const READ_BYTES: usize = 64 * 1024 - LARGEST_RECORD;
/// Handshake messages of a client: a hello, perhaps with many keys and tickets.
const LARGEST_HANDSHAKE: usize = 64 * 1024;

thread_local! {
    static INCOMING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static PLAIN: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static CIPHER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The server's side of all handshakes: one configuration, whose certificate may be replaced.
pub(super) struct Acceptor {
    config: Arc<ServerConfig>,
    certificate: Arc<Certificate>,
}

#[derive(Debug, Default)]
struct Certificate(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl Acceptor {
    /// TLS 1.2 and 1.3, with tickets for those who come back, and HTTP/1.1 as the one protocol.
    ///
    /// # Errors
    /// The cryptography is not what it was built to be.
    pub(super) fn new() -> Result<Acceptor, rustls::Error> {
        let certificate = Arc::new(Certificate::default());
        let provider = provider();
        let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = ticketer;
        // Tickets carry the session: nothing of it stays here.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Ok(Acceptor { config: Arc::new(config), certificate })
    }

    /// Uses this certificate for handshakes from now on. Without one, the last stays: its listeners do too.
    pub(super) fn set(&self, tls: Option<&TlsSettings>) {
        if let Some(tls) = tls {
            self.certificate.0.store(Some(tls.certified.clone()));
        }
    }

    /// Shakes hands. What the stream said before it failed tells whether it was TLS at all.
    ///
    /// # Errors
    /// Why it is no TLS connection.
    pub(super) async fn accept(&self, stream: TcpStream) -> Result<TlsStream, HandshakeError> {
        let connection = UnbufferedServerConnection::new(self.config.clone())
            .map_err(|error| HandshakeError { error: Some(error), plain: None })?;
        let (reader, writer) = stream.into_split();
        let shared = Arc::new(Mutex::new(State {
            connection,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            ahead: false,
            ended: false,
        }));
        let writer = TlsSink { socket: TcpSink(writer), shared: shared.clone() };
        let mut stream =
            TlsStream { reader: TlsReader { socket: reader, shared, plain: Vec::new() }, writer };
        match stream.shake_hands().await {
            Ok(()) => Ok(stream),
            Err((error, looks_plain)) => {
                let plain = looks_plain.then(|| stream.into_plain()).flatten();
                Err(HandshakeError { error, plain })
            }
        }
    }
}

/// Why a handshake came to nothing.
pub(super) struct HandshakeError {
    /// What rustls found wrong; `None` where the client just left.
    pub(super) error: Option<rustls::Error>,
    /// The connection, where its client spoke HTTP and can be told.
    pub(super) plain: Option<TcpStream>,
}

/// What both halves share.
struct State {
    connection: UnbufferedServerConnection,
    /// The beginning of a record whose end has not arrived.
    incoming: Vec<u8>,
    /// Ciphertext that the socket has refused so far.
    outgoing: Vec<u8>,
    /// The first byte that will be offered has been encrypted already: see [`TlsSink::try_write`].
    ahead: bool,
    /// The client has said that it sends no more.
    ended: bool,
}

/// What one round of rustls came to.
enum Turn {
    /// It has said all it had to, and may be given plaintext.
    Ready,
    /// The handshake waits for its client.
    NeedsMore,
}

impl State {
    /// Lets rustls work through `bytes`: plaintext goes to `plain`, what it has to say to `cipher`. Returns how many
    /// bytes were used.
    fn turn(
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
    fn encrypt(&mut self, plain: &[u8], cipher: &mut Vec<u8>) -> io::Result<()> {
        self.with_traffic(cipher, |traffic, cipher| {
            let start = cipher.len();
            let records = plain.len().div_ceil(16 * 1024) + 1;
            cipher.resize(start + plain.len() + records * RECORD_OVERHEAD, 0);
            let count = traffic.encrypt(plain, &mut cipher[start..]).map_err(|_| io::ErrorKind::Other)?;
            cipher.truncate(start + count);
            Ok(())
        })
    }

    /// Offers the socket what it refused earlier. Returns whether nothing of it is left.
    fn flush(&mut self, socket: &TcpSink) -> io::Result<bool> {
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
    fn send(&mut self, socket: &TcpSink, cipher: &[u8]) -> io::Result<bool> {
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

/// The receiving half.
pub(super) struct TlsReader {
    socket: tcp::OwnedReadHalf,
    shared: Arc<Mutex<State>>,
    /// Plaintext that its reader had no room for: only while HTTP is spoken, whose buffers are small.
    plain: Vec<u8>,
}

impl AsyncRead for TlsReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut incoming = INCOMING.take();
        incoming.resize(LARGEST_RECORD + READ_BYTES, 0);
        let mut plain = std::mem::take(&mut this.plain);
        let result = loop {
            if !plain.is_empty() {
                let count = plain.len().min(buffer.remaining());
                buffer.put_slice(&plain[..count]);
                plain.drain(..count);
                break Poll::Ready(Ok(()));
            }
            match this.receive(context, &mut incoming, &mut plain) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => break Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        INCOMING.set(incoming);
        this.plain = if plain.is_empty() { Vec::new() } else { plain };
        result
    }
}

impl TlsReader {
    /// One read of the socket, decrypted. False at the end of the stream.
    fn receive(
        &mut self,
        context: &mut Context<'_>,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Poll<io::Result<bool>> {
        let begun = {
            let state = lock(&self.shared);
            if state.ended {
                return Poll::Ready(Ok(false));
            }
            incoming[..state.incoming.len()].copy_from_slice(&state.incoming);
            state.incoming.len()
        };
        let mut target = ReadBuf::new(&mut incoming[begun..]);
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut target))?;
        let count = target.filled().len();
        if count == 0 {
            return Poll::Ready(Ok(false));
        }
        let mut state = lock(&self.shared);
        let mut cipher = Vec::new();
        let (used, turn) = state.turn(&mut incoming[..begun + count], plain, &mut cipher);
        let left = &incoming[used..begun + count];
        if left.len() > LARGEST_RECORD {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        state.incoming = left.to_vec();
        // Whoever writes next sends it first.
        state.outgoing.extend_from_slice(&cipher);
        turn.map_err(io::Error::other)?;
        Poll::Ready(Ok(true))
    }
}

/// The sending half, written by whoever holds the promise.
pub(super) struct TlsSink {
    socket: TcpSink,
    shared: Arc<Mutex<State>>,
}

impl Sink for TlsSink {
    /// Encrypts what gathered into as few records as it fits, for one system call per [`PLAIN_BYTES`].
    ///
    /// Ciphertext can't be given back when the socket refuses it. As long as some is left, the last byte of what was
    /// offered counts as not taken, so that the outbox comes back; it is offered again and is then the one that is
    /// `ahead`. The outbox never drops a frame of which a byte was taken, so it is always the same byte.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = lock(&self.shared);
        if !state.flush(&self.socket)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut taken = usize::from(std::mem::take(&mut state.ahead)).min(offered);
        let (mut plain, mut cipher) = (PLAIN.take(), CIPHER.take());
        let result = loop {
            if taken == offered {
                break Ok(taken);
            }
            plain.clear();
            cipher.clear();
            gather(slices, taken, &mut plain);
            if let Err(error) = state.encrypt(&plain, &mut cipher) {
                break Err(error);
            }
            taken += plain.len();
            match state.send(&self.socket, &cipher) {
                Ok(true) => {}
                Ok(false) if taken < offered => break Ok(taken),
                Ok(false) => {
                    state.ahead = true;
                    break if taken > 1 { Ok(taken - 1) } else { Err(io::ErrorKind::WouldBlock.into()) };
                }
                Err(error) => break Err(error),
            }
        };
        PLAIN.set(plain);
        CIPHER.set(cipher);
        result
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_writable(context))?;
            if lock(&self.shared).flush(&self.socket)? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn shutdown(&self) {
        let mut state = lock(&self.shared);
        let mut cipher = Vec::new();
        let _ = state.with_traffic(&mut cipher, |traffic, cipher| {
            let start = cipher.len();
            cipher.resize(start + 2 * RECORD_OVERHEAD, 0);
            let count = traffic.queue_close_notify(&mut cipher[start..]).unwrap_or(0);
            cipher.truncate(start + count);
            Ok(())
        });
        // What the socket refuses now, nobody will read.
        if state.flush(&self.socket).is_ok_and(|empty| empty) {
            let _ = state.send(&self.socket, &cipher);
        }
        drop(state);
        self.socket.shutdown();
    }
}

/// Copies what stands behind the first `skipped` bytes, up to [`PLAIN_BYTES`].
fn gather(slices: &[IoSlice<'_>], mut skipped: usize, plain: &mut Vec<u8>) {
    for slice in slices {
        if skipped >= slice.len() {
            skipped -= slice.len();
            continue;
        }
        let room = PLAIN_BYTES - plain.len();
        let rest = &slice[std::mem::take(&mut skipped)..];
        plain.extend_from_slice(&rest[..rest.len().min(room)]);
        if plain.len() == PLAIN_BYTES {
            return;
        }
    }
}

/// A connection while HTTP is spoken over it.
pub(super) struct TlsStream {
    reader: TlsReader,
    writer: TlsSink,
}

impl TlsStream {
    pub(super) fn into_split(self) -> (Box<TlsReader>, TlsSink) {
        (Box::new(self.reader), self.writer)
    }

    fn into_plain(self) -> Option<TcpStream> {
        self.reader.socket.reunite(self.writer.socket.0).ok()
    }

    /// # Errors
    /// What is wrong, and whether it looks like HTTP without TLS.
    async fn shake_hands(&mut self) -> Result<(), (Option<rustls::Error>, bool)> {
        let mut bytes = Vec::new();
        let mut first = None;
        loop {
            let gone = |_| (None, false);
            let count = self.reader.socket.read_buf(&mut bytes).await.map_err(gone)?;
            if count == 0 || bytes.len() > LARGEST_HANDSHAKE {
                return Err((None, false));
            }
            let first = *first.get_or_insert(bytes[0]);
            let (done, failed) = {
                let mut state = lock(&self.reader.shared);
                let mut cipher = Vec::new();
                let (used, turn) = state.turn(&mut bytes, &mut self.reader.plain, &mut cipher);
                bytes.drain(..used);
                let plain = turn.is_err() && first.is_ascii_uppercase();
                if !plain {
                    state.outgoing.extend_from_slice(&cipher);
                }
                let done = !state.connection.is_handshaking();
                if done {
                    state.incoming = std::mem::take(&mut bytes);
                }
                (done, turn.err().map(|error| (Some(error), plain)))
            };
            if !failed.as_ref().is_some_and(|(_, plain)| *plain) {
                std::future::poll_fn(|context| self.writer.poll_writable(context)).await.map_err(gone)?;
            }
            match failed {
                Some(failed) => return Err(failed),
                None if done => return Ok(()),
                None => {}
            }
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.writer.try_write(&[IoSlice::new(bytes)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.writer.poll_writable(context))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if lock(&self.writer.shared).outgoing.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.writer.poll_writable(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.shutdown();
        Poll::Ready(Ok(()))
    }
}
