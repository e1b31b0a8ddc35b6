//! What the HTTP listeners need in addition to hyper: no answer is lost, at most one waits for a client, a body is read
//! into one piece, and the end of a connection reaches the client.

mod body;
mod framing;
mod linger;
mod wire;

pub(crate) use self::body::{BodyError, read_body};
pub(crate) use self::framing::check_framing;
pub(crate) use self::linger::{linger, write, write_within};
pub(crate) use self::wire::{Turn, Wire};
