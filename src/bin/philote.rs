//! The program `philote`, the daemon.

fn main() -> std::process::ExitCode {
    philote::daemon::main()
}
