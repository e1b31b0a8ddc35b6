//! The daemon: one call.

fn main() -> std::process::ExitCode {
    philote::daemon::main()
}
