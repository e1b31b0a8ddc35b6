//! Philote: a WebSocket publish/subscribe server.
//!
//! # What happens to a connection
//!
//! In reading order, below [`server`]:
//!
//! 1. `accept` takes a connection from a listening socket, bounds those that have shown no token, and speaks TLS.
//! 2. `http` reads its request. It answers those of backends, and upgrades the others to a WebSocket.
//! 3. `admission` decides whether its client is let in: `token/verify.rs` checks the signature and the claims of its token,
//!    `limits` counts connections per address and per subject, `bans` has the banned subjects.
//! 4. `session` is the connection's life: it reads, publishes, writes, and ends.
//! 5. `heartbeat` pings clients, closes connections whose token has expired, and enforces the limits on memory.
//!
//! `rejection` has the HTTP status of each rejected request, such as 429, and its sentence; `server/http/answer.rs` makes the
//! answer. [`close`] has the code and the sentence of each Close; `rejection` has those of clients that are rejected on
//! philote.v1. `places` chooses which waiting connection must make room.
//!
//! # What happens to a message
//!
//! In reading order:
//!
//! 1. [`server`] reads a publisher's socket: `server/session/task.rs`, `frames.rs`, `inbound.rs`.
//! 2. [`message`] parses each message once: the channel's name, and the text of `data` as it came.
//! 3. [`token`] has the claims, which tell whether the publisher may write to the channel.
//! 4. [`hub`] finds the channel's readers and has the delivery encoded once, as a finished [`frame`]. `hub/publish.rs` takes
//!    the channel's lock, which makes the one order in which all readers see its messages. With a history, `hub/history.rs` numbers and keeps
//!    the message; `hub/resume.rs` delivers what a client missed when it returns.
//! 5. The same bytes go into each reader's [`outbox`], or a compressed form that `hub/compression.rs` has made before (`deflate`,
//!    `frame/compressed.rs`), if the reader negotiated that. The outbox judges slow readers and closes their connections.
//! 6. When the messages of one read are queued, the publisher's task writes each of these outboxes with one system call
//!    (`hub/flush.rs`, `outbox/write.rs`, `server/accept/sink.rs`). A reader's own task is woken only if its socket was full.
//!
//! [`feed`] records for backends who reads the channels that they select.
//!
//! In a cluster, [`cluster`] takes the message to the readers on other nodes. Without a history it passes on what step 4 has
//! delivered here. With one, the message goes to the cluster's log first, and step 4 delivers what the log has, on every node.
//!
//! # What happens to the daemon
//!
//! [`daemon`] runs in a straight line from the settings ([`config`]) to the end of the drain. `daemon/reload.rs` decides a
//! reload: it compares, checks, and applies all of it or nothing. `daemon/metrics.rs` defines each metric, and
//! [`metrics`] formats and serves them. [`signals`], [`systemd`] (which tells systemd READY) and [`log`] are the daemon's
//! connections to the system. [`admin`] is the socket on which [`ctl`] (`philotectl`) asks it; `admin/socket.rs` sets
//! the permissions of that socket. Orders of administrators and backends ([`orders`]) are carried out in `server/ops`.
//!
//! When all queues together exceed their limit, `heartbeat` has [`hub`] close the connections with the longest ones
//! ([`hub::Hub::relieve`]). When all histories together do, the oldest messages go ([`hub::Hub::relieve_history`]).
//!
//! [`jane`] is a client for people at a terminal, and [`bench`](mod@bench) the load generator of `philotectl bench` and
//! `benches/`. [`conformance`] tests clients, for `philotectl conformance`. [`completions`] completes the command lines of all three programs. The rest serves several of them:
//! [`root_certificates`], [`timestamp`], [`installation`] (which commands work here), [`terminal`], [`escape`] (characters that
//! people cannot see), [`regular_file`], `unix_socket`, `http` (what all HTTP listeners share) and `sync` (locks). `fuzz`, which no
//! shipped build has, tries all
//! parsers with bytes of strangers.
//!
//! # Which part may use which
//!
//! Binaries > daemon, ctl, jane > bench, conformance, server, admin > cluster > hub > outbox, feed > message, frame, close, token > deflate, timestamp, orders.
//! The hub uses no socket, ctl neither hub nor server, bench only tokens and root certificates, config only what it
//! parses with. `tests/architecture` checks this.

pub mod admin;
pub mod bench;
pub mod close;
pub mod cluster;
pub mod completions;
pub mod config;
pub mod conformance;
pub mod ctl;
pub mod daemon;
mod deflate;
pub mod escape;
pub mod feed;
pub mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod http;
pub mod hub;
pub mod installation;
pub mod jane;
pub mod log;
pub mod message;
pub mod metrics;
pub mod orders;
pub mod outbox;
mod places;
pub mod regular_file;
pub mod root_certificates;
pub mod server;
pub mod signals;
mod sync;
pub mod systemd;
pub mod terminal;
pub mod timestamp;
pub mod token;
mod unix_socket;

#[cfg(test)]
mod testing;
