//! Public keys that tokens may be signed for: read from PEM files and a JWKS, and checked before they are used.

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

use super::draft::Draft;
use super::error::Situation;
use super::kinds::{Kind, OptionalPath, not_understood, quoted, quoted_list};
use super::raw::Raw;
use crate::regular_file::{self, FileError, without_mark};

/// A token without a `kid` is tried against each key of its family: more would let a stranger's bad token cost too much.
const MOST_KEYS: usize = 32;
/// Files, for the same reason.
const MOST_FILES: usize = 32;
/// Room for [`MOST_KEYS`], each with the certificates that some issuers add.
const LARGEST: u64 = 256 << 10;
/// The shortest modulus of RSA that is taken, and the longest, in bits (RFC 7518, section 3.3).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A file of public keys, as named in the settings, and what stood in it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyFile {
    /// Where it is.
    pub path: PathBuf,
    /// The `kid` of the keys in a PEM file, where one is given.
    pub kid: Option<String>,
    /// The keys, in the order of the file.
    pub keys: Vec<Arc<PublicKey>>,
}

/// One public key.
pub struct PublicKey {
    /// What verifies a signature.
    pub decoding: DecodingKey,
    /// The algorithms that it may be used with: all of one family.
    pub algorithms: Vec<Algorithm>,
    /// Its name in the header of a token.
    pub kid: Option<String>,
    /// Where it came from, as a phrase.
    pub name: String,
    /// Its bytes, by which it is known again after a reload.
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

/// A key without its name and place.
struct Material {
    decoding: DecodingKey,
    algorithms: Vec<Algorithm>,
    bytes: Vec<u8>,
}

/// Why a file of keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The file cannot be read.
    Unreadable(String),
    /// Something else than a regular file; what it is.
    NotAFile(&'static str),
    /// No file of keys is that large.
    TooLarge,
    /// The file is not PEM.
    NotPem,
    /// The file is not a JSON Web Key Set; where the JSON ends.
    NotJwks(usize),
    /// No key in it can be used.
    Empty,
    /// More keys than are tried.
    TooMany,
    /// One of its keys; which, and what is wrong with it.
    Key(String, Fault),
}

/// What is wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A private key.
    Private,
    /// A certificate.
    Certificate,
    /// A symmetric key.
    Symmetric,
    /// RSA with so many bits.
    RsaSize(usize),
    /// A kind of key that no algorithm here is for.
    Unsupported,
    /// It is damaged.
    Malformed,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Private => f.write_str(
                "a private key, which must stay with who signs: give its public half (openssl pkey -pubout)",
            ),
            Fault::Certificate => {
                f.write_str("a certificate: give its public key (openssl x509 -pubkey -noout)")
            }
            Fault::Symmetric => {
                f.write_str("a symmetric key, which is no public one: put it into secret_file")
            }
            Fault::RsaSize(bits) => {
                let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
                write!(f, "an RSA key of {bits} bits: it must have {least} to {most}")
            }
            Fault::Unsupported => {
                f.write_str("a kind of key that is not supported: RSA, P-256, P-384 and Ed25519 are")
            }
            Fault::Malformed => f.write_str("it is damaged"),
        }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Unreadable(reason) => f.write_str(reason),
            KeyError::NotAFile(kind) => write!(f, "it is {kind}, not a regular file"),
            KeyError::TooLarge => write!(f, "larger than {LARGEST} bytes: this is no file of keys"),
            KeyError::NotPem => f.write_str("not PEM: it must hold -----BEGIN PUBLIC KEY-----"),
            KeyError::NotJwks(line) => {
                write!(f, "not a JSON Web Key Set, {{\"keys\": [...]}}, at line {line}")
            }
            KeyError::Empty => f.write_str("there is no key in it that verifies signatures"),
            KeyError::TooMany => write!(f, "more than {MOST_KEYS} public keys in all: remove old ones"),
            KeyError::Key(which, fault) => write!(f, "{which}: {fault}"),
        }
    }
}

/// The names of files, `PATH` or `PATH#KID`.
pub(super) fn read_names(raw: &Raw, base: &Path) -> Result<Vec<KeyFile>, Situation> {
    const EXPECTED: &str = "a list of files such as [\"/etc/philote/issuer.pem\"] or [\"issuer.pem#KID\"]";
    let mut files: Vec<KeyFile> = Vec::new();
    for item in raw.list(EXPECTED)? {
        let text = item.text(EXPECTED)?;
        let (path, kid) = match text.rsplit_once('#') {
            Some((path, kid)) if !kid.is_empty() => (path, Some(kid.to_owned())),
            Some(_) => return Err(not_understood(EXPECTED, text)),
            None => (text, None),
        };
        let Some(path) = OptionalPath(base).read(&Raw::String(path.to_owned()))? else {
            return Err(not_understood(EXPECTED, text));
        };
        if files.iter().any(|file| file.path == path) {
            return Err(Situation::Repeated { found: text.to_owned() });
        }
        files.push(KeyFile { path, kid, keys: Vec::new() });
    }
    if files.len() > MOST_FILES {
        let (minimum, maximum) = ("0".into(), format!("{MOST_FILES} files"));
        return Err(Situation::OutOfRange { minimum, maximum, found: files.len().to_string() });
    }
    Ok(files)
}

