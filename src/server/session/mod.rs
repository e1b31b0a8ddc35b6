//! One connection's life after the handshake.
//!
//! In reading order: [`task`] reads, publishes and writes, and keeps a [`state`] only while it needs one, [`frames`] turns bytes into messages ([`whole`] most of them; [`boundary`] follows the
//! others), and [`inbound`] does what each message asks for. On philote.v1 [`first_frame`] comes before the task. [`guard`] ties the connection to the
//! hub, and [`cleanup`] takes it out when it has ended. A session knows the hub and the stream, and no HTTP; only
//! [`first_frame`] also knows the places of connections without a token.

mod boundary;
pub(crate) mod cleanup;
pub(crate) mod first_frame;
mod frames;
pub(crate) mod guard;
mod inbound;
mod rooms;
mod state;
pub(crate) mod task;
mod whole;
