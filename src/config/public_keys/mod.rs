//! Public keys that verify tokens: parses and checks the keys of PEM files and of a JSON Web Key Set.

mod error;
#[cfg(any(test, feature = "fuzz"))]
pub(super) mod fuzz;
mod jwks;
mod pem;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{self, RsaParameters};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, VerificationAlgorithm,
};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

pub use error::{KeyError, KeyFault};

use crate::regular_file::{self, FileError, without_mark};

/// Keys in all files. A token without a `kid` is tried against every key of its family, so more keys would make the
/// invalid tokens of strangers expensive.
pub(super) const MAX_KEYS: usize = 32;
/// Bytes of a file: room for [`MAX_KEYS`], each with the certificates that some issuers add.
const MAX_FILE_BYTES: u64 = 256 << 10;
/// The accepted sizes of an RSA modulus, in bits (RFC 7518, section 3.3).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A file of public keys, and the keys in it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyFile {
    /// Its path.
    pub path: PathBuf,
    /// The `kid` that the setting gives to the keys of a PEM file.
    pub kid: Option<String>,
    /// The keys, in the order of the file.
    pub keys: Vec<Arc<PublicKey>>,
}

/// One public key.
pub struct PublicKey {
    /// The key in the form that verifies signatures.
    pub decoding: DecodingKey,
    /// The algorithms that it may be used with, all of one family.
    pub algorithms: Vec<Algorithm>,
    /// Its `kid` in the header of a token.
    pub kid: Option<String>,
    /// The file and the position of the key in it, for messages.
    pub name: String,
    /// Its SubjectPublicKeyInfo, which identifies it across a reload, whichever file it is in.
    pub material: Box<[u8]>,
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        (&self.algorithms, &self.kid, &self.name, &self.material)
            == (&other.algorithms, &other.kid, &other.name, &other.material)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.name)
    }
}

/// A key without its name.
struct Material {
    decoding: DecodingKey,
    algorithms: Vec<Algorithm>,
    bytes: Vec<u8>,
}

impl KeyFile {
    /// Reads the keys of a PEM file.
    pub(super) fn read_pem(&mut self) -> Result<(), KeyError> {
        self.keys = pem::parse(&read_text(&self.path)?, &self.path, self.kid.as_deref())?;
        Ok(())
    }

    /// Reads the keys of a JSON Web Key Set, and adds a warning for each key that cannot be used.
    pub(super) fn read_jwks(&mut self, warnings: &mut Vec<String>) -> Result<(), KeyError> {
        self.keys = jwks::parse(&read_text(&self.path)?, &self.path, warnings)?;
        Ok(())
    }
}

fn read_text(path: &Path) -> Result<Vec<u8>, KeyError> {
    let content = regular_file::read(path, MAX_FILE_BYTES).map_err(|error| match error {
        FileError::System(error) => KeyError::Unreadable(error.to_string()),
        FileError::NotRegular(kind) => KeyError::NotAFile(kind),
        FileError::TooLarge(_) => KeyError::TooLarge,
    })?;
    Ok(without_mark(&content.bytes).to_vec())
}

/// Parses an RSA key in DER: SubjectPublicKeyInfo, or the older form for RSA (RFC 8017, appendix A.1.1).
fn rsa(der: &[u8]) -> Result<Material, KeyFault> {
    let key = rsa::PublicKey::from_der(der).map_err(|_| KeyFault::Malformed)?;
    let bits = RsaParameters::public_modulus_len(key.as_ref()).map_err(|_| KeyFault::Malformed)? as usize;
    if !RSA_BITS.contains(&bits) {
        return Err(KeyFault::RsaSize(bits));
    }
    let spki = key.as_der().map_err(|_| KeyFault::Malformed)?.as_ref().to_vec();
    let algorithms = AlgorithmFamily::Rsa.algorithms().to_vec();
    Ok(Material { decoding: DecodingKey::from_rsa_der(&spki), algorithms, bytes: spki })
}

/// Parses a key of an elliptic curve: the point, or SubjectPublicKeyInfo.
fn elliptic(curve: Algorithm, bytes: Vec<u8>) -> Result<Material, KeyFault> {
    let known: &'static dyn VerificationAlgorithm = match curve {
        Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &ED25519,
        _ => return Err(KeyFault::Unsupported),
    };
    let key = ParsedPublicKey::new(known, &bytes).map_err(|_| KeyFault::Malformed)?;
    let spki = key.as_der().map_err(|_| KeyFault::Malformed)?;
    let decoding = match curve.family() {
        AlgorithmFamily::Ed => DecodingKey::from_ed_der(&bytes),
        _ => DecodingKey::from_ec_der(&bytes),
    };
    Ok(Material { decoding, algorithms: vec![curve], bytes: spki.as_ref().to_vec() })
}
