//! The secret: the HMAC keys, and where they came from.

use std::fmt;
use std::path::{Path, PathBuf};

use super::origin::Origin;

/// One HMAC key. Neither `Debug` nor `Display` shows it.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// The key: exactly the characters that were written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn new(text: &str) -> Self {
        Secret(text.as_bytes().into())
    }
}

/// Takes as long for a near miss as for a far one: what is compared may come from outside.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).fold(0, |different, (a, b)| different | (a ^ b)) == 0
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// The HMAC keys in the order written, and where they came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    keys: Vec<Secret>,
    source: SecretSource,
}

/// Where the secret came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// `SECRET`, `auth.secret` or an option.
    Setting(Origin),
    /// The file that `auth.secret_file` names.
    File(PathBuf),
    /// systemd's credential directory.
    Credential(PathBuf),
    /// The daemon's own file, made at an earlier start.
    Own(PathBuf),
    /// The daemon's own file, made just now.
    Made(PathBuf),
    /// Nowhere yet: the daemon's own file is still to be made.
    Missing(PathBuf),
}

impl Secrets {
    pub(super) fn new(keys: Vec<Secret>, source: SecretSource) -> Self {
        Secrets { keys, source }
    }

    /// The key that signs. `None` only while the secret is still to be made.
    pub fn signing(&self) -> Option<&Secret> {
        self.keys.first()
    }

    /// The keys that verify, the signing one first.
    pub fn iter(&self) -> std::slice::Iter<'_, Secret> {
        self.keys.iter()
    }

    /// Whether a token signed with this key is still accepted.
    pub fn contains(&self, key: &Secret) -> bool {
        self.keys.contains(key)
    }

    /// Where they came from.
    pub fn source(&self) -> &SecretSource {
        &self.source
    }
}

impl SecretSource {
    /// The daemon's own file: the only one that `philotectl secret set` and `rotate` may write.
    pub fn own_file(&self) -> Option<&Path> {
        match self {
            SecretSource::Own(path) | SecretSource::Made(path) | SecretSource::Missing(path) => Some(path),
            _ => None,
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::Setting(origin) => write!(f, "the secret is from {origin}"),
            SecretSource::File(path) | SecretSource::Own(path) => {
                write!(f, "the secret is in {}", path.display())
            }
            SecretSource::Credential(path) => {
                write!(f, "the secret is systemd's credential {}", path.display())
            }
            SecretSource::Made(path) => write!(f, "made a secret in {}", path.display()),
            SecretSource::Missing(path) => write!(f, "a secret will be made in {}", path.display()),
        }
    }
}
