//! JSON Web Key Sets (RFC 7517), as issuers publish them.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::{KeyError, KeyFault, MAX_KEYS, Material, PublicKey, RSA_BITS};

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// One key of a set. Its other members, such as certificates and times, are ignored.
#[derive(Deserialize)]
struct Entry {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// Present only in a private key. It is a string there; a key for other purposes may have anything.
    d: Option<Value>,
}

/// Parses the keys of a set that verify signatures. Keys of unknown types are left out with a warning, as RFC 7517
/// section 5 requires.
pub(super) fn parse(
    text: &[u8],
    path: &Path,
    warnings: &mut Vec<String>,
) -> Result<Vec<Arc<PublicKey>>, KeyError> {
    // The parser's message may quote a value, so only its line is used.
    let set: Set = serde_json::from_slice(text).map_err(|error| KeyError::NotJwks(error.line()))?;
    let mut keys = Vec::new();
    for (number, entry) in (1..).zip(set.keys) {
        let named = entry.get("kid").and_then(Value::as_str).map(str::to_owned);
        let which = named.map_or_else(|| format!("key {number}"), |kid| format!("key {number}, kid {kid:?}"));
        let wrong = |fault| KeyError::Key(which.clone(), fault);
        let entry: Entry = serde_json::from_value(entry).map_err(|_| wrong(KeyFault::Malformed))?;
        if !entry.verifies() {
            continue;
        }
        let material = match material(&entry) {
            Ok(material) => material,
            Err(fault @ KeyFault::Unsupported) => {
                warnings.push(format!("{}: {which} is ignored: {fault}", path.display()));
                continue;
            }
            Err(fault) => return Err(wrong(fault)),
        };
        let name = match &entry.kid {
            Some(kid) => format!("jwks_file {}#{kid}", path.display()),
            None => format!("jwks_file {}, key {number}", path.display()),
        };
        keys.push(Arc::new(PublicKey {
            decoding: material.decoding,
            algorithms: material.algorithms,
            kid: entry.kid,
            name,
            material: material.bytes.into(),
        }));
    }
    match keys.len() {
        0 => Err(KeyError::Empty),
        1..=MAX_KEYS => Ok(keys),
        _ => Err(KeyError::TooMany),
    }
}

impl Entry {
    /// Returns whether the key is for signatures.
    fn verifies(&self) -> bool {
        self.purpose.as_ref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(|all| all.iter().any(|one| one == "verify"))
    }
}

fn material(entry: &Entry) -> Result<Material, KeyFault> {
    if entry.kty == "oct" {
        return Err(KeyFault::Symmetric);
    }
    if entry.d.is_some() {
        return Err(KeyFault::Private);
    }
    let mut material = match (entry.kty.as_str(), entry.crv.as_deref()) {
        ("RSA", _) => rsa(number(&entry.n)?, number(&entry.e)?)?,
        ("EC", Some("P-256")) => super::elliptic(Algorithm::ES256, point(entry, 32)?)?,
        ("EC", Some("P-384")) => super::elliptic(Algorithm::ES384, point(entry, 48)?)?,
        ("OKP", Some("Ed25519")) => super::elliptic(Algorithm::EdDSA, bytes(&entry.x)?)?,
        _ => return Err(KeyFault::Unsupported),
    };
    if let Some(only) = &entry.alg {
        // RFC 9864 has this name for EdDSA with this curve.
        let only = if only == "Ed25519" { "EdDSA" } else { only };
        material.algorithms.retain(|algorithm| only.parse() == Ok(*algorithm));
    }
    if material.algorithms.is_empty() { Err(KeyFault::Unsupported) } else { Ok(material) }
}

fn rsa(n: Vec<u8>, e: Vec<u8>) -> Result<Material, KeyFault> {
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(KeyFault::RsaSize(bits));
    }
    let parsed = PublicKeyComponents { n: &n, e: &e }
        .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
        .map_err(|_| KeyFault::Malformed)?;
    let spki = parsed.as_der().map_err(|_| KeyFault::Malformed)?;
    let algorithms = AlgorithmFamily::Rsa.algorithms().to_vec();
    Ok(Material {
        decoding: DecodingKey::from_rsa_raw_components(&n, &e),
        algorithms,
        bytes: spki.as_ref().to_vec(),
    })
}

/// Returns an uncompressed point (SEC 1, section 2.3.3) whose coordinates have `size` bytes.
fn point(entry: &Entry, size: usize) -> Result<Vec<u8>, KeyFault> {
    let (x, y) = (bytes(&entry.x)?, bytes(&entry.y)?);
    if x.len() != size || y.len() != size {
        return Err(KeyFault::Malformed);
    }
    Ok([&[4], &x[..], &y[..]].concat())
}

fn bytes(text: &Option<String>) -> Result<Vec<u8>, KeyFault> {
    let text = text.as_ref().ok_or(KeyFault::Malformed)?;
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| KeyFault::Malformed)
}

/// Decodes a number, without the leading zero that some issuers write.
fn number(text: &Option<String>) -> Result<Vec<u8>, KeyFault> {
    let mut bytes = bytes(text)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    if bytes.is_empty() { Err(KeyFault::Malformed) } else { Ok(bytes) }
}
