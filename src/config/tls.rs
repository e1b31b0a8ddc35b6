//! The certificate and key of `[tls]`: read, checked against each other, and when they end.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::draft::Draft;
use super::error::Situation;
use crate::moment::{moment, rfc3339};
use crate::regular_file::{self, FileError, without_mark};

/// The largest file that is read, in bytes: room for [`MOST_CERTIFICATES`] of any sensible length.
const LARGEST: u64 = 64 << 10;
/// A chain of this length is a mistake: servers send two or three.
const MOST_CERTIFICATES: usize = 16;

pub(super) const CERTIFICATE: &str = "tls.certificate";
pub(super) const KEY: &str = "tls.key";

/// A certificate with its key. `Debug` shows neither.
#[derive(Clone)]
pub struct TlsSettings {
    /// The file of the certificate and those above it.
    pub certificate: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
    /// Both, ready to sign with; they belong together.
    pub certified: Arc<CertifiedKey>,
    /// When it is valid no longer, in seconds since 1970.
    pub expires: u64,
}

impl PartialEq for TlsSettings {
    fn eq(&self, other: &Self) -> bool {
        // Of one certificate there is one key.
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

/// How near the end of a certificate is; the first of each is warned of in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expiry {
    /// More than 21 days.
    Far,
    /// Within 21 days: renewal at a third of 90 days has failed for some.
    Near,
    /// Within 7 days.
    Close,
    /// It is past.
    Past,
}

impl TlsSettings {
    /// How near the end is at `now`, in seconds since 1970.
    pub fn expiry(&self, now: u64) -> Expiry {
        const DAY: u64 = 24 * 60 * 60;
        match self.expires.saturating_sub(now) {
            0 => Expiry::Past,
            left if left <= 7 * DAY => Expiry::Close,
            left if left <= 21 * DAY => Expiry::Near,
            _ => Expiry::Far,
        }
    }

    /// When it ends, as text.
    pub fn expires_text(&self) -> String {
        rfc3339(moment(self.expires)).to_string()
    }
}

/// Why certificate and key can't be used. `Display` is a sentence with what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// One of the two is set without the other.
    Alone {
        /// The one that is missing.
        missing: &'static str,
    },
    /// A listener wants TLS.
    Missing,
    /// The file can't be read.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
        /// Whether others may.
        denied: bool,
    },
    /// The file holds no certificate, or no key.
    Empty {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The key can be had only with its passphrase.
    Encrypted {
        /// Its file.
        path: PathBuf,
    },
    /// More certificates than a chain has.
    TooMany {
        /// The file.
        path: PathBuf,
    },
    /// What is in the file is not what it says it is.
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key is not that of the certificate.
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's.
        certificate: PathBuf,
    },
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Alone { missing } => write!(f, "{missing} is not set, and neither is of use alone"),
            TlsError::Missing => f.write_str("a listener has tls = true: set [tls] certificate and key"),
            TlsError::Unreadable { path, denied: true, .. } => {
                let path = path.display();
                write!(
                    f,
                    "cannot read {path}: permission denied. Let the daemon's group read it (sudo chgrp philote {path} \
                     && sudo chmod 640 {path}, and its directory), or let certbot copy it: \
                     certbot-deploy-hook is among Philote's examples"
                )
            }
            TlsError::Unreadable { path, reason, .. } => {
                write!(f, "cannot read {}: {reason}", path.display())
            }
            TlsError::Empty { path, wanted } => write!(f, "{} holds no {wanted} in PEM", path.display()),
            TlsError::Encrypted { path } => {
                let path = path.display();
                write!(
                    f,
                    "the key in {path} is encrypted, and the daemon can't ask for its passphrase: decrypt it into a \
                     file that only the daemon can read (umask 077; openssl pkey -in {path} -out {path}.decrypted), \
                     and name that one"
                )
            }
            TlsError::TooMany { path } => {
                write!(f, "{} holds more than {MOST_CERTIFICATES} certificates", path.display())
            }
            TlsError::Malformed { path, reason } => write!(f, "{}: {reason}", path.display()),
            TlsError::Mismatch { key, certificate } => {
                let (key, certificate) = (key.display(), certificate.display());
                write!(
                    f,
                    "the key in {key} is not that of the first certificate in {certificate}: give the pair, the \
                     server's own certificate before those that signed it"
                )
            }
        }
    }
}

/// The cryptography of all of Philote.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Reads the pair into the settings, and says which listeners speak TLS.
pub(super) fn choose(draft: &mut Draft) {
    let is_ours = |key: &String| key == CERTIFICATE || key == KEY || key == "listen";
    if draft.problems.iter().any(|problem| problem.key.as_ref().is_some_and(is_ours)) {
        return;
    }
    let (wrong, error) = match (&draft.certificate, &draft.key) {
        (None, None) => {
            let wanted = draft.settings.listen.listeners().iter().any(|listener| listener.tls);
            if !wanted {
                return;
            }
            ("listen", TlsError::Missing)
        }
        (None, Some(_)) => (KEY, TlsError::Alone { missing: CERTIFICATE }),
        (Some(_), None) => (CERTIFICATE, TlsError::Alone { missing: KEY }),
        (Some(certificate), Some(key)) => match read(certificate, key) {
            Ok(pair) => {
                draft.settings.tls = Some(pair);
                draft.settings.listen.default_to_tls();
                return;
            }
            Err(wrong) => wrong,
        },
    };
    let origin = draft.origins.get(wrong).cloned();
    draft.wrong(wrong, origin, Situation::Tls(error));
}

