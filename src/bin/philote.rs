//! The daemon: one call.

/// Gives back what a burst of handshakes needed; glibc keeps it, as holes between the connections that stayed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    philote::daemon::main()
}
