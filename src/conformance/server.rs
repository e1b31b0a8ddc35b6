//! The server of one case, which does as the case says: it counts attempts to connect, and speaks philote.v1 or breaks it.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::Broken;

/// The most attempts to connect that wait for a case. A client that makes more has no backoff.
const MAX_ATTEMPTS: usize = 1000;

/// The longest request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// How long a client may take for its request or its answer to a Close, after which the connection is cut.
const POLITE: Duration = Duration::from_secs(5);

/// The wait for the rest of a request that arrives in parts.
const PEEK_AGAIN: Duration = Duration::from_millis(5);

/// The subprotocol.
const V1: &str = "philote.v1";

/// A server that listens until it is dropped.
pub(super) struct Server {
    address: SocketAddr,
    attempts: mpsc::Receiver<Attempt>,
    accepting: JoinHandle<()>,
}

/// A connection of the client that has no answer yet.
pub(super) struct Attempt {
    stream: TcpStream,
    /// When it was made.
    pub(super) at: Instant,
}

impl Server {
    /// Listens on a port of this machine that the system chooses.
    pub(super) async fn start() -> io::Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (accepted, attempts) = mpsc::channel(MAX_ATTEMPTS);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let attempt = Attempt { stream, at: Instant::now() };
                if accepted.send(attempt).await.is_err() {
                    return;
                }
            }
        });
        Ok(Server { address, attempts, accepting })
    }

    pub(super) fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// Waits for the next attempt.
    pub(super) async fn attempt(&mut self) -> Attempt {
        match self.attempts.recv().await {
            Some(attempt) => attempt,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Attempt {
    /// Returns whether it asks for a WebSocket. A client may try another way, which this server does not have.
    pub(super) async fn is_upgrade(&self) -> bool {
        let mut head = vec![0; MAX_HEAD];
        let look = async {
            loop {
                let count = self.stream.peek(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..count]).to_ascii_lowercase();
                if count == 0 || count == MAX_HEAD || head.contains("\r\n\r\n") {
                    return head.contains("\r\nupgrade:");
                }
                sleep(PEEK_AGAIN).await;
            }
        };
        timeout(POLITE, look).await.unwrap_or(true)
    }

    /// Refuses it with 503, as a proxy in front of a server that restarts.
    pub(super) async fn unavailable(mut self) {
        const ANSWER: &[u8] =
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let answered = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
                head.push(self.stream.read_u8().await?);
            }
            self.stream.write_all(ANSWER).await?;
            self.stream.shutdown().await?;
            self.stream.read_u8().await
        };
        let _ = timeout(POLITE, answered).await;
    }

    /// Answers the upgrade.
    pub(super) async fn upgrade(self) -> Result<Peer, Broken> {
        let (mut target, mut offers) = (String::new(), false);
        #[expect(clippy::result_large_err, reason = "tungstenite's callback")]
        let look = |request: &Request, mut response: Response| {
            target = request.uri().to_string();
            let offered = request.headers().get_all("Sec-WebSocket-Protocol").iter();
            offers = offered
                .filter_map(|line| line.to_str().ok())
                .flat_map(|line| line.split(','))
                .any(|one| one.trim() == V1);
            if offers && let Ok(value) = V1.parse() {
                response.headers_mut().insert("Sec-WebSocket-Protocol", value);
            }
            Ok::<Response, ErrorResponse>(response)
        };
        let upgraded = timeout(POLITE, tokio_tungstenite::accept_hdr_async(self.stream, look)).await;
        let socket = match upgraded {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => {
                return Err(Broken(format!("its request is no upgrade to a WebSocket: {error}")));
            }
            Err(_) => return Err(Broken(format!("it sent no whole request within {} s", POLITE.as_secs()))),
        };
        if !offers {
            return Err(Broken("it does not offer the subprotocol philote.v1".into()));
        }
        Ok(Peer { socket, target })
    }
}

/// The client's first message, or another one with a token.
#[derive(Debug)]
pub(super) struct Auth {
    pub(super) token: String,
    pub(super) since: BTreeMap<String, Option<String>>,
}

/// The server's end of a connection.
pub(super) struct Peer {
    socket: WebSocketStream<TcpStream>,
    /// The path and the query of the request.
    pub(super) target: String,
}

