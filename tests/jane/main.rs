//! jane as a process and in a pseudo-terminal, against a server that does what each test tells it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails should say where")]

#[path = "../ctl/fake.rs"]
#[allow(dead_code, reason = "of the daemon only the tokens are needed")]
mod fake;
#[allow(unreachable_pub, reason = "shared with the other tests")]
#[path = "../daemon/output.rs"]
mod output;
mod process;
mod refusals;
mod server;
mod talk;
mod terminal;
