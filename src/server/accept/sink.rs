//! The sending halves of TCP connections and Unix sockets, to which an outbox writes.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use socket2::SockRef;
use tokio::net::{tcp, unix};

use crate::outbox::Sink;

/// The sending half of a TCP connection, used by the task that must write the outbox.
pub(crate) struct TcpSink(pub(crate) tcp::OwnedWriteHalf);

impl Sink for TcpSink {
    /// Asks the kernel first, and tokio only after it refused: tokio's state of the socket is one more address in
    /// memory that no cache holds, for every reader of every message.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = self.0.as_ref();
        let written = match slices {
            [one] => send(socket, one, SendFlags::NOSIGNAL),
            several => sendmsg(socket, several, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL),
        };
        match written {
            // tokio notes the refusal, so that it tells when there is room.
            Err(Errno::AGAIN) => self.0.try_write_vectored(slices),
            written => Ok(written?),
        }
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_ref().poll_write_ready(context)
    }

    fn shutdown(&self) {
        // An error means that the peer is gone, which the reading half finds out as well.
        let _ = SockRef::from(self.0.as_ref()).shutdown(std::net::Shutdown::Write);
    }
}

/// The sending half of a connection over a Unix socket.
pub(super) struct UnixSink(pub(super) unix::OwnedWriteHalf);

impl Sink for UnixSink {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_ref().poll_write_ready(context)
    }

    fn shutdown(&self) {
        let _ = SockRef::from(self.0.as_ref()).shutdown(std::net::Shutdown::Write);
    }
}
