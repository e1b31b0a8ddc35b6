//! A connection over TLS: during the handshake, HTTP and the session.
//!
//! rustls uses buffers that we own, so that an idle connection keeps none: each thread has one for what comes in and
//! two for what goes out. Its reader and its writers share the state of rustls behind a lock. The lock is also held while the
//! ciphertext is offered to the socket, because records must leave in the order of their numbers; nobody ever waits
//! there.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use rustls::server::UnbufferedServerConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::state::State;
use crate::outbox::Sink;

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

/// Locks what reading and writing share. If a panic left it half changed, this connection ends and no other,
/// because the state behind the lock is this connection's alone.
fn lock(shared: &Mutex<State>) -> io::Result<MutexGuard<'_, State>> {
    shared.lock().map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// A connection over TLS.
pub(crate) struct TlsStream {
    socket: TcpStream,
    shared: Mutex<State>,
}

impl Sink for TlsStream {
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

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut incoming = INCOMING.take();
        incoming.resize(LARGEST_RECORD + READ_BYTES, 0);
        let result = self.read(context, buffer, &mut incoming);
        INCOMING.set(incoming);
        result
    }

    fn shutdown(&self) {
        if let Ok(mut state) = lock(&self.shared) {
            let cipher = state.encrypt_end();
            // Nobody will read what the socket refuses now.
            if state.flush(&self.socket).is_ok_and(|empty| empty) {
                let _ = state.send(&self.socket, &cipher);
            }
        }
        Sink::shutdown(&self.socket);
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

impl TlsStream {
    /// Returns a stream that has not done its handshake yet.
    pub(crate) fn new(socket: TcpStream, connection: UnbufferedServerConnection) -> TlsStream {
        TlsStream { socket, shared: Mutex::new(State::new(connection)) }
    }

    /// Returns the socket below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.socket
    }

    /// Returns the socket, if no TLS was spoken.
    pub(crate) fn into_plain(self) -> TcpStream {
        self.socket
    }

    /// Waits until a read has a result: bytes that were decrypted already, new bytes, the end or an error.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        let is_decrypted = !lock(&self.shared)?.plain.is_empty();
        if is_decrypted { Ok(()) } else { self.socket.readable().await }
    }

    /// Reads the socket until there is plaintext, and decrypts in `incoming`.
    fn read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        incoming: &mut [u8],
    ) -> Poll<io::Result<()>> {
        loop {
            let begun = {
                let mut state = lock(&self.shared)?;
                if state.take_plain(buffer) || state.ended {
                    return Poll::Ready(Ok(()));
                }
                incoming[..state.incoming.len()].copy_from_slice(&state.incoming);
                state.incoming.len()
            };
            let mut target = ReadBuf::new(&mut incoming[begun..]);
            ready!(Sink::poll_read(&self.socket, context, &mut target))?;
            let count = target.filled().len();
            if count == 0 {
                return Poll::Ready(Ok(()));
            }
            self.decrypt(&mut incoming[..begun + count])?;
        }
    }

    /// Decrypts what has arrived, and keeps the beginning of a record.
    fn decrypt(&self, incoming: &mut [u8]) -> io::Result<()> {
        let mut state = lock(&self.shared)?;
        let (mut plain, mut cipher) = (std::mem::take(&mut state.plain), Vec::new());
        let (used, turn) = state.turn(incoming, &mut plain, &mut cipher);
        state.plain = plain;
        let left = &incoming[used..];
        // The next write sends it first.
        state.outgoing.extend_from_slice(&cipher);
        if let Err(error) = turn {
            // There will be no next write: the alert that tells the client why is sent here, if the socket takes it.
            if let Ok(count) = self.socket.try_write(&state.outgoing) {
                state.outgoing.drain(..count);
            }
            return Err(io::Error::other(error));
        }
        if left.len() > LARGEST_RECORD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        state.incoming = left.to_vec();
        Ok(())
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
            let count = self.socket.read_buf(&mut bytes).await.map_err(gone)?;
            if count == 0 || bytes.len() > LARGEST_HANDSHAKE {
                return Err((None, false));
            }
            heard();
            let first = *first.get_or_insert(bytes[0]);
            let (done, failed) = {
                let mut state = lock(&self.shared).map_err(gone)?;
                let mut cipher = Vec::new();
                let mut plain = std::mem::take(&mut state.plain);
                let (used, turn) = state.turn(&mut bytes, &mut plain, &mut cipher);
                state.plain = plain;
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
                std::future::poll_fn(|context| self.poll_writable(context)).await.map_err(gone)?;
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
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Sink::poll_read(&*self, context, buffer)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(&[IoSlice::new(bytes)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_writable(context))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if lock(&self.shared)?.outgoing.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.poll_writable(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Sink::shutdown(&*self);
        Poll::Ready(Ok(()))
    }
}
