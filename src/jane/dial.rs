//! Connects to the server: TCP, TLS, and one HTTP request, which opens a WebSocket or gets an answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::args::Server;
use super::error::Error;
use super::input::MAX_LINE;
use crate::admin::api::Hidden;

/// The time limit from the first packet to the answer.
const DEADLINE: Duration = Duration::from_secs(20);
/// The most bytes of an HTTP answer.
const MAX_ANSWER: usize = 1024 * 1024;
/// The most bytes that wait for a server that reads nothing: the longest line, in which JSON may write one byte as six, and
/// pongs.
const MAX_UNSENT: usize = 8 * MAX_LINE;

/// A WebSocket over TCP or TLS.
pub(super) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// A server, and how to connect to it.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) server: Server,
    /// The TLS configuration; `None` without TLS.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Dial {
    /// Opens a WebSocket.
    pub(super) async fn websocket(&self, token: &Hidden) -> Result<Socket, Error> {
        let not_websocket = || Error::NotWebSocket { server: self.server.to_string() };
        let key = generate_key();
        let accept = derive_accept_key(key.as_bytes());
        let request = self
            .request(self.server.path(), token)?
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket");
        let request = request.header("Sec-WebSocket-Version", "13").header("Sec-WebSocket-Key", key);
        self.in_time(async {
            let answer = self.exchange(request).await?;
            if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(self.refusal(answer).await);
            }
            if answer.headers().get("Sec-WebSocket-Accept").is_none_or(|given| *given != accept) {
                return Err(not_websocket());
            }
            let upgraded = hyper::upgrade::on(answer).await.map_err(|_| not_websocket())?;
            // Beyond this a pong takes the place of the last one that waits.
            let config = WebSocketConfig::default().max_write_buffer_size(MAX_UNSENT);
            Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await)
        })
        .await
    }

    /// Returns the answer to `GET /api/info`.
    pub(super) async fn info(&self, token: &Hidden) -> Result<serde_json::Value, Error> {
        let request = self.request(&self.server.api("/api/info"), token)?;
        self.in_time(async {
            let answer = self.exchange(request).await?;
            if answer.status() != StatusCode::OK {
                return Err(self.refusal(answer).await);
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| Error::Lost { why: error.to_string() })?.to_bytes();
            serde_json::from_slice(&body).map_err(|_| Error::Refused {
                server: self.server.to_string(),
                status: 200,
                message: "the answer is not from a Philote server".into(),
            })
        })
        .await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        timeout(DEADLINE, work)
            .await
            .unwrap_or_else(|_| Err(Error::TimedOut { server: self.server.to_string() }))
    }

    fn request(&self, path: &str, token: &Hidden) -> Result<hyper::http::request::Builder, Error> {
        let mut bearer =
            HeaderValue::try_from(format!("Bearer {}", token.0)).map_err(|_| Error::NotAToken)?;
        bearer.set_sensitive(true);
        Ok(Request::get(path).header(HOST, self.server.authority()).header(AUTHORIZATION, bearer))
    }

    async fn exchange(&self, request: hyper::http::request::Builder) -> Result<Response<Incoming>, Error> {
        let server = || self.server.to_string();
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| Error::Connect { server: server(), source: io::Error::other(error) })?;
        let stream = self.connect().await?;
        let broken = |error: hyper::Error| {
            if error.is_parse() {
                Error::NotWebSocket { server: server() }
            } else {
                Error::Connect { server: server(), source: io::Error::other(error) }
            }
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(broken)
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, Error> {
        let Server { host, port, .. } = &self.server;
        let failed = |source| Error::Connect { server: self.server.to_string(), source };
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
        // A typed line is sent at once.
        stream.set_nodelay(true).map_err(failed)?;
        let Some(config) = self.tls.clone() else { return Ok(Box::new(stream)) };
        let failed = |source| Error::Tls { server: self.server.to_string(), source };
        let name = ServerName::try_from(host.clone()).map_err(|error| failed(io::Error::other(error)))?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(failed)?;
        Ok(Box::new(stream))
    }

    /// Reads the error in an answer.
    async fn refusal(&self, answer: Response<Incoming>) -> Error {
        #[derive(Deserialize)]
        struct Refusal {
            message: String,
        }
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let message = match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => refusal.message,
            Err(_) => status.canonical_reason().unwrap_or("no reason given").to_owned(),
        };
        Error::Refused { server: self.server.to_string(), status: status.as_u16(), message }
    }
}
