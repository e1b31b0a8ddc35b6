//! The stream of a connection: TCP, a Unix socket, or TLS over TCP. A session leaves it to its outbox.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_user_timeout;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tls::TlsStream;
use crate::outbox::Socket;

/// The least time after which the system ends a connection: a slow reader may keep its window closed for this long.
const LEAST_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Has the system end a TCP connection whose client confirms nothing of what was sent for this time, or keeps its window
/// closed. Set on a listening socket, it holds for the connections that arrive later.
pub(super) fn set_user_timeout(socket: impl AsFd, timeout: Duration) {
    let millis = timeout.max(LEAST_USER_TIMEOUT).as_millis();
    // Without this option everything works; the heartbeat takes longer if much was sent.
    let _ = set_tcp_user_timeout(socket, u32::try_from(millis).unwrap_or(u32::MAX));
}

/// A connection while HTTP is spoken.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Returns whether bytes, the end or an error wait in the socket. It does not ask tokio, which takes a new socket
    /// for readable.
    pub(super) fn has_input(&self) -> bool {
        let peeked = match self {
            Stream::Tcp(stream) => recv(stream, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT),
            Stream::Unix(stream) => recv(stream, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT),
            Stream::Tls(stream) => recv(stream.tcp(), &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT),
        };
        peeked != Err(Errno::AGAIN)
    }

    /// Waits until a read has a result: bytes, the end or an error.
    ///
    /// tokio takes a socket that was just accepted for readable, so this asks the kernel.
    pub(crate) async fn readable(&self) {
        // The read finds this error as well.
        let _ = match self {
            Stream::Tcp(stream) => stream.peek(&mut [0]).await.map(drop),
            Stream::Unix(stream) => loop {
                if let Err(error) = stream.readable().await {
                    break Err(error);
                }
                let peek = || Ok(recv(stream, &mut [0], RecvFlags::PEEK)?);
                match stream.try_io(Interest::READABLE, peek) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    peeked => break peeked.map(drop),
                }
            },
            Stream::Tls(stream) => stream.readable().await,
        };
    }

    /// Has the system end a TCP connection as [`set_user_timeout`] says. It is the second line behind the heartbeat, and
    /// spares a client that still reads.
    pub(crate) fn set_user_timeout(&self, timeout: Duration) {
        let socket = match self {
            Stream::Tcp(stream) => stream,
            Stream::Unix(_) => return,
            Stream::Tls(stream) => stream.tcp(),
        };
        set_user_timeout(socket, timeout);
    }

    /// Returns the socket that a session works with.
    pub(crate) fn into_socket(self) -> Socket {
        match self {
            Stream::Tcp(stream) => Socket::Tcp(stream),
            Stream::Unix(stream) => Socket::Other(Box::new(stream)),
            Stream::Tls(stream) => Socket::Other(stream),
        }
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}
