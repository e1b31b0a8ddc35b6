//! The problems of settings, and the error messages for them.
//!
//! No message quotes a line of the file, the value of `auth.secret` or the value of an unknown key, because each of them
//! may be the secret.

use std::fmt;
use std::path::PathBuf;

use super::cluster::ClusterError;
use super::public_keys::KeyError;
use super::secret::SecretError;
use super::source::Source;
use super::tls::TlsError;
use crate::escape::escape;

/// The exit status for invalid settings: `EX_CONFIG` in sysexits.h.
pub const EXIT_CONFIG: u8 = 78;

/// Every problem of the settings. `Display` writes one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// Returns the exit status: 78, which is `EX_CONFIG` in sysexits.h, for invalid settings, and 1 if the only problem is a
    /// disk on which the secret could not be stored. The disk may have room at the next start.
    pub fn exit_code(&self) -> u8 {
        let passes =
            |problem: &Problem| matches!(problem.kind, ProblemKind::Secret(SecretError::Unwritable { .. }));
        if self.problems.iter().all(passes) { 1 } else { EXIT_CONFIG }
    }

    /// Returns the problems, at least one, in the order in which they were found.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Returns an error if there are problems.
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
            // Escaped, so that a problem is one line whatever the file contains.
            f.write_str(&escape(&problem.to_string()))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One problem of the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The source of the setting, if it has one.
    pub source: Option<Source>,
    /// The key, `section.key`, if the problem is about one.
    pub key: Option<String>,
    /// What is wrong with it.
    pub kind: ProblemKind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}: ")?;
        }
        if let Some(key) = &self.key {
            // A key may be any text. Its control characters must not reach a terminal.
            write!(f, "{}: ", key.escape_debug())?;
        }
        write!(f, "{}", self.kind)
    }
}

/// What can be wrong with a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The configuration file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        reason: String,
    },
    /// The configuration file is too large.
    TooLarge {
        /// The limit, in bytes.
        maximum: u64,
    },
    /// The configuration file has too many keys and sections.
    TooManyKeys {
        /// The limit.
        maximum: usize,
    },
    /// The file, or the variable, is not UTF-8.
    NotText,
    /// The file is not TOML.
    Syntax {
        /// The column, in characters, counted from 1.
        column: usize,
        /// The message of the parser, which does not quote the file.
        message: String,
    },
    /// There is no such key.
    UnknownKey {
        /// The most similar name.
        nearest: Option<String>,
    },
    /// There is no such section.
    UnknownSection {
        /// The most similar name.
        nearest: Option<String>,
    },
    /// The name of a section has a value.
    NotASection,
    /// The socket for observers has the path of the admin socket.
    IsAdminSocket,
    /// `--set` has no value.
    NoValue,
    /// The value has the wrong type.
    WrongType {
        /// What the value must be.
        expected: &'static str,
        /// What the value is.
        found: &'static str,
    },
    /// The value cannot be parsed.
    Invalid {
        /// What the value must be.
        expected: String,
        /// What the value is.
        found: String,
    },
    /// The value is out of range.
    OutOfRange {
        /// The smallest allowed value.
        minimum: String,
        /// The largest allowed value.
        maximum: String,
        /// What the value is.
        found: String,
    },
    /// A size is smaller than that of another key.
    SmallerThan {
        /// The size.
        found: String,
        /// The other key.
        other: &'static str,
        /// The size of the other key.
        least: String,
        /// What would happen.
        reason: &'static str,
    },
    /// A list has an item twice.
    Repeated {
        /// The item.
        found: String,
    },
    /// An address with `--dev` is reachable from other machines.
    NotLoopback {
        /// The address.
        found: String,
    },
    /// A port is set, but there are several addresses.
    PortOfSeveral,
    /// A port is set, but no address has a port.
    PortOfNone,
    /// A file of public keys cannot be used.
    PublicKeys(PathBuf, KeyError),
    /// The secret cannot be used.
    Secret(SecretError),
    /// Certificate and key cannot be used.
    Tls(TlsError),
    /// The settings of the cluster cannot be used.
    Cluster(ClusterError),
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProblemKind::Unreadable { path, reason } => write!(f, "cannot read {}: {reason}", path.display()),
            ProblemKind::TooLarge { maximum } => {
                write!(f, "larger than {maximum} bytes, too large for a configuration file")
            }
            ProblemKind::TooManyKeys { maximum } => {
                write!(f, "more than {maximum} keys and sections, too many for a configuration file")
            }
            ProblemKind::NotText => f.write_str("not UTF-8 text"),
            ProblemKind::Syntax { column, message } => write!(f, "column {column}: {message}"),
            ProblemKind::UnknownKey { nearest } => {
                f.write_str("unknown key")?;
                did_you_mean(f, nearest)
            }
            ProblemKind::UnknownSection { nearest } => {
                f.write_str("unknown section")?;
                did_you_mean(f, nearest)
            }
            ProblemKind::NotASection => {
                f.write_str("this is a section: write its keys below a line [section]")
            }
            ProblemKind::IsAdminSocket => f.write_str("is the path of the admin socket too: choose another"),
            ProblemKind::NoValue => {
                f.write_str("needs a key and a value, such as --set limits.queue_bytes=2MiB")
            }
            ProblemKind::WrongType { expected, found } => write!(f, "must be {expected}, not {found}"),
            ProblemKind::Invalid { expected, found } => write!(f, "must be {expected}, not {found:?}"),
            ProblemKind::OutOfRange { minimum, maximum, found } => {
                write!(f, "must be from {minimum} to {maximum}, not {found}")
            }
            ProblemKind::SmallerThan { found, other, least, reason } => {
                write!(f, "{found} is less than {other}, {least}: {reason}")
            }
            ProblemKind::Repeated { found } => write!(f, "{found} appears twice"),
            ProblemKind::NotLoopback { found } => write!(
                f,
                "{found} is reachable from other machines, and the secret of --dev is public: use 127.0.0.1 or ::1, or leave out --dev"
            ),
            ProblemKind::PortOfSeveral => {
                f.write_str("listen has several addresses: write the port in each of them instead")
            }
            ProblemKind::PortOfNone => f.write_str("listen has no address with a port: add one there"),
            ProblemKind::PublicKeys(path, error) => write!(f, "{}: {error}", path.display()),
            ProblemKind::Secret(error) => write!(f, "{error}"),
            ProblemKind::Tls(error) => write!(f, "{error}"),
            ProblemKind::Cluster(error) => write!(f, "{error}"),
        }
    }
}

fn did_you_mean(f: &mut fmt::Formatter<'_>, nearest: &Option<String>) -> fmt::Result {
    match nearest {
        Some(nearest) => write!(f, "; did you mean {nearest}?"),
        None => Ok(()),
    }
}
