//! The daemon as a process: what its clients and its administrators see.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod events;
mod everywhere;
mod output;
mod support;
#[path = "../jane/terminal.rs"]
mod terminal;
mod wire;

mod admin;
mod api;
mod bodies;
mod body;
mod command_line;
mod compression;
mod connections;
mod dev;
mod dev_faults;
mod doctor;
mod explain;
mod first_start;
mod frames;
mod half_closed;
mod heartbeat;
mod history;
mod http;
mod injected;
mod jane;
mod keys;
mod life;
mod limits;
mod listeners;
mod load;
mod messages;
mod observe;
mod pending;
mod pending_listeners;
mod pipelining;
mod posts;
mod presence;
mod restarts;
mod resumes;
mod rooms;
mod rooms_model;
mod sse;
mod systemd;
mod tls;
mod tokens;
mod top;
mod upgrades;
mod usage;
mod v1;
mod visible;
mod visits;
