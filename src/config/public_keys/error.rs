//! What can be wrong with a file of public keys.

use std::fmt;

use super::{MAX_FILE_BYTES, MAX_KEYS, RSA_BITS};

/// Why a file of public keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The file cannot be read.
    Unreadable(String),
    /// The path is not a regular file; the text says what it is.
    NotAFile(&'static str),
    /// The file is too large for keys.
    TooLarge,
    /// The file is not PEM.
    NotPem,
    /// The file is not a JSON Web Key Set; the line of the error.
    NotJwks(usize),
    /// The file has no key that verifies signatures.
    Empty,
    /// All files together have more than [`MAX_KEYS`].
    TooMany,
    /// One of its keys is wrong; which, and why.
    Key(String, KeyFault),
}

/// What is wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// A private key.
    Private,
    /// A certificate.
    Certificate,
    /// A symmetric key.
    Symmetric,
    /// An RSA key with this number of bits, which is out of range.
    RsaSize(usize),
    /// A key of a type that Philote does not support.
    Unsupported,
    /// The key cannot be parsed.
    Malformed,
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyFault::Private => f.write_str(
                "a private key, which must stay with its issuer: give its public key (openssl pkey -pubout)",
            ),
            KeyFault::Certificate => {
                f.write_str("a certificate: give its public key (openssl x509 -pubkey -noout)")
            }
            KeyFault::Symmetric => {
                f.write_str("a symmetric key, which is not public: put it into secret_file")
            }
            KeyFault::RsaSize(bits) => {
                let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
                write!(f, "an RSA key of {bits} bits: it must have {least} to {most} bits")
            }
            KeyFault::Unsupported => {
                f.write_str("a type of key that is not supported: use RSA, P-256, P-384 or Ed25519")
            }
            KeyFault::Malformed => f.write_str("malformed"),
        }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Unreadable(reason) => f.write_str(reason),
            KeyError::NotAFile(kind) => write!(f, "it is {kind}, not a regular file"),
            KeyError::TooLarge => {
                write!(f, "larger than {MAX_FILE_BYTES} bytes, too large for a file of keys")
            }
            KeyError::NotPem => f.write_str("not PEM: it must hold -----BEGIN PUBLIC KEY-----"),
            KeyError::NotJwks(line) => {
                write!(f, "not a JSON Web Key Set, {{\"keys\": [...]}}, at line {line}")
            }
            KeyError::Empty => f.write_str("it has no key that verifies signatures"),
            KeyError::TooMany => write!(f, "more than {MAX_KEYS} public keys in all files: remove old ones"),
            KeyError::Key(which, fault) => write!(f, "{which}: {fault}"),
        }
    }
}
