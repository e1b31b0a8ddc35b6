//! Closing all connections when the daemon stops, and closes that are spread over time.

pub(crate) mod drain;
