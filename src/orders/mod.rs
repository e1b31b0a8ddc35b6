//! Orders to the daemon from administrators, on the admin socket, and from backends, over HTTP.
//!
//! Both front ends parse their input into these types, which the server then carries out. [`selection`] has the filters of
//! connections, [`disconnect`] the order to close some, and [`mod@audit`] the log line that names who gave an order.

mod audit;
mod disconnect;
mod selection;

pub use self::audit::{Actor, audit};
pub use self::disconnect::DisconnectOrder;
pub use self::selection::{Address, IdPrefix};