impl Peer {
    /// Returns the next message, as JSON. An error is the end of the connection.
    pub(super) async fn receive(&mut self) -> Result<Value, Broken> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text)
                        .map_err(|error| Broken(format!("it sent a message that is not JSON: {error}")));
                }
                Some(Ok(Message::Binary(_))) => return Err(Broken("it sent a binary message".into())),
                Some(Ok(Message::Close(close))) => {
                    let code = close.map_or(1005, |close| close.code.into());
                    return Err(Broken(format!("it closed the connection with {code}")));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Broken(format!("it ended the connection: {error}"))),
                None => return Err(Broken("it ended the connection".into())),
            }
        }
    }

    /// Returns the next message with a token.
    pub(super) async fn auth(&mut self) -> Result<Auth, Broken> {
        let message = self.receive().await?;
        let Some(token) = message["auth"].as_str() else {
            let keys: Vec<_> = message.as_object().into_iter().flat_map(|object| object.keys()).collect();
            return Err(Broken(format!("a token was expected, but it sent an object with {keys:?}")));
        };
        let since = message["since"].as_object().into_iter().flatten();
        let since = since.map(|(channel, id)| (channel.clone(), id.as_str().map(str::to_owned))).collect();
        Ok(Auth { token: token.to_owned(), since })
    }

    /// Sends a frame. If the client has ended the connection, the next [`receive`](Peer::receive) tells.
    pub(super) async fn send(&mut self, frame: &Value) {
        self.send_text(frame.to_string()).await;
    }

    pub(super) async fn send_text(&mut self, text: String) {
        let _ = self.socket.send(Message::text(text)).await;
    }

    /// Accepts the token. `more` adds to what it allows.
    pub(super) async fn access(&mut self, more: Value) {
        let mut access = json!({
            "connection": "0f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a",
            "subject": "conformance",
            "read": ["chat"],
            "write": ["chat", "secret"],
            "may": {"read": ["room:*"], "write": []},
            "expires_at": null,
            "max_message_size": 65_536,
            "ids": {"chat": "E-0"},
        });
        if let (Some(access), Value::Object(more)) = (access.as_object_mut(), more) {
            access.extend(more);
        }
        self.send(&json!({ "access": access })).await;
    }

    /// Delivers a message of the channel chat.
    pub(super) async fn say(&mut self, id: &str, data: &str) {
        self.deliver("chat", id, data).await;
    }

    pub(super) async fn deliver(&mut self, channel: &str, id: &str, data: &str) {
        let issuer = "7b1c2d3e-0000-4000-8000-000000000000";
        self.send(&json!({"issuer": issuer, "channel": channel, "data": data, "id": id})).await;
    }

    /// Sends bytes that no library would send.
    pub(super) async fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.socket.get_mut().write_all(bytes).await;
    }

    /// Sends a ping, and waits for the pong with the same payload. Other messages are skipped.
    pub(super) async fn ping(&mut self, payload: &'static [u8]) -> Result<(), Broken> {
        let _ = self.socket.send(Message::Ping(payload.into())).await;
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Pong(pong))) if pong == payload => return Ok(()),
                Some(Ok(Message::Pong(_))) => return Err(Broken("its pong has another payload".into())),
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    return Err(Broken("it ended the connection".into()));
                }
                Some(Ok(_)) => {}
            }
        }
    }

    /// Closes the connection, and gives the client time for its answer.
    pub(super) async fn close(mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        let answered = async {
            self.socket.send(Message::Close(Some(frame))).await?;
            while self.socket.next().await.transpose()?.is_some() {}
            Ok::<_, tokio_tungstenite::tungstenite::Error>(())
        };
        let _ = timeout(POLITE, answered).await;
    }

    /// Reads to the client's Close, and returns its code.
    pub(super) async fn closed(mut self) -> Result<u16, Broken> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Close(close))) => {
                    let code = close.map_or(1005, |close| close.code.into());
                    // The answer is written by the next read.
                    let _ = timeout(POLITE, self.socket.next()).await;
                    return Ok(code);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Broken("it ended the connection without a Close".into())),
            }
        }
    }
}
