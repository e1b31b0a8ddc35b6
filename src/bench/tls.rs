//! TLS between the generator's frames and its sockets.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::error::BenchError;
use crate::trust::client_config;

/// How a server behind TLS is met: by which name, and whom it may be vouched for by.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Meets the server `host`, trusting the authorities in a file, or the system's.
    ///
    /// # Errors
    /// The host is no name, or the file holds no authorities.
    pub(super) fn new(host: &str, authorities: Option<&Path>) -> Result<Tls, BenchError> {
        let mut config = client_config(authorities).map_err(BenchError::Trust)?;
        // Each connection has the whole handshake, as those of different clients have.
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(host.to_owned()).map_err(|_| BenchError::Url(host.to_owned()))?;
        Ok(Tls { config: Arc::new(config), name })
    }

    pub(super) fn begin(&self) -> io::Result<Session> {
        let mut session =
            ClientConnection::new(self.config.clone(), self.name.clone()).map_err(io::Error::other)?;
        // What it holds is bounded by the messages in flight.
        session.set_buffer_limit(None);
        Ok(Session(Box::new(session)))
    }
}

/// One connection's state.
pub(super) struct Session(Box<ClientConnection>);

impl Session {
    /// Takes what came from the socket, and appends what was in it to `plain`.
    pub(super) fn decrypt(&mut self, mut cipher: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
        while !cipher.is_empty() {
            self.0.read_tls(&mut cipher)?;
            let state = self.0.process_new_packets().map_err(io::Error::other)?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            self.0.reader().read_exact(&mut plain[start..])?;
        }
        Ok(())
    }

    /// Takes all of `unsent`, and sends what there is as far as the socket takes it.
    pub(super) fn send(&mut self, unsent: &mut Vec<u8>, socket: &mut impl Write) -> io::Result<()> {
        self.0.writer().write_all(unsent)?;
        unsent.clear();
        while self.0.wants_write() {
            match self.0.write_tls(socket) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn wants_write(&self) -> bool {
        self.0.wants_write()
    }
}
