//! The daemon as a process: what its clients and its administrator see.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod output;
mod support;
#[path = "../jane/terminal.rs"]
mod terminal;

mod admin;
mod api;
mod bodies;
mod command_line;
mod connections;
mod dev;
mod frames;
mod half_closed;
mod heartbeat;
mod history;
mod http;
mod jane;
mod keys;
mod life;
mod limits;
mod listeners;
mod load;
mod messages;
mod pipelining;
mod resumes;
mod stranger_listeners;
mod strangers;
mod systemd;
mod tls;
mod tokens;
mod top;
mod usage;
mod v1;
mod visible;
