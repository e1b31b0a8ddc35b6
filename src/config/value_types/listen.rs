//! The listeners: their addresses, and the protocol that each of them speaks.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::numbers::Number;
use super::raw::Raw;
use super::scalars::Flag;
use super::{ProblemKind, ValueType, check_count, invalid, quoted};

/// The default port; clients of the original expect it.
pub const DEFAULT_PORT: u16 = 6380;

/// A list that is longer is a mistake.
const MAX_ADDRESSES: usize = 64;
/// `sun_path` of unix(7) has 108 bytes, including the terminating zero.
const LONGEST_SOCKET_PATH: usize = 107;
/// A listener's socket is first bound as `PATH.new`, then renamed.
const LONGEST_LISTENER_PATH: usize = LONGEST_SOCKET_PATH - 4;

/// The prefix of a Unix socket's address.
const UNIX: &str = "unix:";

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket with this absolute path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// One listener. `philotectl status` shows its `Display`: the address and the options that are not the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its address.
    pub address: Address,
    /// Whether it speaks TLS. If the setting does not say, a TCP listener does when `[tls]` is set.
    pub tls: bool,
    /// Whether each connection begins with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Whether it serves `/api`.
    pub api: bool,
}

impl Listener {
    /// Returns the listener for a plain string in `listen`.
    pub fn plain(address: Address) -> Listener {
        Listener { address, tls: false, proxy_protocol: false, api: true }
    }

    /// Returns whether this listener describes a socket that systemd has bound at `address`. TCP is compared by port
    /// alone because a unit file may write `[::]` where this setting has `0.0.0.0` or a single address.
    fn describes(&self, address: &Address) -> bool {
        match (&self.address, address) {
            (Address::Tcp(own), Address::Tcp(other)) => own.port() == other.port(),
            (own, other) => own == other,
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        for (is, text) in [(self.tls, " (TLS)"), (self.proxy_protocol, " (PROXY)"), (!self.api, " (no API)")]
        {
            if is {
                f.write_str(text)?;
            }
        }
        Ok(())
    }
}

/// The listeners: at least one, and no address twice.
#[derive(Clone, Debug)]
pub struct Listen {
    listeners: Vec<Listener>,
    /// Whether the setting of each listener says if it speaks TLS.
    tls_is_explicit: Vec<bool>,
}

/// Only the result counts, not how the setting expressed it.
impl PartialEq for Listen {
    fn eq(&self, other: &Self) -> bool {
        self.listeners == other.listeners
    }
}

impl Default for Listen {
    fn default() -> Self {
        Listen::tcp(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), DEFAULT_PORT))
    }
}

impl Listen {
    /// Returns one listener, at this address.
    pub(in crate::config) fn tcp(address: SocketAddr) -> Listen {
        Listen { listeners: vec![Listener::plain(Address::Tcp(address))], tls_is_explicit: vec![false] }
    }

    /// Returns the listeners, in the order of the setting.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Returns the TCP addresses.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let tcp = |listener: &Listener| match &listener.address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        };
        self.listeners.iter().filter_map(tcp).collect()
    }

    /// Returns the address to bind on a machine without IPv6: `0.0.0.0` in place of `[::]`. Returns `None` for other
    /// addresses, because a specific address that cannot be bound is an error.
    pub fn without_ipv6(&self) -> Option<SocketAddr> {
        match self.addresses().as_slice() {
            [SocketAddr::V6(address)] if address.ip().is_unspecified() => {
                Some(SocketAddr::from(([0, 0, 0, 0], address.port())))
            }
            _ => None,
        }
    }

    /// Returns the listener for a socket that systemd has bound at `address`; `None` if no listener describes it.
    pub fn for_passed_socket(&self, address: &Address) -> Option<Listener> {
        let meant = self.listeners.iter().find(|listener| listener.describes(address));
        meant.map(|listener| Listener { address: address.clone(), ..listener.clone() })
    }

    /// Turns on TLS for the TCP listeners whose setting does not say whether they speak it.
    pub(in crate::config) fn default_to_tls(&mut self) {
        for (listener, explicit) in self.listeners.iter_mut().zip(&self.tls_is_explicit) {
            listener.tls |= !explicit && matches!(listener.address, Address::Tcp(_));
        }
    }
}

