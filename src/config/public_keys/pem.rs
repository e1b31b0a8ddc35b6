//! Public keys in PEM (RFC 7468), one or more in a file.

use std::path::Path;
use std::sync::Arc;

use jsonwebtoken::Algorithm;

use super::{KeyError, KeyFault, MAX_KEYS, Material, PublicKey};

/// The object identifiers of the algorithms in a SubjectPublicKeyInfo, encoded in DER.
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];

/// The identifiers are within this number of bytes from the beginning, before the key.
const PREFIX: usize = 32;

/// Parses the keys of a file. `kid` is the one that the setting gives them.
pub(super) fn parse(text: &[u8], path: &Path, kid: Option<&str>) -> Result<Vec<Arc<PublicKey>>, KeyError> {
    let blocks = pem::parse_many(text).map_err(|_| KeyError::NotPem)?;
    match blocks.len() {
        0 => return Err(KeyError::NotPem),
        1..=MAX_KEYS => {}
        _ => return Err(KeyError::TooMany),
    }
    let several = blocks.len() > 1;
    let mut keys = Vec::new();
    for (number, block) in (1..).zip(blocks) {
        let material = material(block.tag(), block.contents())
            .map_err(|fault| KeyError::Key(format!("key {number}"), fault))?;
        let mut name = format!("public_keys {}", path.display());
        if let Some(kid) = kid {
            name += &format!("#{kid}");
        }
        if several {
            name += &format!(", key {number}");
        }
        keys.push(Arc::new(PublicKey {
            decoding: material.decoding,
            algorithms: material.algorithms,
            kid: kid.map(str::to_owned),
            name,
            material: material.bytes.into(),
        }));
    }
    Ok(keys)
}

fn material(tag: &str, der: &[u8]) -> Result<Material, KeyFault> {
    let has = |identifier: &[u8]| {
        der[..der.len().min(PREFIX)].windows(identifier.len()).any(|window| window == identifier)
    };
    match tag {
        "RSA PUBLIC KEY" => super::rsa(der),
        "PUBLIC KEY" if has(RSA) => super::rsa(der),
        "PUBLIC KEY" if has(P256) => super::elliptic(Algorithm::ES256, der.to_vec()),
        "PUBLIC KEY" if has(P384) => super::elliptic(Algorithm::ES384, der.to_vec()),
        "PUBLIC KEY" if has(ED25519) => super::elliptic(Algorithm::EdDSA, der.to_vec()),
        "CERTIFICATE" => Err(KeyFault::Certificate),
        tag if tag.ends_with("PRIVATE KEY") => Err(KeyFault::Private),
        _ => Err(KeyFault::Unsupported),
    }
}
