//! The certificate and the key of `[tls]`: reads them, checks that they belong together, and tells when they expire.

mod error;
mod validity;

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

pub use self::error::TlsError;
use self::validity::not_after;
use super::readers::{self, OTHERS};
use crate::regular_file::{self, FileError, without_mark};
use crate::timestamp::{from_unix, rfc3339};

/// Bytes of a file: room for [`MAX_CERTIFICATES`] of any sensible length.
const LARGEST: u64 = 64 << 10;
/// Bytes; the bundle of all authorities that systems trust has 220 KiB.
const LARGEST_BUNDLE: u64 = 4 << 20;
/// Servers send two or three certificates, so a chain that is longer is a mistake.
const MAX_CERTIFICATES: usize = 16;

pub(super) const CERTIFICATE: &str = "tls.certificate";
pub(super) const KEY: &str = "tls.key";

/// A certificate with its private key. `Debug` shows only their files.
#[derive(Clone)]
pub struct TlsSettings {
    /// The file of the certificate chain.
    pub certificate: PathBuf,
    /// The file of the private key.
    pub key: PathBuf,
    /// The certificate chain and the key that belongs to it.
    pub certified: Arc<CertifiedKey>,
    /// The end of the certificate's validity, in seconds since 1970.
    pub expires: u64,
}

impl PartialEq for TlsSettings {
    fn eq(&self, other: &Self) -> bool {
        // A certificate has only one key.
        self.certificate == other.certificate
            && self.key == other.key
            && self.certified.cert == other.certified.cert
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings").field("certificate", &self.certificate).field("key", &self.key).finish()
    }
}

/// How soon a certificate expires. The log has a warning when this changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expiry {
    /// More than 21 days.
    Far,
    /// At most 21 days. A certificate for 90 days is renewed when 30 are left, so its renewal has failed.
    Near,
    /// At most 7 days.
    Close,
    /// The certificate has expired.
    Past,
}

impl TlsSettings {
    /// Returns a warning if other users can read the private key.
    pub fn readable_key(&self) -> Option<String> {
        let mode = std::fs::metadata(&self.key).ok()?.mode();
        readers::warning(&self.key, "the private key", mode, OTHERS)
    }

    /// Returns how soon the certificate expires after `now`, in seconds since 1970.
    pub fn expiry(&self, now: u64) -> Expiry {
        const DAY: u64 = 24 * 60 * 60;
        match self.expires.saturating_sub(now) {
            0 => Expiry::Past,
            left if left <= 7 * DAY => Expiry::Close,
            left if left <= 21 * DAY => Expiry::Near,
            _ => Expiry::Far,
        }
    }

    /// Returns the end of the validity as an RFC 3339 timestamp.
    pub fn expires_text(&self) -> String {
        rfc3339(from_unix(self.expires)).to_string()
    }
}

/// Returns the cryptography provider that all of Philote uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Reads certificate and key. Returns the wrong one of the two keys of the settings with an error.
pub(super) fn read_pair(certificate: &Path, key: &Path) -> Result<TlsSettings, (&'static str, TlsError)> {
    let chain = read_chain(certificate).map_err(|error| (CERTIFICATE, error))?;
    let malformed = |reason: &dyn fmt::Display, path: &Path| TlsError::Malformed {
        path: path.to_owned(),
        reason: reason.to_string(),
    };
    let expires = not_after(&chain[0])
        .ok_or_else(|| (CERTIFICATE, malformed(&"the first certificate is malformed", certificate)))?;
    let text = read_text(key, LARGEST).map_err(|error| (KEY, error))?;
    let der = PrivateKeyDer::from_pem_slice(&text).map_err(|_| match is_encrypted(&text) {
        true => (KEY, TlsError::Encrypted { path: key.to_owned() }),
        false => (KEY, TlsError::Empty { path: key.to_owned(), wanted: "private key" }),
    })?;
    let signing = provider().key_provider.load_private_key(der).map_err(|_| match is_encrypted(&text) {
        true => (KEY, TlsError::Encrypted { path: key.to_owned() }),
        false => (KEY, malformed(&"this type of key is not supported: use ECDSA, RSA or Ed25519", key)),
    })?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            let (key, certificate) = (key.to_owned(), certificate.to_owned());
            return Err((KEY, TlsError::Mismatch { key, certificate }));
        }
        Err(error) => return Err((CERTIFICATE, malformed(&error, certificate))),
    }
    let (certificate, key) = (certificate.to_owned(), key.to_owned());
    Ok(TlsSettings { certificate, key, certified: Arc::new(certified), expires })
}

/// Checks a file of certificates of authorities.
pub(super) fn read_authorities(path: &Path) -> Result<(), TlsError> {
    let certificates = read_certificates(path, LARGEST_BUNDLE)?;
    let malformed =
        |_| TlsError::Malformed { path: path.to_owned(), reason: "no certificate in it is valid".to_owned() };
    let mut roots = rustls::RootCertStore::empty();
    match roots.add_parsable_certificates(certificates) {
        (0, invalid) => Err(malformed(invalid)),
        _ => Ok(()),
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = read_certificates(path, LARGEST)?;
    if chain.len() > MAX_CERTIFICATES {
        return Err(TlsError::TooMany { path: path.to_owned() });
    }
    Ok(chain)
}

/// Reads the certificates of a file, at least one.
fn read_certificates(path: &Path, largest: u64) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read_text(path, largest)?;
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let reason = |error: rustls::pki_types::pem::Error| error.to_string();
        let malformed = |reason| TlsError::Malformed { path: path.to_owned(), reason };
        chain.push(certificate.map_err(|error| malformed(reason(error)))?);
    }
    if chain.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), wanted: "certificate" });
    }
    Ok(chain)
}

fn read_text(path: &Path, largest: u64) -> Result<Vec<u8>, TlsError> {
    let content = regular_file::read(path, largest).map_err(|error| {
        let denied =
            matches!(&error, FileError::System(error) if error.kind() == io::ErrorKind::PermissionDenied);
        TlsError::Unreadable { path: path.to_owned(), reason: error.to_string(), denied }
    })?;
    Ok(without_mark(&content.bytes).to_vec())
}

/// Returns whether a PEM file has a key with a passphrase, in PKCS #8 or the older form of OpenSSL.
fn is_encrypted(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).any(|line| {
        line == b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
            || (line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED"))
    })
}
