//! Terminal output of the programs: colours, the terminal's width, and errors.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use crate::escape::escape;

/// The exit status for an invalid command line.
pub const USAGE: u8 = 2;

/// The style of one output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Whether it is a terminal: align columns and use readable units.
    pub terminal: bool,
    /// Whether to use colours.
    pub colour: bool,
}

/// The meaning of a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// No problem.
    Good,
    /// Needs attention.
    Bad,
    /// Less important than the text beside it.
    Faint,
}

impl Style {
    /// Returns the style of a stream. It has colours if it is a terminal that supports them and `NO_COLOR` is not set
    /// (no-color.org).
    pub fn of(stream: &impl IsTerminal) -> Self {
        let terminal = stream.is_terminal();
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { terminal, colour: terminal && !unwanted && !dumb }
    }

    /// Returns `text` in the colour of `tone`.
    #[must_use]
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "31;1",
            Tone::Faint => "2",
        };
        self.sgr(code, text)
    }

    /// Returns `text` between the escape sequence with the parameters `code` and its reset.
    #[must_use]
    pub fn sgr(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Returns the width of the terminal on standard output, in columns.
pub fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Prints an error on standard error, and a hint in a second line.
pub fn complain(message: &str, hint: Option<&str>) {
    let mut stderr = io::stderr().lock();
    // If this fails, there is no way to report it.
    let _ = writeln!(stderr, "{}", escape(message));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "{}", escape(hint));
    }
}

/// Prints clap's help or version on standard output, or its error with [`complain`], and returns the exit status. The
/// hint is the nearest valid argument, the usage, or `--help` of `program`.
#[must_use]
pub fn usage(error: &clap::Error, program: &str) -> ExitCode {
    use clap::error::ErrorKind;
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(USAGE);
    }
    let text = error.render().to_string();
    let (message, hint) = one_line(&text);
    complain(&message, Some(&hint.unwrap_or_else(|| format!("see: {program} --help"))));
    ExitCode::from(USAGE)
}

/// Extracts the error, and the tip or the usage, from clap's text.
fn one_line(text: &str) -> (String, Option<String>) {
    let line = |prefix: &str| {
        text.lines()
            .find_map(|line| line.trim_start().strip_prefix(prefix))
            .map(|rest| rest.trim().to_owned())
    };
    let first: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let message = first.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message).to_owned();
    (message, line("tip: ").or_else(|| line("Usage: ").map(|usage| format!("usage: {usage}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_need_a_style_with_colours() {
        let plain = Style { terminal: true, colour: false };
        assert_eq!(plain.paint(Tone::Bad, "full"), "full");
        let colour = Style { terminal: true, colour: true };
        assert_eq!(colour.paint(Tone::Good, "yes"), "\x1b[32myes\x1b[0m");
    }

    #[test]
    fn a_usage_error_is_one_line_and_one_hint() {
        let text = "error: unrecognized subcommand 'statsu'\n\n  tip: a similar subcommand exists: 'status'\n\n\
                    Usage: philotectl <COMMAND>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            one_line(text),
            ("unrecognized subcommand 'statsu'".into(), Some("a similar subcommand exists: 'status'".into()))
        );
        let text =
            "error: the following required arguments were not provided:\n  <TOKEN>\n\nUsage: x <TOKEN>\n";
        assert_eq!(
            one_line(text),
            (
                "the following required arguments were not provided: <TOKEN>".into(),
                Some("usage: x <TOKEN>".into())
            )
        );
    }
}
