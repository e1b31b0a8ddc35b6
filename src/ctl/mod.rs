//! `philotectl`: the administrator's commands, each a question to the daemon and how its answer is printed.

mod args;
pub mod bench;
mod commands;
mod print;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::admin::api::Code;
use crate::admin::client::Error;
use crate::terminal::{self, Style};
use args::Arguments;

/// How it ends, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done = 0,
    /// The daemon refused or failed.
    Failed = 1,
    Usage = terminal::USAGE as isize,
    NotRunning = 3,
    PermissionDenied = 4,
    TimedOut = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What a command has to say.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    /// For standard output.
    text: String,
    /// A line for standard error: of interest to people, in the way of programs.
    aside: Option<String>,
    exit: Exit,
}

impl Report {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), aside: None, exit: Exit::Done }
    }
}

/// Why a command came to nothing: one line, one hint, one exit status.
#[derive(Debug)]
struct Complaint {
    message: String,
    hint: Option<String>,
    exit: Exit,
}

impl From<Error> for Complaint {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::NotRunning { .. } | Error::Dead { .. } => Exit::NotRunning,
            Error::PermissionDenied { .. } => Exit::PermissionDenied,
            Error::Refused(failure) if failure.code == Code::Forbidden => Exit::PermissionDenied,
            Error::TimedOut { .. } => Exit::TimedOut,
            _ => Exit::Failed,
        };
        Self { message: error.to_string(), hint: error.hint().map(str::to_owned), exit }
    }
}

/// Runs the command line that the process was given.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return terminal::usage(&error, "philotectl"),
    };
    match commands::run(&arguments, Style::of(&io::stdout())).and_then(|report| print(&report)) {
        Ok(exit) => exit.into(),
        Err(complaint) => {
            terminal::complain(&complaint.message, complaint.hint.as_deref());
            complaint.exit.into()
        }
    }
}

fn print(report: &Report) -> Result<Exit, Complaint> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(report.text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever reads us has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            let message = format!("cannot write to standard output: {error}");
            return Err(Complaint { message, hint: None, exit: Exit::Failed });
        }
        Ok(()) => {}
    }
    if let Some(aside) = &report.aside {
        terminal::complain(aside, None);
    }
    Ok(report.exit)
}
