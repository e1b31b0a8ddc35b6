//! A certificate authority of the tests, and clients that trust it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version};
use serde_json::json;
use tokio_tungstenite::tungstenite::client;

use crate::support::*;

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A certificate authority of the test.
pub struct Authority {
    pub issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let signed = params.self_signed(&key).unwrap();
        let (certificate, pem) = (signed.der().clone(), signed.pem());
        Authority { issuer: Issuer::new(params, key), certificate, pem }
    }

    /// Writes a certificate for localhost with its key.
    pub fn issue(&self, directory: &Path) {
        self.issue_for(directory, None);
    }

    /// The same for this number of days from now, less an hour.
    pub fn issue_for(&self, directory: &Path, days: Option<i64>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        if let Some(days) = days {
            let end = i64::try_from(unix_now()).unwrap() + days * 86_400 - 3_600;
            params.not_after = (std::time::UNIX_EPOCH + Duration::from_secs(end.cast_unsigned())).into();
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(directory.join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    }

    pub fn connect(&self, daemon: &Daemon, versions: &[&'static SupportedProtocolVersion]) -> Tls {
        self.connect_to(daemon.connect(), versions)
    }

    pub fn connect_to(&self, stream: TcpStream, versions: &[&'static SupportedProtocolVersion]) -> Tls {
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(self.config(versions), name).unwrap(), stream)
    }

    /// A client's configuration, which remembers its sessions.
    pub fn config(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    pub fn client(&self, daemon: &Daemon) -> Client<Tls> {
        self.client_of(daemon, self.connect(daemon, &[&version::TLS13]))
    }

    pub fn client_of<S: Read + Write>(&self, daemon: &Daemon, stream: S) -> Client<S> {
        let token = sign(&json!({"read": ["c"], "write": ["c"]}));
        let mut request = daemon.request("/");
        request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
        let (socket, _) = client::client(request, stream).unwrap();
        Client { socket }
    }
}
