//! `philotectl`: the administrator's commands, each a question to the daemon and how its answer is printed.

mod args;
mod bench;
mod commands;
mod complete;
mod follow;
mod lists;
mod print;
mod steer;
mod table;
mod top;
mod values;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::admin::api::Code;
use crate::admin::client::Error;
use crate::completions;
use crate::escape::escape_json;
use crate::terminal::{self, Style};
use args::Arguments;

/// What people type.
const PROGRAM: &str = "philotectl";

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
    /// There was nothing to change.
    NothingMatched = 6,
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
            Error::SwitchedOff | Error::NotRunning { .. } | Error::Dead { .. } => Exit::NotRunning,
            Error::PermissionDenied { .. } => Exit::PermissionDenied,
            Error::Refused(failure) if failure.code == Code::Forbidden => Exit::PermissionDenied,
            Error::TimedOut { .. } => Exit::TimedOut,
            Error::Refused(failure) if failure.code == Code::BadRequest => Exit::Usage,
            _ => Exit::Failed,
        };
        Self { message: error.to_string(), hint: error.hint().map(str::to_owned), exit }
    }
}

/// Runs the command line that the process was given.
#[must_use]
pub fn main() -> ExitCode {
    completions::answer_shell::<Arguments>(PROGRAM);
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return terminal::usage(&error, PROGRAM),
    };
    match run(&arguments, Style::of(&io::stdout())) {
        Ok(exit) => exit.into(),
        Err(complaint) => {
            terminal::complain(&complaint.message, complaint.hint.as_deref());
            complaint.exit.into()
        }
    }
}

/// Runs the command, once or again and again.
fn run(arguments: &Arguments, style: Style) -> Result<Exit, Complaint> {
    let Some(pause) = arguments.command.watch() else {
        let report = commands::run(arguments, style)?;
        print(&report)?;
        return Ok(report.exit);
    };
    loop {
        let mut report = commands::run(arguments, style)?;
        if style.terminal {
            // From the top of an empty screen.
            report.text.insert_str(0, "\x1b[H\x1b[2J");
        } else if arguments.json {
            // One document a line, so that a program can tell where each ends.
            let document: Option<serde_json::Value> = serde_json::from_str(&report.text).ok();
            report.text = document
                .map(|document| escape_json(&document.to_string()).into_owned() + "\n")
                .unwrap_or(report.text);
        }
        if !print(&report)? {
            return Ok(Exit::Done);
        }
        std::thread::sleep(pause);
    }
}

/// Prints a report; false where nobody reads it any more.
fn print(report: &Report) -> Result<bool, Complaint> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(report.text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever reads us has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
        Err(error) => {
            let message = format!("cannot write to standard output: {error}");
            return Err(Complaint { message, hint: None, exit: Exit::Failed });
        }
        Ok(()) => {}
    }
    if let Some(aside) = &report.aside {
        terminal::complain(aside, None);
    }
    Ok(true)
}
