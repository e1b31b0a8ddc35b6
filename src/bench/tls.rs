//! TLS between the generator's frames and its sockets.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::error::BenchError;
use crate::root_certificates::client_config;

/// How to connect to a server over TLS: its name, and the authorities to trust.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// For the server `host`, trusting the authorities in a file, or those of the system.
    ///
    /// # Errors
    /// The host is not a valid name, or the file contains no authorities.
    pub(super) fn new(host: &str, authorities: Option<&Path>) -> Result<Tls, BenchError> {
        let mut config = client_config(authorities).map_err(BenchError::Trust)?;
        // Each connection makes a full handshake, as connections of different clients do.
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(host.to_owned()).map_err(|_| BenchError::Url(host.to_owned()))?;
        Ok(Tls { config: Arc::new(config), name })
    }

    pub(super) fn begin(&self) -> io::Result<Session> {
        let mut session =
            ClientConnection::new(self.config.clone(), self.name.clone()).map_err(io::Error::other)?;
        // The messages in flight bound what it holds.
        session.set_buffer_limit(None);
        Ok(Session(Box::new(session)))
    }
}

/// The TLS state of one connection.
pub(super) struct Session(Box<ClientConnection>);

impl Session {
    /// Decrypts bytes from the socket, and appends the plaintext to `plain`.
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

    /// Encrypts all of `unsent`, and sends as much as the socket accepts.
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
