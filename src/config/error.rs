//! What can be wrong with settings, in the sentences that the administrator reads.
//!
//! No sentence quotes a source line, the value of `auth.secret` or that of a key nobody knows: each may be
//! the secret.

use std::fmt;
use std::path::PathBuf;

use super::origin::Origin;
use super::public_keys::KeyError;
use super::secret::SecretError;
use super::tls::TlsError;
use crate::escape::escape;

/// Everything that is wrong with the settings, a line for each. A program that meets it exits with 78.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// The exit status of a program that was given these settings: 78, `EX_CONFIG` of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        78
    }

    /// What is wrong, in the order of reading; at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Nothing wrong is no error.
    pub(super) fn unless_empty(problems: Vec<Problem>) -> Result<(), ConfigError> {
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        ConfigError { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            // One line each, whatever the file holds.
            f.write_str(&escape(&problem.to_string()))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is written, where that is one place.
    pub origin: Option<Origin>,
    /// The key, `section.key`, where it is one.
    pub key: Option<String>,
    /// What is wrong with it.
    pub situation: Situation,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if let Some(key) = &self.key {
            // A key is any text: its control characters must not reach a terminal.
            write!(f, "{}: ", key.escape_debug())?;
        }
        write!(f, "{}", self.situation)
    }
}

/// What can be wrong with a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Situation {
    /// The configuration file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The configuration file is larger than any could be, in bytes.
    TooLarge {
        /// The most that is read.
        maximum: u64,
    },
    /// The file, or the variable, is not UTF-8.
    NotText,
    /// The file is not TOML.
    Syntax {
        /// The column, in characters, counted from 1.
        column: usize,
        /// What the parser says; it quotes nothing of the file.
        message: String,
    },
    /// No such key.
    UnknownKey {
        /// The name that was probably meant.
        nearest: Option<String>,
    },
    /// No such section.
    UnknownSection {
        /// The name that was probably meant.
        nearest: Option<String>,
    },
    /// A section's name with a value.
    NotASection,
    /// `--set` without a value.
    NoValue,
    /// A value of another type.
    WrongType {
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A value that cannot be read as what it must be.
    NotUnderstood {
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A value beyond its range.
    OutOfRange {
        /// The least.
        minimum: String,
        /// The most.
        maximum: String,
        /// What it is.
        found: String,
    },
    /// A key that another value rules out.
    SmallerThan {
        /// What it is, a size.
        found: String,
        /// The key that asks for more.
        other: &'static str,
        /// The size that key has.
        least: String,
        /// Why.
        reason: &'static str,
    },
    /// An address that is listed twice.
    Repeated {
        /// The address.
        found: String,
    },
    /// An address that others reach, for development.
    NotLoopback {
        /// The address.
        found: String,
    },
    /// A port on its own, with several addresses to choose from.
    PortOfSeveral,
    /// A port on its own, with no address that has one.
    PortOfNone,
    /// A feature that this version lacks.
    NotYet(&'static str),
    /// A file of public keys cannot be used.
    Keys(PathBuf, KeyError),
    /// The secret cannot be used.
    Secret(SecretError),
    /// Certificate and key cannot be used.
    Tls(TlsError),
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Situation::Unreadable { path, reason } => write!(f, "cannot read {}: {reason}", path.display()),
            Situation::TooLarge { maximum } => {
                write!(f, "larger than {maximum} bytes: this is no configuration file")
            }
            Situation::NotText => f.write_str("not UTF-8 text"),
            Situation::Syntax { column, message } => write!(f, "column {column}: {message}"),
            Situation::UnknownKey { nearest } => {
                f.write_str("unknown key")?;
                did_you_mean(f, nearest)
            }
            Situation::UnknownSection { nearest } => {
                f.write_str("unknown section")?;
                did_you_mean(f, nearest)
            }
            Situation::NotASection => {
                f.write_str("this is a section: write its keys below a line of its own, [section]")
            }
            Situation::NoValue => {
                f.write_str("needs a key and a value, such as --set limits.queue_bytes=2MiB")
            }
            Situation::WrongType { expected, found } => write!(f, "must be {expected}, not {found}"),
            Situation::NotUnderstood { expected, found } => write!(f, "must be {expected}, not {found:?}"),
            Situation::OutOfRange { minimum, maximum, found } => {
                write!(f, "must be from {minimum} to {maximum}, not {found}")
            }
            Situation::SmallerThan { found, other, least, reason } => {
                write!(f, "{found} is less than {other}, {least}: {reason}")
            }
            Situation::Repeated { found } => write!(f, "{found} is there twice"),
            Situation::NotLoopback { found } => write!(
                f,
                "{found} is reached from other machines, and everybody knows the secret of --dev: choose 127.0.0.1 or ::1, or leave out --dev"
            ),
            Situation::PortOfSeveral => {
                f.write_str("listen has several addresses: write the port in each of them instead")
            }
            Situation::PortOfNone => f.write_str("listen has no address with a port: write one there"),
            Situation::NotYet(sentence) => f.write_str(sentence),
            Situation::Keys(path, error) => write!(f, "{}: {error}", path.display()),
            Situation::Secret(error) => write!(f, "{error}"),
            Situation::Tls(error) => write!(f, "{error}"),
        }
    }
}

fn did_you_mean(f: &mut fmt::Formatter<'_>, nearest: &Option<String>) -> fmt::Result {
    match nearest {
        Some(nearest) => write!(f, "; did you mean {nearest}?"),
        None => Ok(()),
    }
}
