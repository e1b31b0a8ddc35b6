//! Philote: a WebSocket publish/subscribe server.

pub mod admin;
pub mod config;
pub mod ctl;
pub mod jane;
pub mod log;
pub mod signals;
pub mod systemd;
pub mod terminal;
