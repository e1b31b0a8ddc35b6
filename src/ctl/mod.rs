//! `philotectl`, the administrator's program. Each command sends a request to the daemon and prints the answer.

mod actions;
mod args;
mod bench;
mod cluster;
mod commands;
mod complete;
mod conformance;
mod doctor;
mod explain;
mod follow;
mod input;
mod instances;
mod lists;
mod print;
mod secrets;
mod status;
mod table;
mod tokens;
mod top;
mod values;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::admin::api::Code;
use crate::admin::client::{Client, Error};
use crate::admin::path;
use crate::completions;
use crate::escape::escape_json;
use crate::terminal::{self, Style};
use args::{Arguments, Command};

/// The name of the program.
const PROGRAM: &str = "philotectl";

/// The exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done = 0,
    /// The daemon refused or failed.
    Failed = 1,
    Usage = terminal::USAGE as isize,
    NotRunning = 3,
    PermissionDenied = 4,
    TimedOut = 5,
    /// Nothing matched, so that nothing was changed.
    NothingMatched = 6,
    /// `doctor` found warnings, but no problem.
    Warnings = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The output of a command.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    /// The text for standard output.
    text: String,
    /// A line for standard error, which is for people and not for programs.
    aside: Option<String>,
    exit: Exit,
}

impl Report {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), aside: None, exit: Exit::Done }
    }
}

/// Why a command failed: one line, one hint, one exit status.
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
        Self { message: error.to_string(), hint: error.hint(), exit }
    }
}

/// Runs the command line of the process.
#[must_use]
pub fn main() -> ExitCode {
    completions::answer_shell::<Arguments>(PROGRAM);
    let arguments = match Arguments::try_parse().or_else(|error| several().ok_or(error)) {
        Ok(arguments) => arguments,
        Err(error) => return terminal::usage(&error, PROGRAM),
    };
    let exit = match run(&arguments, Style::of(&io::stdout())) {
        Ok(exit) => exit,
        Err(complaint) => {
            let instances =
                (complaint.exit == Exit::NotRunning).then(|| instances::hint(&arguments)).flatten();
            terminal::complain(&complaint.message, instances.or(complaint.hint).as_deref());
            complaint.exit
        }
    };
    tell_of_others(&arguments);
    exit.into()
}

/// Returns the command `instances` for a command line without a word, if several daemons run. Otherwise it gets the help.
fn several() -> Option<Arguments> {
    if std::env::args_os().len() > 1 {
        return None;
    }
    let arguments = Arguments::try_parse_from([PROGRAM, "instances"]).ok()?;
    instances::are_several(&arguments).then_some(arguments)
}

/// Says which daemon has answered if several run here and none was named, for instance a system's and one's own.
fn tell_of_others(arguments: &Arguments) {
    if matches!(arguments.command, Command::Instances | Command::Conformance(_)) {
        return;
    }
    let paths = path::for_client(arguments.named(), |name| std::env::var_os(name));
    let client = Client::new(paths, Duration::ZERO);
    if let Some((reached, others)) = client.others() {
        let others: Vec<_> = others.iter().map(|path| path.display().to_string()).collect();
        let message =
            format!("this was the daemon at {}; another runs at {}", reached.display(), others.join(" and "));
        terminal::complain(&message, Some("choose one with --socket PATH or PHILOTE_ADMIN_SOCKET"));
    }
}

/// Runs the command, once or with `--watch` repeatedly.
fn run(arguments: &Arguments, style: Style) -> Result<Exit, Complaint> {
    let Some(pause) = arguments.command.watch() else {
        let report = commands::run(arguments, style)?;
        print(&report)?;
        return Ok(report.exit);
    };
    loop {
        let mut report = commands::run(arguments, style)?;
        if style.terminal {
            // Clears the screen and starts at the top.
            report.text.insert_str(0, "\x1b[H\x1b[2J");
        } else if arguments.json {
            // One document per line, so that a program can find the end of each.
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

/// Prints a report. Returns false if the reader of standard output has closed it.
fn print(report: &Report) -> Result<bool, Complaint> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(report.text.as_bytes()).and_then(|()| stdout.flush()) {
        // The reader wants no more.
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
