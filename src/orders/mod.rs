//! Orders to the daemon from administrators, on the admin socket, and from backends, over HTTP.
//!
//! Both front ends parse their input into these types, which the server then carries out. [`selection`] has the filters of
//! connections, [`disconnect`] the order to close some, [`mod@audit`] the log line that names who gave an order,
//! and [`coverage`] which nodes of a cluster an answer is from.

mod audit;
mod coverage;
mod disconnect;
mod selection;

pub use self::audit::{Actor, audit};
pub use self::coverage::{Coverage, FailedNode};
pub use self::disconnect::DisconnectOrder;
pub use self::selection::{Address, IdPrefix};
