//! Whom the clients here trust behind TLS: the system's authorities, or those in a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::load_native_certs;

use crate::regular_file::{read_argument, without_mark};

/// The largest file of authorities, in bytes: some ten times what a system has.
const LARGEST: u64 = 4 << 20;

/// Why it is not known whom to trust.
#[derive(Debug)]
pub enum TrustError {
    /// The file cannot be read, or something in it is not a certificate; why.
    File(PathBuf, String),
    /// The file holds no certificate.
    Empty(PathBuf),
    /// The cryptography is not what it was built to be.
    Unusable(rustls::Error),
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, why) => write!(f, "cannot take authorities from {}: {why}", path.display()),
            Self::Empty(path) => write!(f, "there is no certificate in {}: it must be PEM", path.display()),
            Self::Unusable(error) => write!(f, "cannot use TLS: {error}"),
        }
    }
}

impl std::error::Error for TrustError {}

/// A client of TLS 1.2 and 1.3 that trusts the certificates in `authorities`, a file in PEM, and no others; without one
/// what the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` where they are set).
///
/// # Errors
/// See [`TrustError`].
pub fn client_config(authorities: Option<&Path>) -> Result<ClientConfig, TrustError> {
    let roots = match authorities {
        Some(path) => from_file(path)?,
        None => {
            let mut roots = RootCertStore::empty();
            // One certificate that cannot be read must not keep the others from being used.
            roots.add_parsable_certificates(load_native_certs().certs);
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Unusable)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn from_file(path: &Path) -> Result<RootCertStore, TrustError> {
    let wrong = |why: &dyn fmt::Display| TrustError::File(path.into(), why.to_string());
    let text = read_argument(path, LARGEST).map_err(|error| wrong(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(without_mark(&text)) {
        roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() { Err(TrustError::Empty(path.into())) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_authorities_is_taken_whole_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let refused = || client_config(Some(&path)).unwrap_err().to_string();
        assert!(refused().contains("cannot take authorities from ") && refused().contains("No such file"));
        std::fs::write(&path, "no PEM").unwrap();
        assert!(refused().contains("there is no certificate in "));
        let certificate = || rcgen::generate_simple_self_signed(["localhost".into()]).unwrap().cert.pem();
        std::fs::write(&path, certificate() + &certificate()).unwrap();
        assert_eq!(from_file(&path).unwrap().len(), 2);
        client_config(Some(&path)).unwrap();
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, certificate() + broken).unwrap();
        assert!(refused().contains("cannot take authorities from "), "one bad is none good");
    }
}
