//! Closing many connections: all of them when the daemon stops, and some by an administrator's or a backend's order.
//!
//! Read [`drain`] first: it also spreads closes over time, which [`disconnect`] uses.

pub(crate) mod disconnect;
pub(crate) mod drain;
