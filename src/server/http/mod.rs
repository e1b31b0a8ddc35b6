//! HTTP on the clients' port: the upgrade to a WebSocket, the backend API, and the page of `--dev`.
//!
//! In reading order: [`direct`] answers the one request of most clients, [`connection`] runs the requests of all other
//! connections, [`upgrade`] checks those that ask for a WebSocket, by their header [`lines`], the tokens from
//! [`credentials`] and the page's origin from [`origin`], [`begin`] begins their sessions, and [`api`] and [`dev`] answer
//! the rest.
//! [`answer`] makes answers, also those to rejected requests, for which a browser gets the page of [`visit`], [`forwarded`] finds the client behind a proxy, and
//! [`watched`] tells when bytes came and when an answer was sent. This folder knows the session that an upgrade becomes;
//! only [`api`] knows messages.

pub(super) mod answer;
pub(crate) mod api;
mod begin;
pub(crate) mod connection;
pub(crate) mod credentials;
mod dev;
pub(crate) mod direct;
pub(crate) mod forwarded;
pub(super) mod lines;
pub(super) mod origin;
mod upgrade;
pub(super) mod visit;
mod watched;
