//! Decides what SIGHUP means for `--dev`: it reloads, but stops the daemon if its terminal was closed.

use std::fs::File;
use std::io::IsTerminal;

/// The terminal on which the daemon was started.
#[derive(Debug)]
pub(super) struct StartTerminal(Terminal);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terminal {
    /// Whether standard input, output and error are a terminal.
    streams: [bool; 3],
    /// Whether the session has a controlling terminal.
    controlling: bool,
}

impl Terminal {
    fn now() -> Terminal {
        let streams = [
            std::io::stdin().is_terminal(),
            std::io::stdout().is_terminal(),
            std::io::stderr().is_terminal(),
        ];
        // Opening /dev/tty fails if the session has no terminal, or has lost it.
        Terminal { streams, controlling: File::open("/dev/tty").is_ok() }
    }
}

impl StartTerminal {
    /// Looks at the terminal. Call it before SIGHUP is handled. A process that was started with SIGHUP ignored, as by nohup,
    /// counts as one without a terminal.
    pub(super) fn now() -> StartTerminal {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if ignores_hangup(&status) {
            return StartTerminal(Terminal { streams: [false; 3], controlling: false });
        }
        StartTerminal(Terminal::now())
    }

    /// Returns whether the terminal was closed.
    pub(super) fn is_gone(&self) -> bool {
        let (before, now) = (self.0, Terminal::now());
        before.controlling && !now.controlling
            || before.streams.iter().zip(now.streams).any(|(before, now)| *before && !now)
    }
}

/// Returns whether the process ignores SIGHUP, which is signal 1, by its status in /proc.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bit_is_sighup() {
        assert!(ignores_hangup("Name:\tphilote\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n"));
        assert!(!ignores_hangup(""));
    }
}
