//! The wire format. A client's message is parsed once, and a delivery is encoded once for all readers.

mod delivered;
mod delivery;
mod encode;
mod id;
mod ignored_value;
mod name;
mod names;
mod number;
mod parse;
mod pattern;
mod plain;
mod presence;
mod publish;
mod reply;

pub(crate) use self::delivered::delivered;
pub use self::delivery::{Batch, Delivery};
pub use self::id::MessageId;
pub use self::name::{ChannelName, ChannelNameError};
pub use self::names::ChannelNames;
pub(crate) use self::number::number;
pub use self::parse::{
    ApiMessage, Auth, BadMessage, FromClient, Join, MAX_EXCLUDED, MAX_KEY_BYTES, Presence, Since,
    connection_id,
};
pub use self::pattern::{ChannelPattern, ChannelPatterns};
pub use self::presence::{PresenceChange, PresenceReply, Present};
pub use self::publish::{MAX_ACK_BYTES, Publish};
pub use self::reply::{
    AccessReply, Denial, ErrorReply, JoinedReply, Rates, ReaderCount, ack_reply, encode_left, published_reply,
};

#[cfg(test)]
mod tests;
