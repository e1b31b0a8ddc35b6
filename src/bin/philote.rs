//! The daemon: one call.

fn main() {}
