//! The keys that verify tokens.
//!
//! Each key has its own algorithms, all of one family. A token of one family is never tried against a key of another.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

/// Every supported algorithm and its name.
const ALGORITHMS: [(Algorithm, &str); 12] = [
    (Algorithm::HS256, "HS256"),
    (Algorithm::HS384, "HS384"),
    (Algorithm::HS512, "HS512"),
    (Algorithm::RS256, "RS256"),
    (Algorithm::RS384, "RS384"),
    (Algorithm::RS512, "RS512"),
    (Algorithm::PS256, "PS256"),
    (Algorithm::PS384, "PS384"),
    (Algorithm::PS512, "PS512"),
    (Algorithm::ES256, "ES256"),
    (Algorithm::ES384, "ES384"),
    (Algorithm::EdDSA, "EdDSA"),
];

/// A set of algorithms: one bit for each of [`ALGORITHMS`]. Its `Display` lists their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Algorithms(u16);

impl Algorithms {
    fn add(&mut self, algorithm: Algorithm) {
        if let Some(at) = ALGORITHMS.iter().position(|(known, _)| *known == algorithm) {
            self.0 |= 1 << at;
        }
    }
}

impl fmt::Display for Algorithms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.count_ones();
        for (_, name) in (0..).zip(ALGORITHMS).filter(|(at, _)| self.0 & (1 << at) != 0).map(|(_, one)| one) {
            f.write_str(name)?;
            left -= 1;
            f.write_str(match left {
                0 => "",
                1 => " or ",
                _ => ", ",
            })?;
        }
        Ok(())
    }
}

/// One key that verifies tokens.
pub struct Key {
    /// The secret, or the encoding of the public key.
    material: Box<[u8]>,
    kid: Option<Box<str>>,
    /// The source of the key, for messages.
    name: Box<str>,
    family: AlgorithmFamily,
    decoding: DecodingKey,
    /// Algorithms of its family.
    algorithms: Vec<Algorithm>,
    /// A secret as the key of each algorithm, because making one costs as much as half a signature.
    secrets: Vec<(Algorithm, hmac::Key)>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    fn new(
        decoding: DecodingKey,
        mut algorithms: Vec<Algorithm>,
        material: &[u8],
        kid: Option<&str>,
        name: &str,
    ) -> Key {
        let family = decoding.family();
        algorithms.retain(|algorithm| algorithm.family() == family);
        let of_secret = |algorithm: &Algorithm| {
            let digest = match algorithm {
                Algorithm::HS256 => hmac::HMAC_SHA256,
                Algorithm::HS384 => hmac::HMAC_SHA384,
                Algorithm::HS512 => hmac::HMAC_SHA512,
                _ => return None,
            };
            Some((*algorithm, hmac::Key::new(digest, material)))
        };
        Key {
            secrets: algorithms.iter().filter_map(of_secret).collect(),
            material: material.into(),
            kid: kid.map(Box::from),
            name: name.into(),
            family,
            decoding,
            algorithms,
        }
    }

    /// Returns the source of the key, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether `signature`, in base64url, is this key's signature of `signed` with one of its algorithms. Returns
    /// `None` if it is not base64url.
    pub(super) fn verifies(&self, algorithm: Algorithm, signed: &str, signature: &str) -> Option<bool> {
        let Some((_, secret)) = self.secrets.iter().find(|(of, _)| *of == algorithm) else {
            let verified =
                jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &self.decoding, algorithm);
            return verified.ok();
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        Some(hmac::verify(secret, signed.as_bytes(), &signature).is_ok())
    }

    fn supports(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }
}

/// The keys of the server. The first secret signs, and all keys verify.
#[derive(Debug)]
pub struct Keys(Vec<Arc<Key>>);

impl Keys {
    /// Returns the keys of these secrets, in their order.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Keys {
        let key = |(line, secret): (usize, &[u8])| {
            let algorithms = AlgorithmFamily::Hmac.algorithms().to_vec();
            let name = format!("secret, line {line}");
            Arc::new(Key::new(DecodingKey::from_secret(secret), algorithms, secret, None, &name))
        };
        Keys((1..).zip(secrets).map(key).collect())
    }

    /// Adds a public key with its algorithms, its bytes, its `kid` and its source.
    pub fn add_public(
        &mut self,
        decoding: &DecodingKey,
        algorithms: &[Algorithm],
        material: &[u8],
        kid: Option<&str>,
        name: &str,
    ) {
        self.0.push(Arc::new(Key::new(decoding.clone(), algorithms.to_vec(), material, kid, name)));
    }

    /// Returns whether `key` is one of the keys. After a reload it may no longer be.
    pub fn contains(&self, key: &Key) -> bool {
        self.0.iter().any(|own| own.family == key.family && own.material == key.material)
    }

    /// Returns the keys that may have signed a token with this algorithm and this `kid`. A `kid` selects among public keys
    /// only, because secrets have none and some libraries add a `kid` to every token.
    pub(super) fn candidates<'a>(
        &'a self,
        kid: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a Arc<Key>> {
        let named = move |key: &&Arc<Key>| {
            kid.is_none() || key.family == AlgorithmFamily::Hmac || key.kid.as_deref() == kid
        };
        self.0.iter().filter(move |key| key.supports(algorithm)).filter(named)
    }

    /// Returns the algorithms for which there is a key.
    pub(super) fn algorithms(&self) -> Algorithms {
        let mut all = Algorithms::default();
        let each = self.0.iter().flat_map(|key| &key.algorithms);
        each.for_each(|algorithm| all.add(*algorithm));
        all
    }

    /// Returns the secret that signs.
    pub(super) fn signing(&self) -> Option<&[u8]> {
        self.0.iter().find(|key| key.family == AlgorithmFamily::Hmac).map(|key| &*key.material)
    }
}
