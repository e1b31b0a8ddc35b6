//! From a listening socket to a stream that HTTP is spoken on.
//!
//! In reading order: [`listener`] accepts, [`pending`] bounds the connections that have shown no token, [`proxy_protocol`]
//! reads what a proxy says of its client, [`tls`] encrypts, and [`stream`] is what all of them hand on. Nothing here
//! knows channels or messages.

pub mod listener;
pub(crate) mod pending;
mod proxy_protocol;
pub(crate) mod stream;
pub(crate) mod tls;
