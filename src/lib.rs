//! Philote: a WebSocket publish/subscribe server.
//!
//! # What happens to a message
//!
//! In reading order:
//!
//! 1. [`server`] reads a publisher's socket; tungstenite turns its bytes into messages.
//! 2. [`message`] parses each one once: a channel's name, and the text of `data` as it stands.
//! 3. [`access_key`] says whether the publisher's token lets it write there.
//! 4. [`hub`] finds the channel's readers, has the delivery encoded once as a finished [`frame`], and puts the same
//!    bytes into each reader's [`outbox`].
//! 5. Whatever one read brought is queued first; then the task that published writes each touched outbox with one
//!    system call. A reader's own task is woken only where its socket was full.
//!
//! [`close`] lists why a connection ends. `places` bounds connections that wait for their client.
//!
//! # What happens to the daemon
//!
//! [`daemon`] is a straight line from settings ([`config`]) to the end of the drain. [`signals`], [`systemd`] and
//! [`log`] are its connection to the system, [`metrics`] tells Prometheus; [`admin`] is the socket by which [`ctl`] (`philotectl`) asks it.
//! [`jane`] is a client for people at a terminal; [`trust`] says whom both programs believe behind TLS. [`bench`](mod@bench) is the load
//! generator of `philotectl bench` and of `benches/`. [`completions`]
//! answer the shells of those who type for any of the three. [`moment`] writes times, [`escape`] what a
//! person can't see, [`regular_file`] reads what settings and options name, and `http` is what the HTTP listeners
//! share.
//!
//! # Which part may know which
//!
//! Binaries > daemon, ctl, jane > bench, server, admin > hub > outbox > message, frame, close, access_key > moment. The hub
//! knows no socket, ctl knows neither hub nor server, bench only tokens and TLS trust, config knows nothing but what it parses. A test keeps it so.

pub mod access_key;
pub mod admin;
pub mod bench;
pub mod close;
pub mod completions;
pub mod config;
pub mod ctl;
pub mod daemon;
pub mod escape;
pub mod frame;
mod http;
pub mod hub;
pub mod jane;
pub mod log;
pub mod message;
pub mod metrics;
pub mod moment;
pub mod outbox;
mod places;
pub mod regular_file;
pub mod server;
pub mod signals;
mod sync;
pub mod systemd;
pub mod terminal;
pub mod trust;

#[cfg(test)]
mod testing;
