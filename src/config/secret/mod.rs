//! The secrets, which are the HMAC keys of tokens: their form as text, their checks, and where they came from.

mod error;
mod file;

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::readers::{self, GROUP_AND_OTHERS, OTHERS};
use super::source::Source;

pub use error::SecretError;
pub(super) use file::{make_secret_file, read_secret_file};

/// Every token is tried against all secrets. A rotation needs two.
const MAX_SECRETS: usize = 16;
/// Bytes; RFC 7518, section 3.2: a key for HS256 has at least 256 bits.
const SHORTEST_STRONG: usize = 32;

/// One HMAC key. Neither `Debug` nor `Display` shows it.
#[derive(Clone)]
pub struct Secret(Box<str>);

impl Secret {
    /// Returns the key, exactly as the setting has it.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Returns the key as text, for `philotectl secret show`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn new(text: &str) -> Self {
        Secret(text.into())
    }
}

/// Takes the same time for every secret of the same length, because a client may have chosen one of the two.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let (own, other) = (self.as_bytes(), other.as_bytes());
        own.len() == other.len()
            && own.iter().zip(other).fold(0, |different, (a, b)| different | (a ^ b)) == 0
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

/// The HMAC keys, in the order of their source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    keys: Vec<Secret>,
    source: SecretSource,
}

/// The source of the secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// `SECRET`, `auth.secret` or an option.
    Setting(Source),
    /// The file that `auth.secret_file` names.
    File(PathBuf),
    /// The public secret of `--dev`.
    Dev,
    /// A file in systemd's credential directory.
    Credential(PathBuf),
    /// The file that the daemon generated at an earlier start.
    Generated(PathBuf),
    /// The file that the daemon has just generated.
    New(PathBuf),
    /// The file that the daemon has yet to generate.
    Missing(PathBuf),
}

impl Secrets {
    pub(super) fn new(keys: Vec<Secret>, source: SecretSource) -> Self {
        Secrets { keys, source }
    }

    /// Returns the key that signs. `None` only for [`SecretSource::Missing`].
    pub fn signing(&self) -> Option<&Secret> {
        self.keys.first()
    }

    /// Returns the keys that verify. The first of them signs.
    pub fn iter(&self) -> std::slice::Iter<'_, Secret> {
        self.keys.iter()
    }

    /// Returns whether a token signed with this key is accepted.
    pub fn contains(&self, key: &Secret) -> bool {
        self.keys.contains(key)
    }

    /// Returns their source.
    pub fn source(&self) -> &SecretSource {
        &self.source
    }
}

impl SecretSource {
    /// Returns the generated file, the only one that `philotectl secret set` and `rotate` may write.
    pub fn generated_file(&self) -> Option<&Path> {
        match self {
            SecretSource::Generated(path) | SecretSource::New(path) | SecretSource::Missing(path) => {
                Some(path)
            }
            _ => None,
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::Setting(source) => write!(f, "the secret is from {source}"),
            SecretSource::File(path) | SecretSource::Generated(path) => {
                write!(f, "the secret is in {}", path.display())
            }
            SecretSource::Dev => f.write_str("the secret is the public one of philote --dev"),
            SecretSource::Credential(path) => {
                write!(f, "the secret is systemd's credential {}", path.display())
            }
            SecretSource::New(path) => write!(f, "generated a secret in {}", path.display()),
            SecretSource::Missing(path) => write!(f, "a secret will be generated in {}", path.display()),
        }
    }
}

/// Parses secrets, one per line. Every character counts except the newline at the end.
///
/// # Errors
/// The text is empty or has a blank line, a byte order mark, a carriage return or too many lines.
pub(super) fn parse(text: &str) -> Result<Vec<Secret>, SecretError> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    if text.is_empty() {
        return Err(SecretError::Empty);
    }
    let mut secrets = Vec::new();
    for (line, secret) in (1..).zip(text.split('\n')) {
        if secret.starts_with('\u{feff}') {
            return Err(SecretError::ByteOrderMark { line });
        }
        if secret.contains('\r') {
            return Err(SecretError::CarriageReturn { line });
        }
        if secret.trim().is_empty() {
            return Err(SecretError::BlankLine { line });
        }
        secrets.push(Secret::new(secret));
    }
    if secrets.len() > MAX_SECRETS { Err(SecretError::TooMany) } else { Ok(secrets) }
}

/// Returns warnings about secrets that are accepted but weak, or in a file that other users can read.
pub fn warnings(secrets: &Secrets) -> Vec<String> {
    let mut warnings = Vec::new();
    for (line, secret) in (1..).zip(secrets.iter()) {
        let which = if secrets.keys.len() > 1 { format!(", line {line}") } else { String::new() };
        if secret.0.is_empty() {
            warnings.push("the secret is empty, so anyone can sign tokens".to_owned());
        } else if secret.as_bytes().len() < SHORTEST_STRONG {
            warnings.push(format!(
                "{}{which}: it is shorter than {SHORTEST_STRONG} bytes, so anyone who sees a token can guess it",
                secrets.source
            ));
        }
        if secret.0.trim() != &*secret.0 {
            warnings.push(format!(
                "{}{which}: it begins or ends with a blank, which is part of the secret",
                secrets.source
            ));
        }
    }
    warnings.extend(readable(&secrets.source));
    warnings
}

/// Returns a warning if other users can read the file with the secrets. systemd protects its credentials.
fn readable(source: &SecretSource) -> Option<String> {
    let (path, open) = match source {
        SecretSource::Setting(Source::File { path, .. }) | SecretSource::File(path) => (path, OTHERS),
        SecretSource::Generated(path) | SecretSource::New(path) => (path, GROUP_AND_OTHERS),
        _ => return None,
    };
    let mode = std::fs::metadata(path).ok()?.mode();
    readers::warning(path, "the secret", mode, open)
}
