//! Networks, and the proxies that are trusted to report a client's address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::raw::Raw;
use super::{ProblemKind, ValueType, check_count, invalid, quoted_list};

/// Every handshake searches the list; one that is longer is a mistake.
const MAX_NETWORKS: usize = 1024;

/// In the list: every client of a Unix socket.
const UNIX: &str = "unix";

/// An IP network: an address and the number of leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Returns whether an address is in the network. An IPv4-mapped IPv6 address counts as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        let ((own, own_size), (other, other_size)) = (number(self.address), number(address.to_canonical()));
        let ignored = 128 - u32::from(self.bits);
        own_size == other_size && (own ^ other).checked_shr(ignored).unwrap_or(0) == 0
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Network, ()> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let size = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(size), |bits| bits.parse().map_err(|_| ()))?;
        // An IPv4 network in IPv6 notation would never match.
        if bits > size || address.to_canonical() != address {
            return Err(());
        }
        Ok(Network { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// The proxies whose `X-Forwarded-For` and `Forwarded` headers are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<Network>,
    /// Whether clients of a Unix socket are trusted too.
    pub unix: bool,
}

impl TrustedProxies {
    /// Returns whether the headers of this address are trusted.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }
}

/// A list of networks.
pub(in crate::config) struct Proxies;

impl ValueType for Proxies {
    type Value = TrustedProxies;

    fn read(&self, raw: &Raw) -> Result<TrustedProxies, ProblemKind> {
        const EXPECTED: &str =
            "a list of networks such as [\"127.0.0.1\", \"10.0.0.0/8\", \"2001:db8::/32\", \"unix\"]";
        let mut trusted = TrustedProxies::default();
        for item in raw.list(EXPECTED)? {
            match item.text(EXPECTED)? {
                UNIX => trusted.unix = true,
                text => {
                    let network = text.parse().map_err(|()| {
                        invalid("an address, a network such as \"10.0.0.0/8\", or \"unix\"", text)
                    })?;
                    trusted.networks.push(network);
                }
            }
        }
        check_count(trusted.networks.len(), 0..=MAX_NETWORKS, "networks").map(|()| trusted)
    }

    fn show(&self, value: &TrustedProxies) -> Option<String> {
        let networks = value.networks.iter().map(Network::to_string);
        Some(quoted_list(networks.chain(value.unix.then(|| UNIX.to_owned()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_its_leading_bits() {
        let cases = [
            ("10.0.0.0/8", "10.255.1.2", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "203.0.113.9", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::1", "::1", true),
        ];
        for (network, address, within) in cases {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), within, "{network} {address}");
        }
        for wrong in
            ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/x", "example.org", "::ffff:10.0.0.0/104"]
        {
            assert_eq!(wrong.parse::<Network>(), Err(()), "{wrong}");
        }
    }
}
