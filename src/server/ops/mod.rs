//! What administrators and backends can do to a running server: list, disconnect, ban and publish.
//!
//! Each operation exists once, with its limits and its outcome, for two front ends: the backend API (`http/api`), and the
//! daemon's answers on the admin socket. The front ends parse their input, name the caller in the audit line, and write
//! the outcome in their own form. This folder knows neither of them.
//!
//! [`list`] finds connections and channels, [`disconnect`] closes connections and can ban their subject, [`bans`] limits
//! and lifts bans, and [`publish`] publishes messages. [`everywhere`] has them done on all nodes of a cluster, and [`remote`]
//! carries out what other nodes ask.

pub mod bans;
pub mod disconnect;
pub mod everywhere;
pub mod list;
pub mod publish;
pub mod remote;
