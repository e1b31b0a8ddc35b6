//! The wire format: a client's message parsed once, a delivery encoded once.

mod delivery;
mod encode;
mod name;
mod parse;
mod reply;
mod skipped;

pub use self::delivery::{Batch, Delivery};
pub use self::name::{ChannelName, ChannelNameError};
pub use self::parse::{BadMessage, Publish};
pub use self::reply::ErrorReply;

#[cfg(test)]
mod tests;
