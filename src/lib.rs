//! Philote: a WebSocket publish/subscribe server.

pub mod access_key;
pub mod close;
pub mod config;
pub mod frame;
pub mod hub;
pub mod jane;
pub mod log;
pub mod message;
pub mod outbox;
pub mod server;
pub mod signals;
mod sync;
pub mod systemd;

#[cfg(test)]
mod testing;
