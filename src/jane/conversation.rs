//! One connection: publishes the input and prints deliveries until either side ends it.

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

/// After this much silence jane sends a ping, and after as much again it gives the connection up. Servers ping every
/// 25 s, so that jane's ping is rarely needed.
const SILENCE: Duration = Duration::from_secs(40);
/// The time limit for the server to receive everything and to confirm it.
const CONFIRM: Duration = Duration::from_secs(20);

/// Standard input and output, which several connections share.
pub(super) struct Console {
    source: Source,
    lines: mpsc::Receiver<Result<String, Error>>,
    /// A line that was taken from `lines` and is not sent yet.
    pending: Option<String>,
    style: Style,
    /// The number of lines that were not published. An error was printed for each.
    unpublished: u64,
    /// Whether a connection broke before the server confirmed what was sent.
    unconfirmed: bool,
}

#[derive(Serialize)]
struct Publish<'a> {
    channel: &'a str,
    data: &'a str,
}

impl Console {
    /// Starts to read standard input.
    pub(super) fn new() -> Result<Self, Error> {
        let source = Source::of_stdin();
        let (lines, style) = (input::start(source)?, Style::of(&io::stdout()));
        Ok(Self { source, lines, pending: None, style, unpublished: 0, unconfirmed: false })
    }

    /// Returns the result at the end of the input. On a terminal the user has seen the errors.
    pub(super) fn verdict(&self) -> Result<(), Error> {
        match self {
            Self { source: Source::Terminal, .. } => Ok(()),
            Self { unpublished: 1.., .. } => Err(Error::NotPublished { lines: self.unpublished }),
            Self { unconfirmed: true, .. } => Err(Error::Unconfirmed),
            _ => Ok(()),
        }
    }

    /// Publishes on `channel` and prints deliveries until the input ends or the reader of the output has closed it.
    pub(super) async fn run<S>(&mut self, socket: &mut WebSocketStream<S>, channel: &str) -> Result<(), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut sent = false;
        let ended = self.until_end(socket, channel, &mut sent).await;
        self.unconfirmed |= sent && ended.is_err();
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
                    // An empty line on a terminal is taken as a mistake.
                    Some(Ok(line)) if line.is_empty() && self.source == Source::Terminal => {}
                    Some(Ok(line)) => self.pending = Some(line),
                    Some(Err(error)) => {
                        complain(&error.to_string(), None);
                        self.unpublished += 1;
                    }
                    None => match self.leave(socket).await {
                        // A user who pressed Ctrl-D does not wait for a server that does not answer.
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

    /// Prints one frame; breaks if the reader of the output has closed it.
    fn receive(
        &mut self,
        frame: Option<Result<Message, tungstenite::Error>>,
    ) -> Result<ControlFlow<()>, Error> {
        match frame {
            Some(Ok(Message::Text(text))) => match print::show(&text, self.style) {
                Shown::Delivery(line) => return write(&line),
                Shown::Refusal(reason) => {
                    complain(&reason, None);
                    self.unpublished += 1;
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

    /// Sends a Close frame and waits for the answer. The server reads in order, so it has received all lines by then.
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

/// Asks to read channels that the token does not name.
pub(super) async fn join<S>(socket: &mut WebSocketStream<S>, channels: &[&str]) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    send_text(socket, serde_json::json!({"join": channels}).to_string()).await
}

async fn send<S>(socket: &mut WebSocketStream<S>, channel: &str, data: &str) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    send_text(socket, serde_json::to_string(&Publish { channel, data }).unwrap_or_default()).await
}

async fn send_text<S>(socket: &mut WebSocketStream<S>, text: String) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match timeout(SILENCE, socket.send(Message::text(text))).await {
        Ok(Ok(())) => Ok(()),
        // The server's Close frame may have arrived before. Its reason says more than a broken pipe.
        Ok(Err(error)) => match timeout(SILENCE, socket.next()).await {
            Ok(Some(Ok(Message::Close(frame)))) => Err(Error::closed(frame)),
            _ => Err(lost(error)),
        },
        Err(_) => Err(Error::Lost { why: "the server reads nothing".into() }),
    }
}

fn lost(error: tungstenite::Error) -> Error {
    let why = match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => "it was closed".into(),
        tungstenite::Error::Protocol(_) => "it broke, or the server did not send WebSocket frames".into(),
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
    async fn a_silent_server_is_pinged_and_then_given_up() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let mut ours = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        let mut theirs = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        let (_keyboard, lines) = mpsc::channel(1);
        let style = Style { terminal: false, colour: false };
        let mut console = Console {
            source: Source::Stream,
            lines,
            pending: None,
            style,
            unpublished: 0,
            unconfirmed: false,
        };
        let start = Instant::now();
        let server = async {
            // Answers the first ping, and then nothing.
            assert!(matches!(theirs.next().await, Some(Ok(Message::Ping(_)))));
            theirs.flush().await.unwrap();
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            ended = console.run(&mut ours, "c") => ended,
            () = server => unreachable!(),
        };
        assert_eq!(ended.unwrap_err().to_string(), "connection lost: the server is silent");
        assert_eq!(
            start.elapsed(),
            4 * SILENCE - SILENCE,
            "pinged after one, answered, pinged after two, given up after three"
        );
    }
}
