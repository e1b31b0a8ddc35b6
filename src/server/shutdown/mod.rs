//! Closing many connections.
//!
//! Read [`drain`] first: it closes all connections when the daemon stops, and spreads closes over time. [`withdrawn`] finds
//! the connections that a reload must close. This folder knows the hub and the sessions' deadlines.

pub(crate) mod drain;
pub(crate) mod withdrawn;
