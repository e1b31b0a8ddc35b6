//! The stream below hyper. At most one answer waits to be sent, and none is lost when hyper returns the stream.
//!
//! hyper alone guarantees neither. It keeps bytes that its stream does not take in a buffer, which it discards when it
//! returns the stream, and which has no bound for answers without a body. It also answers a malformed head by itself,
//! without a body. So the wire accepts all bytes from hyper and keeps those that the stream does not take. A request waits
//! until the previous answer is sent ([`Turn::begin`]), and bytes that answer no request are dropped.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use hyper::header::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::framing::LengthLines;
use crate::sync::lock;

/// Whose turn it is to send: state shared by a [`Wire`] and the service that answers its requests.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    state: Mutex<State>,
    /// Notified when all bytes are sent.
    sent: Notify,
    /// Notified when a request is answered.
    answered: Notify,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// The stream has not taken all that hyper wrote.
    unsent: bool,
    lengths: LengthLines,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The client's turn.
    #[default]
    Asking,
    /// A request is being answered.
    Answering,
    /// The answer is on its way through hyper.
    Answered,
    /// An endless answer is being sent, as fast as the client takes it.
    Streaming,
}

impl Turn {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waits until the previous answer is sent. Returns the number of `Content-Length` lines that no request's headers have
    /// shown.
    pub(crate) async fn begin(&self, headers: &HeaderMap) -> usize {
        loop {
            let sent = self.sent.notified();
            {
                let mut state = self.state();
                if !state.unsent {
                    state.phase = Phase::Answering;
                    return state.lengths.shown(headers);
                }
            }
            sent.await;
        }
    }

    /// Returns whether a request has promised a longer body than hyper counts.
    pub(crate) fn promises_too_much(&self) -> bool {
        self.state().lengths.is_endless()
    }

    /// Records that the service returns its answer to hyper.
    pub(crate) fn answered(&self) {
        self.state().phase = Phase::Answered;
        self.answered.notify_waiters();
    }

    /// Records that the service returns an endless answer, the last one of the connection. It ends when the client stops
    /// sending.
    pub(crate) fn streams(&self) {
        self.state().phase = Phase::Streaming;
        self.answered.notify_waiters();
    }

    /// Returns whether a request is being answered.
    pub(crate) fn is_answering(&self) -> bool {
        self.state().phase == Phase::Answering
    }

    /// Returns whether an endless answer is being sent.
    pub(crate) fn is_streaming(&self) -> bool {
        self.state().phase == Phase::Streaming
    }

    /// Waits until no request is being answered.
    pub(crate) async fn not_answering(&self) {
        loop {
            let answered = self.answered.notified();
            if !self.is_answering() {
                return;
            }
            answered.await;
        }
    }
}

/// A stream below hyper.
pub(crate) struct Wire<S> {
    stream: S,
    unsent: BytesMut,
    turn: Arc<Turn>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S, turn: Arc<Turn>) -> Wire<S> {
        Wire { stream, unsent: BytesMut::new(), turn }
    }

    /// Returns the stream and the bytes that are still to be written to it.
    pub(crate) fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.unsent)
    }

    /// Writes unsent bytes as far as the stream takes them. Ready when none is left.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.unsent) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => self.unsent.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Flushes an endless answer. It also reads, because nothing else notices that the client is gone.
    fn poll_flush_stream(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [0; 256];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Pin::new(&mut self.stream).poll_flush(context),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut wire.stream).poll_read(context, buffer);
        if read.is_ready() {
            wire.turn.state().lengths.read(&buffer.filled()[before..]);
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    /// Accepts all bytes of an answer that has an end, because hyper would keep the rest.
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        let phase = wire.turn.state().phase;
        match phase {
            Phase::Asking => return Poll::Ready(Ok(bytes.len())),
            Phase::Streaming => return Pin::new(&mut wire.stream).poll_write(context, bytes),
            Phase::Answering | Phase::Answered => {}
        }
        if wire.unsent.is_empty()
            && let Poll::Ready(written) = Pin::new(&mut wire.stream).poll_write(context, bytes)
        {
            return Poll::Ready(written);
        }
        wire.unsent.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Sends. It reports success before everything is sent, because hyper would not return the stream otherwise.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        let phase = wire.turn.state().phase;
        if phase == Phase::Streaming {
            return wire.poll_flush_stream(context);
        }
        let sent = wire.poll_send(context);
        let mut state = wire.turn.state();
        if state.phase == Phase::Answered {
            state.phase = Phase::Asking;
        }
        let waited = state.unsent;
        state.unsent = sent.is_pending();
        if waited && !state.unsent {
            wire.turn.sent.notify_one();
        }
        match sent {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;

    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Bytes that the stream below takes while its peer does not read.
    const ROOM: usize = 64;

    /// Serves requests with a body of `size` bytes until hyper is done or waits. Returns the bytes that were written and
    /// those that were not, and the number of answered requests.
    async fn serve(requests: &[u8], size: usize) -> (Vec<u8>, BytesMut, usize) {
        let (mut client, server) = duplex(ROOM);
        let turn = Arc::new(Turn::default());
        let count = Mutex::new(0);
        let service = service_fn(|request: Request<Incoming>| {
            Box::pin(async {
                let request = request;
                turn.begin(request.headers()).await;
                *lock(&count) += 1;
                turn.answered();
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![b'x'; size]))))
            })
        });
        let mut http = http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(Wire::new(server, turn.clone())), service);
        for piece in requests.chunks(ROOM) {
            // hyper makes room by reading. If it does not, it waits.
            tokio::select! {
                biased;
                _ = poll_fn(|context| http.poll_without_shutdown(context)) => break,
                written = client.write_all(piece) => written.unwrap(),
                () = tokio::time::sleep(std::time::Duration::from_secs(1)) => break,
            }
        }
        let _ = poll_fn(|context| Poll::Ready(http.poll_without_shutdown(context).is_ready())).await;
        let (server, unsent) = http.into_parts().io.into_inner().into_parts();
        drop::<DuplexStream>(server);
        let mut written = Vec::new();
        client.read_to_end(&mut written).await.unwrap();
        let count = *lock(&count);
        (written, unsent, count)
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_waits_and_the_next_request_with_it() {
        // Answers to HEAD have no body, and hyper bounds its buffer by bodies only. A late body lets it continue.
        for request in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"HEAD / HTTP/1.1\r\n\r\n",
            b"HEAD / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
        ] {
            let (written, unsent, count) = serve(&request.repeat(1000), 1000).await;
            assert_eq!((written.len(), count), (ROOM, 1));
            assert!(!unsent.is_empty() && unsent.len() < 2000, "{} bytes", unsent.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unsent_bytes_are_kept_when_the_stream_is_returned() {
        let (written, unsent, _) = serve(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\nGET /", 1000).await;
        let answer = [&written[..], &unsent].concat();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(&[b'x'; 1000]));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_hyper_makes_by_itself_are_dropped() {
        for noise in [&b"noise\r\n\r\n"[..], b"GET /\"?\" HTTP/1.1\r\n\r\n", b"\x16\x03\x01"] {
            let (written, unsent, count) = serve(noise, 0).await;
            assert_eq!((written.len(), unsent.len(), count), (0, 0, 0));
        }
    }
}
