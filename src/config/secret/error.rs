//! What can be wrong with a secret.

use std::fmt;
use std::path::{Path, PathBuf};

use super::MAX_SECRETS;

/// Why a secret cannot be used or stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        reason: String,
    },
    /// The path is not a regular file.
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
    },
    /// The file is too large for secrets.
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit, in bytes.
        maximum: u64,
    },
    /// The file is not UTF-8.
    NotText(PathBuf),
    /// The secret is empty.
    Empty,
    /// A line is blank.
    BlankLine {
        /// The line of the secret, counted from 1.
        line: usize,
    },
    /// A line has a carriage return, as editors of other systems write it.
    CarriageReturn {
        /// The line of the secret, counted from 1.
        line: usize,
    },
    /// A line begins with a byte order mark, which would be part of the secret.
    ByteOrderMark {
        /// The line of the secret, counted from 1.
        line: usize,
    },
    /// There are more than [`MAX_SECRETS`] lines.
    TooMany,
    /// A rotation would make more than [`MAX_SECRETS`].
    Full,
    /// No secret is set, and there is no directory in which to store a generated one.
    NoDirectory,
    /// The generated file cannot be written.
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        reason: String,
    },
    /// The generated file cannot be replaced by a running daemon, which goes on with its secrets.
    NotReplaced {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        reason: String,
    },
    /// The system has no random bytes.
    NoRandom(String),
    /// The secret was not generated; the text is a sentence that says where it is.
    NotGenerated(String),
}

impl SecretError {
    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        SecretError::Unreadable { path: path.to_owned(), reason: error.to_string() }
    }

    pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> Self {
        SecretError::Unwritable { path: path.to_owned(), reason: error.to_string() }
    }

    pub(super) fn not_replaced(path: &Path, error: &std::io::Error) -> Self {
        SecretError::NotReplaced { path: path.to_owned(), reason: error.to_string() }
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
                write!(f, "{} is larger than {maximum} bytes, too large for a secret", path.display())
            }
            SecretError::NotText(path) => write!(
                f,
                "{} is not UTF-8 text: write the secret as text, such as the output of `openssl rand -base64 32`",
                path.display()
            ),
            SecretError::Empty => f.write_str(
                "the secret is empty, so anyone could sign tokens: set one, or leave it out and philote generates one \
                 (auth.allow_empty_secret, ALLOW_EMPTY_SECRET=true, permits an empty one)",
            ),
            SecretError::BlankLine { line } => {
                write!(f, "line {line} of the secret is blank: remove it, because each line is one secret")
            }
            SecretError::CarriageReturn { line } => {
                write!(f, "line {line} of the secret has a carriage return: save it with Unix line endings")
            }
            SecretError::ByteOrderMark { line } => write!(
                f,
                "line {line} of the secret begins with an invisible byte order mark: save it as UTF-8 without one"
            ),
            SecretError::TooMany => write!(f, "more than {MAX_SECRETS} secrets, one per line: remove old ones"),
            SecretError::Full => {
                write!(f, "there are {MAX_SECRETS} secrets already: remove old ones with `philotectl secret set`")
            }
            SecretError::NoDirectory => f.write_str(
                "no secret is set and there is no directory to store one in; set SECRET, for example to the output of: openssl rand -hex 32",
            ),
            SecretError::Unwritable { path, reason } => {
                let path = path.display();
                write!(
                    f,
                    "cannot store a secret in {path}: {reason}; set SECRET, for example to the output of: openssl rand -hex 32"
                )
            }
            SecretError::NotReplaced { path, reason } => {
                write!(f, "cannot replace the secret in {}: {reason}; nothing was changed", path.display())
            }
            SecretError::NoRandom(reason) => write!(f, "cannot get random bytes from the system: {reason}"),
            SecretError::NotGenerated(source) => write!(f, "{source}: change it there, then reload"),
        }
    }
}

impl std::error::Error for SecretError {}
