//! A server that a test scripts step by step.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use serde_json::Value;
use tokio_rustls::rustls;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept_hdr};

pub(crate) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Listens on a port that the system chooses.
pub(crate) struct Server(TcpListener);

impl Server {
    pub(crate) fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// The next client's TCP connection.
    pub(crate) fn tcp(&self) -> TcpStream {
        self.0.accept().unwrap().0
    }

    /// The address, for `-p`.
    pub(crate) fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    /// The next client's WebSocket.
    pub(crate) fn accept(&self) -> Peer {
        Peer::over(Box::new(self.0.accept().unwrap().0))
    }

    /// The next client's WebSocket over TLS.
    pub(crate) fn accept_tls(&self, config: Arc<rustls::ServerConfig>) -> Peer {
        let connection = rustls::ServerConnection::new(config).unwrap();
        Peer::over(Box::new(rustls::StreamOwned::new(connection, self.0.accept().unwrap().0)))
    }

    /// Reads the next client's request and answers with these bytes, in one write for each; returns the request's head.
    pub(crate) fn answer(&self, parts: &[&str]) -> String {
        let mut stream = self.0.accept().unwrap().0;
        let head = head(&mut stream);
        for part in parts {
            stream.write_all(part.as_bytes()).unwrap();
            stream.flush().unwrap();
        }
        head
    }
}

fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

/// The connection of one client.
pub(crate) struct Peer {
    socket: WebSocket<Box<dyn Stream>>,
    pub(crate) authorization: String,
}

impl Peer {
    fn over(stream: Box<dyn Stream>) -> Self {
        let mut authorization = String::new();
        #[expect(clippy::result_large_err, reason = "tungstenite's callback")]
        let socket =
            accept_hdr(stream, |request: &Request, response: Response| -> Result<_, ErrorResponse> {
                assert_eq!(request.uri().to_string(), "/", "the token must not be in the URL");
                authorization = request.headers()["authorization"].to_str().unwrap().into();
                Ok(response)
            });
        Self { socket: socket.unwrap(), authorization }
    }

    /// The claims of the client's token, if it was signed with `secret`.
    pub(crate) fn claims(&self, secret: &str) -> Value {
        claims(&self.authorization, secret)
    }

    /// The next message, as JSON.
    pub(crate) fn recv(&mut self) -> Value {
        loop {
            match self.socket.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// Sends this many of the longest pings, and reads nothing.
    pub(crate) fn ping(&mut self, count: usize) {
        for _ in 0..count {
            self.socket.write(Message::Ping(vec![0; 125].into())).unwrap();
        }
        self.socket.flush().unwrap();
    }

    /// Delivers `data` on the channel chat.
    pub(crate) fn deliver(&mut self, data: &str) {
        let issuer = "0123abcd-0000-4000-8000-000000000000";
        let frame = serde_json::json!({"issuer": issuer, "channel": "chat", "data": data, "subject": "ada"});
        self.send(&frame.to_string());
    }

    /// Closes the connection, and reads until the client has closed it too.
    pub(crate) fn close(mut self, code: u16, reason: &str) {
        self.socket.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).unwrap();
        while self.socket.read().is_ok() {}
    }

    /// Reads and answers the client's Close, and returns its code.
    pub(crate) fn goodbye(mut self) -> u16 {
        let code = match self.socket.read().unwrap() {
            Message::Close(frame) => frame.map_or(1005, |frame| frame.code.into()),
            other => panic!("{other:?}"),
        };
        while self.socket.read().is_ok() {}
        code
    }
}

/// The claims of the token in an `Authorization` header.
pub(crate) fn claims(authorization: &str, secret: &str) -> Value {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    let token = authorization.strip_prefix("Bearer ").unwrap();
    let key = DecodingKey::from_secret(secret.as_bytes());
    decode::<Value>(token, &key, &Validation::new(Algorithm::HS256)).unwrap().claims
}
