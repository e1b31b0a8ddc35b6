//! From a listening socket to a stream that HTTP is spoken on.
//!
//! In reading order: [`listener`] binds sockets, [`accept_loop`] accepts and hands connections to HTTP, [`pending`] bounds
//! those that have shown no token, [`proxy_protocol`] reads which client a proxy speaks for, [`tls`] encrypts. A
//! connection is a [`stream`] while HTTP is spoken. Nothing here knows channels or messages.

pub mod accept_loop;
pub mod listener;
pub(crate) mod pending;
pub(crate) mod proxy_protocol;
pub(crate) mod stream;
pub(crate) mod tls;
