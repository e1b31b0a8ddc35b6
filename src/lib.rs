//! Philote: a WebSocket publish/subscribe server.

pub mod config;
pub mod jane;
pub mod log;
pub mod signals;
pub mod systemd;

#[cfg(test)]
mod testing;
