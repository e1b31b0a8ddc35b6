//! TLS between a socket and HTTP: the server's side of the handshake, and its certificate.
//!
//! [`connection`] reads and writes, [`state`] is what both share, and [`tickets`] let clients resume.

mod connection;
mod state;
mod tickets;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio::net::TcpStream;

pub(crate) use self::connection::TlsStream;
use self::tickets::Tickets;
use crate::config::{TlsSettings, provider};

/// The server's side of all handshakes: one configuration, whose certificate can be replaced.
pub(crate) struct Acceptor {
    config: Arc<ServerConfig>,
    certificate: Arc<Certificate>,
    tickets: Arc<Tickets>,
}

#[derive(Debug, Default)]
struct Certificate(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl Acceptor {
    /// Makes a configuration for TLS 1.2 and 1.3, with tickets for clients that come back, and HTTP/1.1 as the only
    /// protocol.
    ///
    /// # Errors
    /// The cryptography library lacks what it was built with.
    pub(crate) fn new() -> Result<Acceptor, rustls::Error> {
        let certificate = Arc::new(Certificate::default());
        let provider = provider();
        let tickets = Arc::new(Tickets::new()?);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = tickets.clone();
        // Tickets carry the session, so that the server stores none.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Ok(Acceptor { config: Arc::new(config), certificate, tickets })
    }

    /// Uses this certificate for handshakes from now on. Without one the last certificate stays, because its
    /// listeners stay too.
    ///
    /// With another certificate no session of before is resumed. A certificate may be replaced because others know its
    /// key, and a client that resumes does not look at the certificate.
    pub(crate) fn set(&self, tls: Option<&TlsSettings>) {
        let Some(tls) = tls else { return };
        let before = self.certificate.0.swap(Some(tls.certified.clone()));
        if before.is_some_and(|before| before.cert != tls.certified.cert) {
            self.tickets.replace();
        }
    }

    /// Does the handshake, and calls `heard` whenever the client has sent something. On failure, the bytes so far
    /// tell whether the client spoke TLS at all.
    ///
    /// # Errors
    /// Why there is no TLS connection.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        heard: impl Fn(),
    ) -> Result<TlsStream, HandshakeError> {
        let connection = UnbufferedServerConnection::new(self.config.clone())
            .map_err(|error| HandshakeError { error: Some(error), plain: None })?;
        let mut stream = TlsStream::new(stream, connection);
        match stream.shake_hands(heard).await {
            Ok(()) => Ok(stream),
            Err((error, looks_plain)) => {
                let plain = looks_plain.then(|| stream.into_plain());
                Err(HandshakeError { error, plain })
            }
        }
    }
}

/// Why a handshake failed.
pub(crate) struct HandshakeError {
    /// The error of rustls; `None` if the client closed the connection.
    pub(crate) error: Option<rustls::Error>,
    /// The connection, if its client spoke HTTP and can be told.
    pub(crate) plain: Option<TcpStream>,
}
