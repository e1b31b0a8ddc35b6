//! The findings of `philotectl doctor`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad a finding is. The worst one of a report decides its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works now, and should be changed before it fails or is abused.
    Warning,
    /// Clients are turned away or not safe now, or the next restart fails.
    Problem,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The subject (`secret`, `certificate`).
    pub check: String,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found, as a sentence without a secret.
    pub found: String,
    /// What to do about it; `None` if it is as it should be.
    pub remedy: Option<String>,
}

/// The findings of one check.
#[derive(Debug)]
pub struct Findings {
    check: &'static str,
    all: Vec<Finding>,
}

impl Findings {
    /// Creates the findings of a check with this subject.
    #[must_use]
    pub fn of(check: &'static str) -> Findings {
        Findings { check, all: Vec::new() }
    }

    /// Adds a warning.
    pub fn warn(&mut self, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(Verdict::Warning, found.into(), Some(remedy.into()));
    }

    /// Adds a problem.
    pub fn problem(&mut self, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(Verdict::Problem, found.into(), Some(remedy.into()));
    }

    /// Returns the findings; if there are none, what was found is as it should be.
    #[must_use]
    pub fn or_ok(mut self, found: impl Into<String>) -> Vec<Finding> {
        if self.all.is_empty() {
            self.add(Verdict::Ok, found.into(), None);
        }
        self.all
    }

    fn add(&mut self, verdict: Verdict, found: String, remedy: Option<String>) {
        self.all.push(Finding { check: self.check.to_owned(), verdict, found, remedy });
    }
}

/// What the daemon finds about itself. `philotectl doctor` adds what it finds about the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkup {
    /// The daemon's version.
    pub version: String,
    /// The setting `max_connections`, against which the limits of the kernel are checked.
    pub max_connections: u64,
    /// Whether the socket is that for observers, which may be open to every user.
    pub observes_only: bool,
    /// At least one finding for each subject.
    pub findings: Vec<Finding>,
}
