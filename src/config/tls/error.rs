//! What can be wrong with the certificate and the key of `[tls]`.

use std::fmt;
use std::path::PathBuf;

use super::MAX_CERTIFICATES;

/// Why certificate and key cannot be used. `Display` also says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// One of the two is set without the other.
    Alone {
        /// The key of the settings that is missing.
        missing: &'static str,
    },
    /// A listener has `tls = true`, and neither is set.
    Missing,
    /// A file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        reason: String,
        /// Whether the daemon lacks the permission.
        denied: bool,
    },
    /// A file has no certificate, or no key.
    Empty {
        /// The file.
        path: PathBuf,
        /// What it should have.
        wanted: &'static str,
    },
    /// The key is encrypted with a passphrase.
    Encrypted {
        /// Its file.
        path: PathBuf,
    },
    /// A file has more than [`MAX_CERTIFICATES`].
    TooMany {
        /// The file.
        path: PathBuf,
    },
    /// A file has a malformed certificate or key.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key does not belong to the certificate.
    Mismatch {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
    },
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Alone { missing } => {
                write!(f, "{missing} is not set: set both the certificate and the key, or neither")
            }
            TlsError::Missing => f.write_str("a listener has tls = true: set [tls] certificate and key"),
            TlsError::Unreadable { path, denied: true, .. } => {
                let path = path.display();
                write!(
                    f,
                    "cannot read {path}: permission denied. Let the daemon's group read it (sudo chgrp philote {path} \
                     && sudo chmod 640 {path}) and enter its directory, or let certbot copy it with \
                     certbot-deploy-hook from Philote's examples"
                )
            }
            TlsError::Unreadable { path, reason, .. } => {
                write!(f, "cannot read {}: {reason}", path.display())
            }
            TlsError::Empty { path, wanted } => write!(f, "{} has no {wanted} in PEM", path.display()),
            TlsError::Encrypted { path } => {
                let path = path.display();
                write!(
                    f,
                    "the key in {path} is encrypted, and the daemon cannot ask for its passphrase: decrypt it into a \
                     file that only the daemon can read (umask 077; openssl pkey -in {path} -out {path}.decrypted), \
                     and set the key to that file"
                )
            }
            TlsError::TooMany { path } => {
                write!(f, "{} has more than {MAX_CERTIFICATES} certificates", path.display())
            }
            TlsError::Malformed { path, reason } => write!(f, "{}: {reason}", path.display()),
            TlsError::Mismatch { key, certificate } => {
                let (key, certificate) = (key.display(), certificate.display());
                write!(
                    f,
                    "the key in {key} does not belong to the first certificate in {certificate}: put the server's \
                     certificate first in that file, before those of its issuers, or set the key to the one of this certificate"
                )
            }
        }
    }
}
