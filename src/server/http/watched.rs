//! A stream while HTTP is spoken, which notifies when bytes have come and when everything is written.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server::accept::stream::Stream;

/// What is notified.
pub(crate) trait Watch: Unpin {
    /// Bytes have come.
    fn heard(&self);
    /// The kernel has taken everything that was to be written so far.
    fn flushed(&self, stream: &Stream);
}

/// A stream and its observer.
pub(crate) struct Watched<W> {
    stream: Stream,
    /// Bytes that were read already, and come first.
    read: Vec<u8>,
    watch: W,
}

impl<W> Watched<W> {
    pub(crate) fn new(stream: Stream, read: Vec<u8>, watch: W) -> Watched<W> {
        Watched { stream, read, watch }
    }

    pub(crate) fn into_inner(self) -> Stream {
        self.stream
    }
}

impl<W: Watch> AsyncRead for Watched<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.read.is_empty() {
            let count = self.read.len().min(buffer.remaining());
            buffer.put_slice(&self.read[..count]);
            self.read.drain(..count);
            if self.read.is_empty() {
                self.read = Vec::new();
            }
            self.watch.heard();
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.watch.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl<W: Watch> AsyncWrite for Watched<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.watch.flushed(&self.stream);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
