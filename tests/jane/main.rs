//! jane as a process and in a pseudo-terminal, against a server that each test scripts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails should say where")]

#[path = "../ctl/daemon.rs"]
#[allow(dead_code, reason = "only its start and its requests are needed")]
mod daemon;
#[path = "../ctl/fake.rs"]
#[allow(dead_code, reason = "only the daemon's tokens are needed")]
mod fake;
#[allow(dead_code, unreachable_pub, reason = "shared with the other tests")]
#[path = "../daemon/output.rs"]
mod output;
mod process;
mod refusals;
mod server;
mod talk;
mod terminal;
