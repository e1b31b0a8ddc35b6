//! Finds the client behind a proxy: `X-Forwarded-For` or `Forwarded` (RFC 7239), believed only from trusted proxies.

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyper::header::{FORWARDED, HeaderName};

use super::lines::{Lines, visible};
use crate::config::TrustedProxies;
use crate::sync::lock;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The peer's address on a Unix socket, which has no IP address.
pub(crate) const UNIX_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// Returns the client's address: the last one in the chain that belongs to no trusted proxy. The port is 0 if the
/// proxy does not name it.
///
/// Each proxy appends the address that it saw, so everything left of the first untrusted address is that client's own
/// claim. `Forwarded` counts only without `X-Forwarded-For`, because a proxy writes one of them and passes the other
/// on unchanged.
pub(crate) fn client<L: Lines + ?Sized>(peer: SocketAddr, lines: &L, trusted: &TrustedProxies) -> SocketAddr {
    if !believes(peer, trusted) {
        return peer;
    }
    let mut client = peer;
    let of_x = lines.has(&X_FORWARDED_FOR);
    let name = if of_x { &X_FORWARDED_FOR } else { &FORWARDED };
    for line in lines.all(name).rev() {
        // An unreadable value ends the chain, because nobody knows who wrote the values before it.
        let Some(line) = visible(line) else { return client };
        for entry in line.rsplit(',') {
            let address = if of_x { address(entry.trim()) } else { address_of_for(entry) };
            let Some(address) = address else { return client };
            client = address;
            if !trusted.trusts(client.ip()) {
                return client;
            }
        }
    }
    client
}

/// Returns whether a request names a client that is not believed. Its sender may be a proxy that is missing in the
/// settings.
pub(crate) fn is_unbelieved<L: Lines + ?Sized>(
    peer: SocketAddr,
    lines: &L,
    trusted: &TrustedProxies,
) -> bool {
    (lines.has(&X_FORWARDED_FOR) || lines.has(&FORWARDED)) && !believes(peer, trusted)
}

fn believes(peer: SocketAddr, trusted: &TrustedProxies) -> bool {
    if peer == UNIX_PEER { trusted.unix } else { trusted.trusts(peer.ip()) }
}

/// The requests that name a client that is not believed.
#[derive(Debug, Default)]
pub struct Unbelieved {
    requests: AtomicU64,
    last: Mutex<Option<SocketAddr>>,
}

impl Unbelieved {
    /// Counts a request from this peer.
    pub(super) fn note(&self, peer: SocketAddr) {
        self.requests.fetch_add(1, Relaxed);
        *lock(&self.last) = Some(peer);
    }

    /// Returns how many there were since the start.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Returns the sender of the last one, as `[limits] trusted_proxies` would name it.
    pub fn last(&self) -> Option<String> {
        let peer = (*lock(&self.last))?;
        Some(if peer == UNIX_PEER { "unix".to_owned() } else { peer.ip().to_canonical().to_string() })
    }
}

/// Parses `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::7` or `[2001:db8::7]:4711`.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = match bare.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, 0),
        Err(_) => text.parse().ok()?,
    };
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Returns the `for` of one element of `Forwarded`; `None` for `unknown` and names that the proxy made up.
fn address_of_for(element: &str) -> Option<SocketAddr> {
    let value = element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value)
    })?;
    address(value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderMap;

    use super::*;
    use crate::config::{Environment, Overrides, load};

    fn client_of(peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        let set = vec!["limits.trusted_proxies=10.0.0.0/8,2001:db8::/32,unix".to_owned()];
        let environment = Environment::new([("SECRET", "a secret of more than thirty-two characters")]);
        let settings = load(&Overrides { set, ..Overrides::default() }, &environment).unwrap().settings;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        client(peer.parse().unwrap(), &map, &settings.limits.trusted_proxies).to_string()
    }

    #[test]
    fn fault_73_only_trusted_proxies_are_believed() {
        let x = "x-forwarded-for";
        let spoofed = [(x, "198.51.100.1"), ("forwarded", "for=198.51.100.1")];
        assert_eq!(client_of("203.0.113.9:5", &spoofed), "203.0.113.9:5", "from anyone else: ignored");
        for (peer, headers, expected) in [
            ("10.0.0.1:5", vec![(x, "198.51.100.7")], "198.51.100.7:0"),
            ("10.0.0.1:5", vec![(x, "1.2.3.4, 198.51.100.7")], "198.51.100.7:0"),
            ("10.0.0.1:5", vec![(x, "1.2.3.4"), (x, "198.51.100.7, 10.1.1.1")], "198.51.100.7:0"),
            ("10.0.0.1:5", vec![(x, "10.2.2.2, 10.1.1.1")], "10.2.2.2:0"),
            ("10.0.0.1:5", vec![(x, "1.2.3.4, rubbish, 10.1.1.1")], "10.1.1.1:0"),
            ("10.0.0.1:5", vec![(x, "")], "10.0.0.1:5"),
            ("10.0.0.1:5", vec![], "10.0.0.1:5"),
            ("10.0.0.1:5", vec![(x, "198.51.100.7:81")], "198.51.100.7:81"),
            ("[2001:db8::1]:5", vec![(x, "[2001:dead::7]:81")], "[2001:dead::7]:81"),
            ("0.0.0.0:0", vec![(x, "::ffff:198.51.100.7")], "198.51.100.7:0"),
            (
                "10.0.0.1:5",
                vec![("forwarded", "for=1.2.3.4, for=\"[2001:dead::7]:81\";proto=https")],
                "[2001:dead::7]:81",
            ),
            ("10.0.0.1:5", vec![("forwarded", "for=1.2.3.4, for=_hidden")], "10.0.0.1:5"),
            ("10.0.0.1:5", vec![("forwarded", "for=1.2.3.4"), (x, "198.51.100.7")], "198.51.100.7:0"),
        ] {
            assert_eq!(client_of(peer, &headers), expected, "{peer} {headers:?}");
        }
    }
}
