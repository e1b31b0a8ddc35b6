//! The secret: the HMAC keys, where they came from, and what a text must be to hold them.

use std::fmt;
use std::path::{Path, PathBuf};

use super::origin::Origin;

/// Each token is tried against all of them; a rotation needs two.
pub(super) const MOST_SECRETS: usize = 16;
/// RFC 7518, section 3.2: a key for HS256 has at least 256 bits.
const SHORTEST_STRONG: usize = 32;

/// One HMAC key. Neither `Debug` nor `Display` shows it.
#[derive(Clone)]
pub struct Secret(Box<str>);

impl Secret {
    /// The key: exactly the characters that were written.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The same as text, for who may see it: `philotectl secret show`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn new(text: &str) -> Self {
        Secret(text.into())
    }
}

/// Takes as long for a near miss as for a far one: what is compared may come from outside.
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
    /// That of every server for development.
    Dev,
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
            SecretSource::Dev => f.write_str("the secret is that of every philote --dev"),
            SecretSource::Credential(path) => {
                write!(f, "the secret is systemd's credential {}", path.display())
            }
            SecretSource::Made(path) => write!(f, "made a secret in {}", path.display()),
            SecretSource::Missing(path) => write!(f, "a secret will be made in {}", path.display()),
        }
    }
}

/// The secrets of a text, one a line. Exactly the characters count, without the newline at the end.
///
/// # Errors
/// The text is empty, or holds a blank line, a byte order mark, a carriage return or too many lines.
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
    if secrets.len() > MOST_SECRETS { Err(SecretError::TooMany) } else { Ok(secrets) }
}

/// What should be said about secrets that are accepted all the same.
pub(super) fn warnings(secrets: &Secrets) -> Vec<String> {
    let mut warnings = Vec::new();
    for (line, secret) in (1..).zip(secrets.iter()) {
        let which = if secrets.keys.len() > 1 { format!(", line {line}") } else { String::new() };
        if secret.0.is_empty() {
            warnings.push("the secret is empty: anyone can make a token".to_owned());
        } else if secret.as_bytes().len() < SHORTEST_STRONG {
            warnings.push(format!(
                "{}{which}: it is shorter than {SHORTEST_STRONG} bytes, so that anyone who sees a token can guess it",
                secrets.source
            ));
        }
        if secret.0.trim() != &*secret.0 {
            warnings.push(format!("{}{which}: it begins or ends with a blank, which counts", secrets.source));
        }
    }
    warnings
}

/// Why a secret cannot be used, or kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Something else than a regular file.
    NotAFile {
        /// Which.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// No file of secrets is that large.
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read, in bytes.
        maximum: u64,
    },
    /// The file is not UTF-8.
    NotText(PathBuf),
    /// There is nothing.
    Empty,
    /// A line has nothing but blanks.
    BlankLine {
        /// The line of the secret, counted from 1.
        line: usize,
    },
    /// A line was written by another system's editor.
    CarriageReturn {
        /// The line of the secret, counted from 1.
        line: usize,
    },
    /// A line begins with a byte order mark, which would be part of the secret.
    ByteOrderMark {
        /// The line of the secret, counted from 1.
        line: usize,
    },
    /// More lines than are verified.
    TooMany,
    /// As many lines as are verified, and one more was to come.
    Full,
    /// No secret is given, and there is no directory to keep one in.
    NoPlace,
    /// The daemon's own file cannot be written.
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The system gave no random bytes.
    NoRandom(String),
    /// The secret is not the daemon's own; where it is, in a sentence.
    NotOwn(String),
}

impl SecretError {
    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        SecretError::Unreadable { path: path.to_owned(), reason: error.to_string() }
    }

    pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> Self {
        SecretError::Unwritable { path: path.to_owned(), reason: error.to_string() }
    }
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretError::Unreadable { path, reason } => {
                write!(f, "cannot read the secret in {}: {reason}", path.display())
            }
            SecretError::NotAFile { path, kind } => {
                write!(f, "{} is {kind}, not a regular file", path.display())
            }
            SecretError::TooLarge { path, maximum } => {
                write!(f, "{} is larger than {maximum} bytes: this is no secret", path.display())
            }
            SecretError::NotText(path) => write!(
                f,
                "{} is not UTF-8 text: write the secret in characters, as `openssl rand -base64 32` does",
                path.display()
            ),
            SecretError::Empty => f.write_str(
                "the secret is empty, so that anyone could make a token: write one, or set auth.allow_empty_secret",
            ),
            SecretError::BlankLine { line } => {
                write!(f, "line {line} of the secret is blank: each line is a secret, remove it")
            }
            SecretError::CarriageReturn { line } => {
                write!(f, "line {line} of the secret has a carriage return: save it with Unix line ends")
            }
            SecretError::ByteOrderMark { line } => write!(
                f,
                "line {line} of the secret begins with a byte order mark, which nobody sees: save it as UTF-8 without one"
            ),
            SecretError::TooMany => write!(f, "more than {MOST_SECRETS} lines: each is a secret, remove old ones"),
            SecretError::Full => {
                write!(f, "there are {MOST_SECRETS} secrets already: remove old ones with `philotectl secret set`")
            }
            SecretError::NoPlace => f.write_str(
                "no secret is given and there is no directory to keep one in; set SECRET, for example: openssl rand -hex 32",
            ),
            SecretError::Unwritable { path, reason } => {
                let path = path.display();
                write!(
                    f,
                    "cannot keep a secret in {path}: {reason}; set SECRET, for example: openssl rand -hex 32"
                )
            }
            SecretError::NoRandom(reason) => write!(f, "the system gave no random bytes: {reason}"),
            SecretError::NotOwn(source) => write!(f, "{source}: change it there, then reload"),
        }
    }
}

impl std::error::Error for SecretError {}
