//! One connection's life: what is typed goes out, what arrives is shown, until one side has enough.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Bytes, Message};

use super::error::Error;
use super::input::{self, Source};
use super::print::{self, Shown};
use crate::terminal::{Style, complain};

/// After so long a silence we ask whether the server is there, and after as long again it is not. Servers ping
/// every 25 s, so that we seldom need to ask.
const SILENCE: Duration = Duration::from_secs(40);
/// For the server to take all that was sent and to say so.
const CONFIRM: Duration = Duration::from_secs(20);

/// Standard input and output, which outlive a connection.
pub(super) struct Console {
    source: Source,
    lines: mpsc::Receiver<Result<String, Error>>,
    /// A line that was taken from `lines` and has not been sent.
    pending: Option<String>,
    style: Style,
    /// Lines that were not published, each told when it happened.
    refused: u64,
    /// Something was sent on a connection that broke before the server confirmed it.
    doubtful: bool,
}

#[derive(Serialize)]
struct Publish<'a> {
    channel: &'a str,
    data: &'a str,
}

impl Console {
    /// Begins to read standard input.
    pub(super) fn new() -> Result<Self, Error> {
        let source = Source::of_stdin();
        let (lines, style) = (input::start(source)?, Style::of(&io::stdout()));
        Ok(Self { source, lines, pending: None, style, refused: 0, doubtful: false })
    }

    /// What came of the whole. On a terminal people have seen it themselves.
    pub(super) fn verdict(&self) -> Result<(), Error> {
        match self {
            Self { source: Source::Terminal, .. } => Ok(()),
            Self { refused: 1.., .. } => Err(Error::NotPublished { lines: self.refused }),
            Self { doubtful: true, .. } => Err(Error::Unconfirmed),
            _ => Ok(()),
        }
    }

    /// Publishes on `channel` and shows what arrives, until the input ends or nobody reads the output.
    pub(super) async fn talk<S>(
        &mut self,
        socket: &mut WebSocketStream<S>,
        channel: &str,
    ) -> Result<(), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut sent = false;
        let ended = self.until_end(socket, channel, &mut sent).await;
        self.doubtful |= sent && ended.is_err();
        ended
    }

    async fn until_end<S>(
        &mut self,
        socket: &mut WebSocketStream<S>,
        channel: &str,
        sent: &mut bool,
    ) -> Result<(), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut asked, mut heard) = (false, Instant::now());
        loop {
            if let Some(line) = &self.pending {
                send(socket, channel, line).await?;
                *sent = true;
                self.pending = None;
            }
            tokio::select! {
                line = self.lines.recv(), if self.source != Source::Nothing => match line {
                    // An empty line on a terminal is a slip of the return key.
                    Some(Ok(line)) if line.is_empty() && self.source == Source::Terminal => {}
                    Some(Ok(line)) => self.pending = Some(line),
                    Some(Err(error)) => {
                        complain(&error.to_string(), None);
                        self.refused += 1;
                    }
                    None => match self.leave(socket).await {
                        // Who pressed Ctrl-D is not to be kept waiting by a server that is gone.
                        _ if self.source == Source::Terminal => return Ok(()),
                        left => return left,
                    },
                },
                frame = timeout_at(heard + SILENCE, socket.next()) => match frame {
                    Ok(frame) => {
                        (asked, heard) = (false, Instant::now());
                        if self.receive(frame)?.is_break() {
                            return Ok(());
                        }
                    }
                    Err(_) if asked => return Err(Error::Lost { why: "the server is silent".into() }),
                    Err(_) => {
                        (asked, heard) = (true, Instant::now());
                        socket.send(Message::Ping(Bytes::new())).await.map_err(lost)?;
                    }
                },
            }
        }
    }

    /// Shows one frame; breaks where nobody reads our output any more.
    fn receive(
        &mut self,
        frame: Option<Result<Message, tungstenite::Error>>,
    ) -> Result<ControlFlow<()>, Error> {
        match frame {
            Some(Ok(Message::Text(text))) => match print::show(&text, self.style) {
                Shown::Delivery(line) => return write(&line),
                Shown::Refusal(reason) => {
                    complain(&reason, None);
                    self.refused += 1;
                }
                Shown::Nothing => {}
            },
            Some(Ok(Message::Close(frame))) => return Err(Error::closed(frame)),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(lost(error)),
            None => return Err(Error::closed(None)),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Says goodbye. The server reads in order, so that its answer means that it has had all lines.
    async fn leave<S>(&mut self, socket: &mut WebSocketStream<S>) -> Result<(), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let confirmed = async {
            socket.send(Message::Close(Some(goodbye))).await.map_err(lost)?;
            loop {
                match socket.next().await {
                    Some(Ok(Message::Close(frame))) => {
                        let ours = frame.as_ref().is_none_or(|frame| frame.code == CloseCode::Normal);
                        return if ours { Ok(()) } else { Err(Error::closed(frame)) };
                    }
                    frame => {
                        let _ = self.receive(frame)?;
                    }
                }
            }
        };
        timeout(CONFIRM, confirmed).await.unwrap_or(Err(Error::Unconfirmed))
    }
}

async fn send<S>(socket: &mut WebSocketStream<S>, channel: &str, data: &str) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let text = serde_json::to_string(&Publish { channel, data }).unwrap_or_default();
    match timeout(SILENCE, socket.send(Message::text(text))).await {
        Ok(Ok(())) => Ok(()),
        // The server's reason may have arrived before; it is worth more than a broken pipe.
        Ok(Err(error)) => match timeout(SILENCE, socket.next()).await {
            Ok(Some(Ok(Message::Close(frame)))) => Err(Error::closed(frame)),
            _ => Err(lost(error)),
        },
        Err(_) => Err(Error::Lost { why: "the server takes nothing".into() }),
    }
}

fn lost(error: tungstenite::Error) -> Error {
    let why = match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => "it was closed".into(),
        tungstenite::Error::Protocol(_) => "it broke off, or what came was not WebSocket".into(),
        tungstenite::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    };
    Error::Lost { why }
}

fn write(line: &str) -> Result<ControlFlow<()>, Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Error::Output(error)),
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_asked_and_then_given_up() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let mut ours = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        let mut theirs = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        let (_keyboard, lines) = mpsc::channel(1);
        let style = Style { terminal: false, colour: false };
        let mut console =
            Console { source: Source::Stream, lines, pending: None, style, refused: 0, doubtful: false };
        let start = Instant::now();
        let server = async {
            // Answers the first question by reading it, and then nothing any more.
            assert!(matches!(theirs.next().await, Some(Ok(Message::Ping(_)))));
            theirs.flush().await.unwrap();
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            ended = console.talk(&mut ours, "c") => ended,
            () = server => unreachable!(),
        };
        assert_eq!(ended.unwrap_err().to_string(), "connection lost: the server is silent");
        assert_eq!(
            start.elapsed(),
            4 * SILENCE - SILENCE,
            "asked after one, answered, asked after two, given up after three"
        );
    }
}
