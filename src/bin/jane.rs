//! The program `jane`, a WebSocket client for the terminal.

use std::process::ExitCode;

fn main() -> ExitCode {
    philote::jane::main()
}
