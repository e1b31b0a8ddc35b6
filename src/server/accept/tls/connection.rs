//! A connection over TLS: during the handshake and HTTP, and its two halves afterwards.
//!
//! rustls uses buffers that we own, so that an idle connection keeps none: each thread has one for what comes in and
//! two for what goes out. Reader and writer share the state of rustls behind a lock. The lock is also held while the
//! ciphertext is offered to the socket, because records must leave in the order of their numbers; neither half ever
//! waits there.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use rustls::server::UnbufferedServerConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, tcp};

use super::state::State;
use crate::outbox::Sink;
use crate::server::accept::sink::TcpSink;

/// Plaintext that is encrypted for one system call: four records of the largest size.
const PLAIN_BYTES: usize = 64 * 1024;
/// The largest record on the wire (RFC 8446 section 5.2).
const LARGEST_RECORD: usize = 5 + 16 * 1024 + 256;
/// The most that one read takes. Decrypted together with a record that was begun, it fits the session's buffer of 64
/// KiB.
const READ_BYTES: usize = 64 * 1024 - LARGEST_RECORD;
/// The most bytes of handshake messages from a client: a hello, perhaps with many keys and tickets.
const LARGEST_HANDSHAKE: usize = 64 * 1024;

thread_local! {
    static INCOMING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static PLAIN: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static CIPHER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Locks what the halves of a connection share. If a panic left it half changed, this connection ends and no other,
/// because the state behind the lock is this connection's alone.
fn lock(shared: &Mutex<State>) -> io::Result<MutexGuard<'_, State>> {
    shared.lock().map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// The receiving half.
pub(crate) struct TlsReader {
    socket: tcp::OwnedReadHalf,
    shared: Arc<Mutex<State>>,
    /// Plaintext that its reader had no room for. This happens only during HTTP, whose buffers are small.
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
    /// Reads the socket once and decrypts. Returns false at the end of the stream.
    fn receive(
        &mut self,
        context: &mut Context<'_>,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Poll<io::Result<bool>> {
        let begun = {
            let state = lock(&self.shared)?;
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
        let mut state = lock(&self.shared)?;
        let mut cipher = Vec::new();
        let (used, turn) = state.turn(&mut incoming[..begun + count], plain, &mut cipher);
        let left = &incoming[used..begun + count];
        // The next write sends it first.
        state.outgoing.extend_from_slice(&cipher);
        if let Err(error) = turn {
            // There will be no next write: the alert that tells the client why is sent here, if the socket takes it.
            if let Ok(count) = self.socket.as_ref().try_write(&state.outgoing) {
                state.outgoing.drain(..count);
            }
            return Poll::Ready(Err(io::Error::other(error)));
        }
        if left.len() > LARGEST_RECORD {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        state.incoming = left.to_vec();
        Poll::Ready(Ok(true))
    }
}

/// The sending half, used by the task that must write the outbox.
pub(crate) struct TlsSink {
    socket: TcpSink,
    shared: Arc<Mutex<State>>,
}

impl Sink for TlsSink {
    /// Encrypts the slices into as few records as possible, with one system call per [`PLAIN_BYTES`].
    ///
    /// Ciphertext that the socket refuses is kept. Until it is sent, this reports one byte less than it encrypted, so that
    /// the outbox calls again; `ahead` records that this byte is encrypted already. The outbox never drops a frame of which
    /// a byte was taken, so it is always the same byte.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = lock(&self.shared)?;
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
            if lock(&self.shared)?.flush(&self.socket)? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn shutdown(&self) {
        if let Ok(mut state) = lock(&self.shared) {
            let cipher = state.encrypt_end();
            // Nobody will read what the socket refuses now.
            if state.flush(&self.socket).is_ok_and(|empty| empty) {
                let _ = state.send(&self.socket, &cipher);
            }
        }
        self.socket.shutdown();
    }
}

/// Copies the bytes after the first `skipped` ones, up to [`PLAIN_BYTES`].
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

/// A connection while HTTP is spoken over TLS.
pub(crate) struct TlsStream {
    reader: TlsReader,
    writer: TlsSink,
}

impl TlsStream {
    /// Returns a stream that has not done its handshake yet.
    pub(crate) fn new(stream: TcpStream, connection: UnbufferedServerConnection) -> TlsStream {
        let (reader, writer) = stream.into_split();
        let shared = Arc::new(Mutex::new(State::new(connection)));
        let writer = TlsSink { socket: TcpSink(writer), shared: shared.clone() };
        TlsStream { reader: TlsReader { socket: reader, shared, plain: Vec::new() }, writer }
    }

    /// Returns the socket below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        self.reader.socket.as_ref()
    }

    pub(crate) fn into_split(self) -> (Box<TlsReader>, TlsSink) {
        (Box::new(self.reader), self.writer)
    }

    /// Returns the socket, if no TLS was spoken.
    pub(crate) fn into_plain(self) -> Option<TcpStream> {
        self.reader.socket.reunite(self.writer.socket.0).ok()
    }

    /// Waits until a read has a result: bytes that were decrypted already, new bytes, the end or an error.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        if self.reader.plain.is_empty() { self.reader.socket.readable().await } else { Ok(()) }
    }

    /// # Errors
    /// What is wrong, and whether the bytes look like HTTP without TLS.
    pub(crate) async fn shake_hands(
        &mut self,
        heard: impl Fn(),
    ) -> Result<(), (Option<rustls::Error>, bool)> {
        let mut bytes = Vec::new();
        let mut first = None;
        loop {
            let gone = |_| (None, false);
            let count = self.reader.socket.read_buf(&mut bytes).await.map_err(gone)?;
            if count == 0 || bytes.len() > LARGEST_HANDSHAKE {
                return Err((None, false));
            }
            heard();
            let first = *first.get_or_insert(bytes[0]);
            let (done, failed) = {
                let mut state = lock(&self.reader.shared).map_err(gone)?;
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
        if lock(&self.writer.shared)?.outgoing.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.writer.poll_writable(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.shutdown();
        Poll::Ready(Ok(()))
    }
}
