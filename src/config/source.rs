//! The source of a setting's value.

use std::fmt;
use std::path::PathBuf;

/// The source of a value, such as a line of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// No layer sets it; this is the default.
    Default,
    /// A line of the configuration file, counted from 1.
    File {
        /// The path of the file, as it was given.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// An option on the command line.
    CommandLine(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File { path, line } => write!(f, "{}:{line}", path.display()),
            Source::Environment(name) => write!(f, "environment variable {name}"),
            Source::CommandLine(option) => write!(f, "{option} on the command line"),
        }
    }
}
