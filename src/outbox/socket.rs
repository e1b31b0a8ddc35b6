//! The sockets that outboxes write to and sessions read from.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A socket that an outbox writes to, or a stand-in for tests.
pub trait Sink: Send + Sync {
    /// Writes as many bytes as the socket takes now.
    ///
    /// # Errors
    /// `WouldBlock` if it takes none. Any other error means that the connection is gone.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Waits until the socket takes bytes again. Only the connection's own task calls it.
    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads what has arrived, or nothing at the end of the stream. Only the connection's own task calls it.
    fn poll_read(&self, _context: &mut Context<'_>, _buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends the sending direction, so that the peer reads the end of the stream after the last byte.
    fn shutdown(&self);
}

/// The socket of an outbox. A TCP connection is part of the outbox: each delivery needs it, and behind pointers it would
/// take more memory and be one more address that no cache holds.
pub enum Socket {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A Unix socket, a connection over TLS, or a stand-in for tests.
    Other(Box<dyn Sink>),
}

impl<S: Sink + 'static> From<Box<S>> for Socket {
    fn from(sink: Box<S>) -> Socket {
        Socket::Other(sink)
    }
}

impl Sink for Socket {
    #[inline]
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => Sink::try_write(stream, slices),
            Socket::Other(sink) => sink.try_write(slices),
        }
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(stream) => stream.poll_writable(context),
            Socket::Other(sink) => sink.poll_writable(context),
        }
    }

    #[inline]
    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(stream) => Sink::poll_read(stream, context, buffer),
            Socket::Other(sink) => sink.poll_read(context, buffer),
        }
    }

    fn shutdown(&self) {
        match self {
            Socket::Tcp(stream) => Sink::shutdown(stream),
            Socket::Other(sink) => sink.shutdown(),
        }
    }
}

/// Reads once from a socket of tokio by a shared reference, as its `poll_read` does by an exclusive one. A read that does
/// not fill the buffer has emptied the socket, which tokio is told by an error, so that it spares the next read.
macro_rules! poll_read {
    ($socket:expr, $context:expr, $buffer:expr) => {
        loop {
            ready!($socket.poll_read_ready($context))?;
            let room = $buffer.initialize_unfilled();
            let mut count = None;
            let read = $socket.try_io(Interest::READABLE, || {
                let (length, read) = (room.len(), receive($socket, room)?);
                count = Some(read);
                if 0 < read && read < length { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (count, read) {
                (Some(count), _) => {
                    $buffer.advance(count);
                    break Poll::Ready(Ok(()));
                }
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                    break Poll::Ready(Err(error));
                }
                (None, _) => {}
            }
        }
    };
}

fn receive(socket: impl AsFd, room: &mut [u8]) -> io::Result<usize> {
    Ok(recv(socket, room, RecvFlags::empty())?.0)
}

impl Sink for TcpStream {
    /// Asks the kernel first, and tokio only after it refused: tokio's state of the socket is one more address in
    /// memory that no cache holds, for every reader of every message.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = match slices {
            [one] => send(self, one, SendFlags::NOSIGNAL),
            several => sendmsg(self, several, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL),
        };
        match written {
            // tokio notes the refusal, so that it tells when there is room.
            Err(Errno::AGAIN) => self.try_write_vectored(slices),
            written => Ok(written?),
        }
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(context)
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        poll_read!(self, context, buffer)
    }

    fn shutdown(&self) {
        // An error means that the peer is gone, which reading finds out as well.
        let _ = SockRef::from(self).shutdown(Shutdown::Write);
    }
}

impl Sink for UnixStream {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write_vectored(slices)
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(context)
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        poll_read!(self, context, buffer)
    }

    fn shutdown(&self) {
        let _ = SockRef::from(self).shutdown(Shutdown::Write);
    }
}
