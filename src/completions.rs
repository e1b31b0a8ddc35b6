//! Completions of command lines: a shell's script asks the program itself what may follow.

use clap::{CommandFactory, ValueEnum};
use clap_complete::env::{Bash, CompleteEnv, EnvCompleter, Fish, Shells, Zsh};

/// Names the shell that asks. With words after `--` a program prints what may follow them; without, its [`script`].
const VARIABLE: &str = "PHILOTE_COMPLETE";

/// A shell whose completions can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// `source <(philotectl completions bash)`
    Bash,
    /// `source <(philotectl completions zsh)`
    Zsh,
    /// `philotectl completions fish | source`
    Fish,
}

/// Answers a shell that asks `program`, whose command line is `C`, and ends the process; otherwise does nothing.
pub fn answer_shell<C: CommandFactory>(program: &str) {
    CompleteEnv::with_factory(C::command)
        .var(VARIABLE)
        .bin(program)
        .completer(program)
        .shells(Shells(&[&Bash, &Zsh, &Fish]))
        .complete();
}

/// What a shell has to read, so that it asks `program`.
pub fn script(program: &str, shell: Shell) -> String {
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    // Writing into memory cannot fail.
    let _ = completer.write_registration(VARIABLE, program, program, program, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
