//! Values that select connections: the start of an id, and an address.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// The start of a connection's id, or the whole id, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdPrefix(String);

impl IdPrefix {
    /// Whether `id` starts with this prefix.
    #[must_use]
    pub fn matches(&self, id: &Uuid) -> bool {
        id.hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]).starts_with(&self.0)
    }

    /// Returns the id if this is a whole id.
    #[must_use]
    pub fn whole(&self) -> Option<Uuid> {
        (self.0.len() == Hyphenated::LENGTH).then(|| self.0.parse().ok()).flatten()
    }
}

impl FromStr for IdPrefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.to_ascii_lowercase();
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        let fits = (1..=Hyphenated::LENGTH).contains(&text.len());
        if digits && fits { Ok(Self(text)) } else { Err("give a connection's id, or the start of one") }
    }
}

impl From<Uuid> for IdPrefix {
    fn from(id: Uuid) -> Self {
        Self(id.hyphenated().to_string())
    }
}

impl TryFrom<String> for IdPrefix {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<IdPrefix> for String {
    fn from(prefix: IdPrefix) -> Self {
        prefix.0
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A client's address. With a port it selects one connection, without a port all connections of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// The IP address of the host.
    pub ip: IpAddr,
    /// The port; `None` matches any port.
    pub port: Option<u16>,
}

impl Address {
    /// Whether this filter matches the address of a connection.
    #[must_use]
    pub fn matches(&self, address: SocketAddr) -> bool {
        self.ip == address.ip() && self.port.is_none_or(|port| port == address.port())
    }
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A client of a Unix socket has this address, which is shown so.
        if text == "unix" {
            return Ok(Self { ip: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), port: None });
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self { ip: ip.to_canonical(), port: None });
        }
        let whole: SocketAddr =
            text.parse().map_err(|_| "give an address such as 192.0.2.7, 192.0.2.7:51234 or 2001:db8::7")?;
        Ok(Self { ip: whole.ip().to_canonical(), port: Some(whole.port()) })
    }
}

impl TryFrom<String> for Address {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_be_abbreviated() {
        let id: Uuid = "5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a".parse().unwrap();
        let prefix = |text: &str| text.parse::<IdPrefix>().unwrap();
        assert!(prefix("5F0c6b0e-6").matches(&id) && !prefix("5f0d").matches(&id));
        assert_eq!((prefix(&id.to_string()).whole(), prefix("5f0c6b0e").whole()), (Some(id), None));
        for bad in ["", "chat", "5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a0"] {
            assert!(bad.parse::<IdPrefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_selects_a_host_or_one_connection() {
        let address = |text: &str| text.parse::<Address>().unwrap();
        let peer: SocketAddr = "192.0.2.7:51234".parse().unwrap();
        for text in ["192.0.2.7", "192.0.2.7:51234", "::ffff:192.0.2.7", "[::ffff:192.0.2.7]:51234"] {
            assert!(address(text).matches(peer), "{text}");
        }
        for text in ["192.0.2.8", "192.0.2.7:51235", "2001:db8::7"] {
            assert!(!address(text).matches(peer), "{text}");
        }
        assert!(address("unix").matches("0.0.0.0:0".parse().unwrap()) && !address("unix").matches(peer));
        assert!("localhost".parse::<Address>().is_err());
    }
}