/// Reads the listeners from a list.
pub(in crate::config) fn read_listen(raw: &Raw) -> Result<Listen, ProblemKind> {
    const EXPECTED: &str = "a list of addresses such as [\"0.0.0.0:6380\"] or [\"[::]:6380\"]";
    let mut listen = Listen { listeners: Vec::new(), tls_is_explicit: Vec::new() };
    for item in raw.list(EXPECTED)? {
        let (listener, explicit) = match &item {
            Raw::Table(entries) => table(entries)?,
            item => (Listener::plain(address(item.text(EXPECTED)?)?), false),
        };
        if listen.listeners.iter().any(|other| other.address == listener.address) {
            return Err(ProblemKind::Repeated { found: listener.address.to_string() });
        }
        listen.listeners.push(listener);
        listen.tls_is_explicit.push(explicit);
    }
    check_count(listen.listeners.len(), 1..=MAX_ADDRESSES, "addresses").map(|()| listen)
}

/// Reads a listener from a table. Also returns whether the table has the key `tls`.
fn table(entries: &[(String, Raw)]) -> Result<(Listener, bool), ProblemKind> {
    const EXPECTED: &str =
        "a table such as { address = \"[::]:443\", tls = true, proxy_protocol = false, api = true }";
    let find = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    if let Some((unknown, _)) =
        entries.iter().find(|(key, _)| !["address", "tls", "proxy_protocol", "api"].contains(&key.as_str()))
    {
        return Err(invalid(EXPECTED, unknown));
    }
    let Some(at) = find("address") else { return Err(invalid(EXPECTED, "one without an address")) };
    let flag = |name, default| find(name).map_or(Ok(default), |raw| Flag.read(raw));
    let listener = Listener {
        address: address(at.text("an address in quotes")?)?,
        tls: flag("tls", false)?,
        proxy_protocol: flag("proxy_protocol", false)?,
        api: flag("api", true)?,
    };
    if listener.tls && matches!(listener.address, Address::Unix(_)) {
        return Err(invalid("without TLS on a Unix socket", &listener.address.to_string()));
    }
    Ok((listener, find("tls").is_some()))
}

fn address(text: &str) -> Result<Address, ProblemKind> {
    let Some(path) = text.strip_prefix(UNIX) else {
        return text.parse().map(Address::Tcp).map_err(|_| {
            invalid(
                "an IP address with a port such as \"0.0.0.0:6380\" or \"[::]:6380\", or \"unix:/path\"",
                text,
            )
        });
    };
    if !Path::new(path).is_absolute() {
        return Err(invalid("\"unix:\" and an absolute path", text));
    }
    check_count(path.len(), 1..=LONGEST_LISTENER_PATH, "bytes long")?;
    Ok(Address::Unix(path.into()))
}

/// Sets the port of the only TCP address.
pub(in crate::config) fn set_port(listen: &mut Listen, raw: &Raw) -> Result<(), ProblemKind> {
    let number = Number(0..=usize::from(u16::MAX)).read(raw)?;
    let port = u16::try_from(number).unwrap_or(u16::MAX);
    let mut tcp = listen.listeners.iter_mut().filter_map(|listener| match &mut listener.address {
        Address::Tcp(address) => Some(address),
        Address::Unix(_) => None,
    });
    match (tcp.next(), tcp.next()) {
        (Some(address), None) => {
            address.set_port(port);
            Ok(())
        }
        (None, _) => Err(ProblemKind::PortOfNone),
        _ => Err(ProblemKind::PortOfSeveral),
    }
}

/// Returns the listeners as a TOML array. A listener that a plain string would not describe becomes a table.
pub(in crate::config) fn show_listen(listen: &Listen, with_tls: bool) -> String {
    let items: Vec<String> = listen
        .listeners
        .iter()
        .map(|listener| {
            let address = quoted(&listener.address);
            let as_string = match listener.address {
                Address::Tcp(_) => !with_tls,
                Address::Unix(_) => true,
            };
            if *listener == Listener::plain(listener.address.clone()) && as_string {
                return address;
            }
            let mut text = format!("{{ address = {address}, tls = {}", listener.tls);
            if listener.proxy_protocol {
                text += ", proxy_protocol = true";
            }
            if !listener.api {
                text += ", api = false";
            }
            text + " }"
        })
        .collect();
    format!("[{}]", items.join(", "))
}

/// Checks that a path is short enough for a Unix socket.
pub(in crate::config) fn socket_path(path: Option<PathBuf>) -> Result<Option<PathBuf>, ProblemKind> {
    let length = path.as_ref().map_or(1, |path| path.as_os_str().len());
    check_count(length, 1..=LONGEST_SOCKET_PATH, "bytes long").map(|()| path)
}
