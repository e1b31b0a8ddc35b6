//! The admin socket and philotectl, as processes and over real sockets, against a fake daemon.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails should say where")]

mod commands;
mod conformance;
mod daemon;
mod fake;
mod instances;
mod lists;
mod manual;
mod observe;
#[allow(unreachable_pub, reason = "shared with the other tests")]
#[path = "../daemon/output.rs"]
mod output;
mod process;
mod socket;
#[path = "../jane/terminal.rs"]
mod terminal;
