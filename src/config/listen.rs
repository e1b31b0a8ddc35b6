//! The addresses that the daemon binds.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::error::Situation;
use super::kinds::{Kind, Number, not_understood, quoted_list};
use super::raw::Raw;

/// The port of the original, which its clients expect.
pub const DEFAULT_PORT: u16 = 6380;

/// A listener costs a descriptor and a place in every poll; more addresses than this are a mistake.
const MOST_ADDRESSES: usize = 64;
/// `sun_path` of unix(7) has 108 bytes, with the zero at its end.
const LONGEST_SOCKET_PATH: usize = 107;

const NO_UNIX: &str =
    "this version of Philote has no Unix sockets for clients yet: write an IP address with a port";
const NO_TABLES: &str =
    "this version of Philote has no settings for each listener yet: write the addresses as plain strings";

/// The TCP addresses to bind: at least one, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `[::]` alone, as the default has it: every address, IPv6 and IPv4, at this port.
    Everywhere(u16),
    /// These addresses.
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

    /// What to bind in place of [`Listen::addresses`] where the machine has no IPv6: `0.0.0.0` for every
    /// address; `None` for chosen ones, whose absence is an error.
    pub fn without_ipv6(&self) -> Option<SocketAddr> {
        match self {
            Listen::Everywhere(port) => Some(SocketAddr::from(([0, 0, 0, 0], *port))),
            Listen::Addresses(_) => None,
        }
    }
}

/// The addresses of a list.
pub(super) fn read(raw: &Raw) -> Result<Listen, Situation> {
    const EXPECTED: &str = "a list of addresses such as [\"0.0.0.0:6380\"] or [\"[::]:6380\"]";
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for item in raw.list(EXPECTED)? {
        let text = match &item {
            Raw::Other("a table") => return Err(Situation::NotYet(NO_TABLES)),
            item => item.text(EXPECTED)?,
        };
        if text.starts_with("unix:") {
            return Err(Situation::NotYet(NO_UNIX));
        }
        let address = text.parse().map_err(|_| {
            not_understood("an IP address with a port such as \"0.0.0.0:6380\" or \"[::]:6380\"", text)
        })?;
        if addresses.contains(&address) {
            return Err(Situation::Repeated { found: text.to_owned() });
        }
        addresses.push(address);
    }
    match addresses.as_slice() {
        [SocketAddr::V6(address)] if address.ip().is_unspecified() => Ok(Listen::Everywhere(address.port())),
        chosen if (1..=MOST_ADDRESSES).contains(&chosen.len()) => Ok(Listen::Addresses(addresses)),
        _ => {
            let (minimum, maximum) = ("1".into(), format!("{MOST_ADDRESSES} addresses"));
            Err(Situation::OutOfRange { minimum, maximum, found: addresses.len().to_string() })
        }
    }
}

/// Gives the one address this port.
pub(super) fn set_port(listen: &mut Listen, raw: &Raw) -> Result<(), Situation> {
    let number = Number(0..=usize::from(u16::MAX)).read(raw)?;
    let port = u16::try_from(number).unwrap_or(u16::MAX);
    match listen {
        Listen::Everywhere(everywhere) => *everywhere = port,
        Listen::Addresses(addresses) => match addresses.as_mut_slice() {
            [address] => address.set_port(port),
            _ => return Err(Situation::PortOfSeveral),
        },
    }
    Ok(())
}

/// The addresses as a TOML list.
pub(super) fn show(listen: &Listen) -> String {
    quoted_list(listen.addresses())
}

/// A path that a Unix socket can have.
pub(super) fn socket_path(path: Option<PathBuf>) -> Result<Option<PathBuf>, Situation> {
    let length = path.as_ref().map_or(1, |path| path.as_os_str().len());
    if length <= LONGEST_SOCKET_PATH {
        Ok(path)
    } else {
        let (minimum, maximum) = ("1".into(), format!("{LONGEST_SOCKET_PATH} bytes long"));
        Err(Situation::OutOfRange { minimum, maximum, found: length.to_string() })
    }
}
