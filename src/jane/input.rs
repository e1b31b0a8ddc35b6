//! Reads lines of standard input on a separate thread, because a read from a terminal cannot be cancelled.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::thread;

use tokio::sync::mpsc;

use super::error::Error;

/// The most bytes of a line, far more than a server accepts. It keeps binary input from filling the memory.
pub(super) const MAX_LINE: usize = 1024 * 1024;
/// The most lines that are read before the connection takes them.
const AHEAD: usize = 64;

/// The kind of standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A terminal.
    Terminal,
    /// A pipe or a file: jane publishes all of it, then exits.
    Stream,
    /// `/dev/null` or a similar device: there will be no input, and jane does not exit because of that.
    Nothing,
}

impl Source {
    pub(super) fn of_stdin() -> Self {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Self::Terminal;
        }
        let file_type =
            stdin.as_fd().try_clone_to_owned().and_then(|fd| Ok(File::from(fd).metadata()?.file_type()));
        if file_type.is_ok_and(|file_type| file_type.is_char_device()) { Self::Nothing } else { Self::Stream }
    }
}

/// Starts to read. The channel ends with the input, after an error if there was one.
pub(super) fn start(source: Source) -> Result<mpsc::Receiver<Result<String, Error>>, Error> {
    let (lines, received) = mpsc::channel(AHEAD);
    if source == Source::Nothing {
        return Ok(received);
    }
    let read = move || {
        let mut stdin = io::stdin().lock();
        while let Some(line) = next(&mut stdin).transpose() {
            let last = line.is_err();
            if lines.blocking_send(line).is_err() || last {
                return;
            }
        }
    };
    thread::Builder::new().name("input".into()).spawn(read).map_err(Error::Runtime)?;
    Ok(received)
}

/// Reads the next line, without its line ending; `None` at the end of the input.
fn next(input: &mut impl BufRead) -> Result<Option<String>, Error> {
    let mut line = String::new();
    let read = input.take(MAX_LINE as u64 + 2).read_line(&mut line).map_err(Error::Input)?;
    if read == 0 {
        return Ok(None);
    }
    if line.ends_with('\n') {
        line.pop();
        if line.ends_with('\r') {
            line.pop();
        }
    }
    if line.len() > MAX_LINE { Err(Error::LongLine { limit: MAX_LINE }) } else { Ok(Some(line)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_no_line_endings() {
        let mut input = "a\r\n\n ü \nlast".as_bytes();
        let lines: Vec<_> = std::iter::from_fn(|| next(&mut input).unwrap()).collect();
        assert_eq!(lines, ["a", "", " ü ", "last"]);
    }

    #[test]
    fn a_line_that_is_too_long_or_not_text_is_an_error() {
        let line = "x".repeat(MAX_LINE);
        assert_eq!(next(&mut format!("{line}\r\n").as_bytes()).unwrap().unwrap(), line);
        assert_eq!(next(&mut line.as_bytes()).unwrap().unwrap(), line);
        assert!(matches!(next(&mut format!("{line}x\n").as_bytes()), Err(Error::LongLine { .. })));
        let mut endless = io::BufReader::new(io::repeat(b'x'));
        assert!(matches!(next(&mut endless), Err(Error::LongLine { .. })));
        assert!(matches!(next(&mut &b"\xff\n"[..]), Err(Error::Input(_))));
    }
}
