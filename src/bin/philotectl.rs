//! The administrator's program: one call.

use std::process::ExitCode;

fn main() -> ExitCode {
    philote::ctl::main()
}