/// The same as a TOML list.
pub(super) fn show_names(files: &[KeyFile]) -> String {
    quoted_list(files.iter().map(KeyFile::written))
}

/// The name of the one file of a JWKS.
pub(super) fn read_name(raw: &Raw, base: &Path) -> Result<Option<KeyFile>, Situation> {
    let path = OptionalPath(base).read(raw)?;
    Ok(path.map(|path| KeyFile { path, kid: None, keys: Vec::new() }))
}

/// The same as a TOML string.
pub(super) fn show_name(file: &Option<KeyFile>) -> Option<String> {
    file.as_ref().map(|file| quoted(file.path.display()))
}

impl KeyFile {
    fn written(&self) -> String {
        let path = self.path.display();
        self.kid.as_ref().map_or_else(|| path.to_string(), |kid| format!("{path}#{kid}"))
    }
}

/// Reads the files that the settings name.
pub(super) fn load(draft: &mut Draft) {
    const PEM: &str = "auth.public_keys";
    const JWKS: &str = "auth.jwks_file";
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let auth = &mut draft.settings.auth;
    for file in &mut auth.public_keys {
        match text(&file.path).and_then(|text| pem::parse(&text, &file.path, file.kid.as_deref())) {
            Ok(keys) => file.keys = keys,
            Err(error) => problems.push((PEM, Situation::Keys(file.path.clone(), error))),
        }
    }
    if let Some(file) = &mut auth.jwks_file {
        match text(&file.path).and_then(|text| jwks::parse(&text, &file.path, &mut warnings)) {
            Ok(keys) => file.keys = keys,
            Err(error) => problems.push((JWKS, Situation::Keys(file.path.clone(), error))),
        }
    }
    let files = || auth.public_keys.iter().chain(&auth.jwks_file);
    if files().map(|file| file.keys.len()).sum::<usize>() > MOST_KEYS
        && let Some(last) = files().last()
    {
        let key = if auth.jwks_file.is_some() { JWKS } else { PEM };
        problems.push((key, Situation::Keys(last.path.clone(), KeyError::TooMany)));
    }
    draft.warnings.extend(warnings);
    for (key, situation) in problems {
        draft.wrong(key, draft.origins.get(key).cloned(), situation);
    }
}

fn text(path: &Path) -> Result<Vec<u8>, KeyError> {
    let content = regular_file::read(path, LARGEST).map_err(|error| match error {
        FileError::System(error) => KeyError::Unreadable(error.to_string()),
        FileError::NotRegular(kind) => KeyError::NotAFile(kind),
        FileError::TooLarge(_) => KeyError::TooLarge,
    })?;
    Ok(without_mark(&content.bytes).to_vec())
}

/// An RSA key in DER: SubjectPublicKeyInfo, or the older form of RSA alone (RFC 8017, appendix A.1.1).
fn rsa(der: &[u8]) -> Result<Material, Fault> {
    let key = rsa::PublicKey::from_der(der).map_err(|_| Fault::Malformed)?;
    let bits = RsaParameters::public_modulus_len(key.as_ref()).map_err(|_| Fault::Malformed)? as usize;
    if !RSA_BITS.contains(&bits) {
        return Err(Fault::RsaSize(bits));
    }
    let spki = key.as_der().map_err(|_| Fault::Malformed)?.as_ref().to_vec();
    let algorithms = AlgorithmFamily::Rsa.algorithms().to_vec();
    Ok(Material { decoding: DecodingKey::from_rsa_der(&spki), algorithms, bytes: spki })
}

/// A key of an elliptic curve: the point, or SubjectPublicKeyInfo.
fn elliptic(curve: Algorithm, bytes: Vec<u8>) -> Result<Material, Fault> {
    let known: &'static dyn VerificationAlgorithm = match curve {
        Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &ED25519,
        _ => return Err(Fault::Unsupported),
    };
    ParsedPublicKey::new(known, &bytes).map_err(|_| Fault::Malformed)?;
    let decoding = match curve.family() {
        AlgorithmFamily::Ed => DecodingKey::from_ed_der(&bytes),
        _ => DecodingKey::from_ec_der(&bytes),
    };
    Ok(Material { decoding, algorithms: vec![curve], bytes })
}
