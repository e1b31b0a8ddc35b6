//! Public keys in PEM and as a JWKS, for tests/fuzz.

use std::path::Path;

use super::{MAX_KEYS, jwks, pem};

/// A file of keys, read as both formats.
pub(crate) fn parse(data: &[u8]) {
    let path = Path::new("keys");
    let mut warnings = Vec::new();
    for keys in [jwks::parse(data, path, &mut warnings), pem::parse(data, path, Some("kid"))] {
        match keys {
            Ok(keys) => assert!(keys.len() <= MAX_KEYS),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
