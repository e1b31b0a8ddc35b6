//! The terminal that a daemon for development was started on: where it is gone, SIGHUP means the end.

use std::fs::File;
use std::io::IsTerminal;

/// What there was of a terminal at the start.
#[derive(Debug)]
pub(super) struct StartedOn(Terminal);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terminal {
    streams: [bool; 3],
    /// Of the session, whatever the streams are.
    controlling: bool,
}

impl Terminal {
    fn now() -> Terminal {
        let streams = [
            std::io::stdin().is_terminal(),
            std::io::stdout().is_terminal(),
            std::io::stderr().is_terminal(),
        ];
        // It has no other use: opening it fails where the session has no terminal, or none any more.
        Terminal { streams, controlling: File::open("/dev/tty").is_ok() }
    }
}

impl StartedOn {
    /// To be asked before SIGHUP is handled: one that was started to ignore it, as by nohup, has no terminal to lose.
    pub(super) fn terminal() -> StartedOn {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if ignores_hangup(&status) {
            return StartedOn(Terminal { streams: [false; 3], controlling: false });
        }
        StartedOn(Terminal::now())
    }

    /// Whether the terminal was closed.
    pub(super) fn is_gone(&self) -> bool {
        let (before, now) = (self.0, Terminal::now());
        before.controlling && !now.controlling
            || before.streams.iter().zip(now.streams).any(|(before, now)| *before && !now)
    }
}

/// Whether the process's status says that SIGHUP, the first signal, is ignored.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bit_is_sighup() {
        assert!(ignores_hangup("Name:\tphilote\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n"));
        assert!(!ignores_hangup(""));
    }
}
