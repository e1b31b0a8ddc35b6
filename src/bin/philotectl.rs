//! The program `philotectl`, for administrators.

use std::process::ExitCode;

fn main() -> ExitCode {
    philote::ctl::main()
}
