//! The client for people at a terminal: one call.

use std::process::ExitCode;

fn main() -> ExitCode {
    philote::jane::main()
}