/// The pair, or which of the two keys is wrong.
fn read(certificate: &Path, key: &Path) -> Result<TlsSettings, (&'static str, TlsError)> {
    let chain = read_chain(certificate).map_err(|error| (CERTIFICATE, error))?;
    let malformed = |reason: &dyn fmt::Display, path: &Path| TlsError::Malformed {
        path: path.to_owned(),
        reason: reason.to_string(),
    };
    let expires = not_after(&chain[0])
        .ok_or_else(|| (CERTIFICATE, malformed(&"the first certificate is malformed", certificate)))?;
    let text = read_text(key).map_err(|error| (KEY, error))?;
    let der = PrivateKeyDer::from_pem_slice(&text).map_err(|_| match is_encrypted(&text) {
        true => (KEY, TlsError::Encrypted { path: key.to_owned() }),
        false => (KEY, TlsError::Empty { path: key.to_owned(), wanted: "private key" }),
    })?;
    let signing = provider().key_provider.load_private_key(der).map_err(|_| match is_encrypted(&text) {
        true => (KEY, TlsError::Encrypted { path: key.to_owned() }),
        false => (KEY, malformed(&"this kind of key is not supported: use ECDSA, RSA or Ed25519", key)),
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

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read_text(path)?;
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let reason = |error: rustls::pki_types::pem::Error| error.to_string();
        let malformed = |reason| TlsError::Malformed { path: path.to_owned(), reason };
        chain.push(certificate.map_err(|error| malformed(reason(error)))?);
    }
    match chain.len() {
        0 => Err(TlsError::Empty { path: path.to_owned(), wanted: "certificate" }),
        1..=MOST_CERTIFICATES => Ok(chain),
        _ => Err(TlsError::TooMany { path: path.to_owned() }),
    }
}

fn read_text(path: &Path) -> Result<Vec<u8>, TlsError> {
    let content = regular_file::read(path, LARGEST).map_err(|error| {
        let denied =
            matches!(&error, FileError::System(error) if error.kind() == io::ErrorKind::PermissionDenied);
        TlsError::Unreadable { path: path.to_owned(), reason: error.to_string(), denied }
    })?;
    Ok(without_mark(&content.bytes).to_vec())
}

/// Whether a PEM file holds a key that only its passphrase opens: PKCS #8, or the older form of OpenSSL.
fn is_encrypted(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).any(|line| {
        line == b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
            || (line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED"))
    })
}

/// The end of a certificate's validity (RFC 5280 section 4.1), in seconds since 1970.
fn not_after(certificate: &[u8]) -> Option<u64> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (_, certificate, _) = element(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, mut fields, _) = element(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // The serial number, the signature's algorithm, the issuer.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, validity, _) = element(fields).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (tag, text, _) = element(element(validity)?.2)?;
    time(tag, std::str::from_utf8(text).ok()?)
}

/// The first element of DER: its tag, what it holds, and what comes behind it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        let (digits, rest) = rest.split_at_checked(count).filter(|_| (1..=4).contains(&count))?;
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDhhmmssZ` (UTCTime) or `YYYYMMDDhhmmssZ` (GeneralizedTime).
fn time(tag: u8, text: &str) -> Option<u64> {
    const UTC_TIME: u8 = 0x17;
    let digits = text.strip_suffix('Z').filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let digits = match (tag, digits.len()) {
        (UTC_TIME, 12) if digits < "50" => format!("20{digits}"),
        (UTC_TIME, 12) => format!("19{digits}"),
        (_, 14) => digits.to_owned(),
        _ => return None,
    };
    let part = |range: std::ops::Range<usize>| &digits[range];
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0..4),
        part(4..6),
        part(6..8),
        part(8..10),
        part(10..12),
        part(12..14)
    );
    // "99991231235959Z" is "never"; humantime goes as far.
    let time = humantime::parse_rfc3339(&text).ok()?;
    Some(time.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_both_kinds() {
        assert_eq!(time(0x17, "700101000000Z"), Some(0));
        assert_eq!(time(0x17, "261124120000Z"), Some(1_795_521_600));
        assert_eq!(time(0x18, "20500101000000Z"), Some(2_524_608_000));
        assert_eq!(time(0x17, "491231235959Z"), Some(2_524_607_999));
        assert!(time(0x18, "99991231235959Z").is_some());
        for wrong in ["", "Z", "26112412000Z", "261124120000", "2611241200é0Z", "269924120000Z"] {
            assert_eq!(time(0x17, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_malformed_certificate_is_no_panic() {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let der = key.cert.der().to_vec();
        assert!(not_after(&der).is_some());
        for end in 0..der.len() {
            let _ = not_after(&der[..end]);
        }
        for at in 0..der.len() {
            let mut changed = der.clone();
            changed[at] ^= 0xff;
            let _ = not_after(&changed);
        }
    }
}
