//! What the HTTP listeners need beside hyper: answers that are never lost or piled up, bodies in one piece, and an end
//! that reaches the client.

mod body;
mod framing;
mod linger;
mod wire;

pub(crate) use self::body::{BodyError, read_body};
pub(crate) use self::framing::check_framing;
pub(crate) use self::linger::{linger, write, write_within};
pub(crate) use self::wire::{Turn, Wire};
