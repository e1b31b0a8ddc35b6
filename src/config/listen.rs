//! The addresses that the daemon binds.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The port of the original, which its clients expect.
pub const DEFAULT_PORT: u16 = 6380;

/// The TCP addresses to bind: at least one, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// No address was set: every address, IPv6 and IPv4, at this port.
    Everywhere(u16),
    /// The addresses that were set.
    Addresses(Vec<SocketAddr>),
}

impl Default for Listen {
    fn default() -> Self {
        Listen::Everywhere(DEFAULT_PORT)
    }
}

impl Listen {
    /// The addresses to bind, in the order written.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Listen::Everywhere(port) => vec![SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), *port)],
            Listen::Addresses(addresses) => addresses.clone(),
        }
    }

    /// What to bind in place of [`Listen::addresses`] where the machine has no IPv6: `0.0.0.0` for the default;
    /// `None` for addresses that somebody chose.
    pub fn without_ipv6(&self) -> Option<SocketAddr> {
        match self {
            Listen::Everywhere(port) => Some(SocketAddr::from(([0, 0, 0, 0], *port))),
            Listen::Addresses(_) => None,
        }
    }
}
