//! The daemon as a process: what its clients and its administrator see.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;
#[path = "../jane/terminal.rs"]
mod terminal;

mod admin;
mod command_line;
mod connections;
mod frames;
mod http;
mod jane;
mod life;
mod listeners;
mod load;
mod messages;
mod systemd;
mod tls;
mod tokens;
mod v1;
