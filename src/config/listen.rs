//! The listeners: where clients reach the daemon, and how each of these places is spoken to.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::error::Situation;
use super::kinds::{Flag, Kind, Number, not_understood, quoted};
use super::raw::Raw;

/// The port of the original, which its clients expect.
pub const DEFAULT_PORT: u16 = 6380;

/// A listener costs a descriptor and a place in every poll; more addresses than this are a mistake.
const MOST_ADDRESSES: usize = 64;
/// `sun_path` of unix(7) has 108 bytes, with the zero at its end. The socket is made under a name that is longer by
/// `.new` before it gets its own.
const LONGEST_SOCKET_PATH: usize = 107;
const LONGEST_LISTENER_PATH: usize = LONGEST_SOCKET_PATH - 4;

/// What a Unix socket's address begins with.
const UNIX: &str = "unix:";

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// TCP.
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

/// One listener. `Display` is what `philotectl status` shows: the address, and what is special about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it is.
    pub address: Address,
    /// Whether it speaks TLS: as written, else for TCP whether `[tls]` is set.
    pub tls: bool,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Whether it answers below `/api`.
    pub api: bool,
}

impl Listener {
    /// A listener as a plain string in `listen` makes it.
    pub fn plain(address: Address) -> Listener {
        Listener { address, tls: false, proxy_protocol: false, api: true }
    }

    /// Whether a socket that somebody else has bound at `address` is the one meant here: TCP by its port alone,
    /// because `[::]`, `0.0.0.0` and one address of many are the same place to who wrote the two files.
    fn is_meant_by(&self, address: &Address) -> bool {
        match (&self.address, address) {
            (Address::Tcp(own), Address::Tcp(other)) => own.port() == other.port(),
            (own, other) => own == other,
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        for (is, word) in [(self.tls, " (TLS)"), (self.proxy_protocol, " (PROXY)"), (!self.api, " (no API)")]
        {
            if is {
                f.write_str(word)?;
            }
        }
        Ok(())
    }
}

/// The listeners: at least one, none twice.
#[derive(Clone, Debug)]
pub struct Listen {
    listeners: Vec<Listener>,
    /// Which of them said themselves whether they speak TLS.
    chosen: Vec<bool>,
}

/// How they came to be what they are makes no difference.
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
    /// This address alone.
    pub(super) fn tcp(address: SocketAddr) -> Listen {
        Listen { listeners: vec![Listener::plain(Address::Tcp(address))], chosen: vec![false] }
    }

    /// The listeners, in the order written.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The TCP addresses to bind.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let tcp = |listener: &Listener| match &listener.address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        };
        self.listeners.iter().filter_map(tcp).collect()
    }

    /// What to bind in place of the one TCP address where the machine has no IPv6: `0.0.0.0` for every address;
    /// `None` for chosen ones, whose absence is an error.
    pub fn without_ipv6(&self) -> Option<SocketAddr> {
        match self.addresses().as_slice() {
            [SocketAddr::V6(address)] if address.ip().is_unspecified() => {
                Some(SocketAddr::from(([0, 0, 0, 0], address.port())))
            }
            _ => None,
        }
    }

    /// How to speak on a socket that systemd has bound at `address`; `None` where no listener stands for it.
    pub fn of_passed(&self, address: &Address) -> Option<Listener> {
        let meant = self.listeners.iter().find(|listener| listener.is_meant_by(address));
        meant.map(|listener| Listener { address: address.clone(), ..listener.clone() })
    }

    /// Gives TLS to the TCP listeners that did not say whether they speak it.
    pub(super) fn default_to_tls(&mut self) {
        for (listener, chosen) in self.listeners.iter_mut().zip(&self.chosen) {
            listener.tls |= !chosen && matches!(listener.address, Address::Tcp(_));
        }
    }
}

/// The listeners of a list.
pub(super) fn read(raw: &Raw) -> Result<Listen, Situation> {
    const EXPECTED: &str = "a list of addresses such as [\"0.0.0.0:6380\"] or [\"[::]:6380\"]";
    let mut listen = Listen { listeners: Vec::new(), chosen: Vec::new() };
    for item in raw.list(EXPECTED)? {
        let (listener, chosen) = match &item {
            Raw::Table(entries) => table(entries)?,
            item => (Listener::plain(address(item.text(EXPECTED)?)?), false),
        };
        if listen.listeners.iter().any(|other| other.address == listener.address) {
            return Err(Situation::Repeated { found: listener.address.to_string() });
        }
        listen.listeners.push(listener);
        listen.chosen.push(chosen);
    }
    if (1..=MOST_ADDRESSES).contains(&listen.listeners.len()) {
        return Ok(listen);
    }
    let (minimum, maximum) = ("1".into(), format!("{MOST_ADDRESSES} addresses"));
    Err(Situation::OutOfRange { minimum, maximum, found: listen.listeners.len().to_string() })
}

/// A listener of several keys, and whether it says if it speaks TLS.
fn table(entries: &[(String, Raw)]) -> Result<(Listener, bool), Situation> {
    const EXPECTED: &str =
        "a table such as { address = \"[::]:443\", tls = true, proxy_protocol = false, api = true }";
    let find = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    if let Some((unknown, _)) =
        entries.iter().find(|(key, _)| !["address", "tls", "proxy_protocol", "api"].contains(&key.as_str()))
    {
        return Err(not_understood(EXPECTED, unknown));
    }
    let Some(at) = find("address") else { return Err(not_understood(EXPECTED, "one without an address")) };
    let flag = |name, default| find(name).map_or(Ok(default), |raw| Flag.read(raw));
    let listener = Listener {
        address: address(at.text("an address in quotes")?)?,
        tls: flag("tls", false)?,
        proxy_protocol: flag("proxy_protocol", false)?,
        api: flag("api", true)?,
    };
    if listener.tls && matches!(listener.address, Address::Unix(_)) {
        return Err(not_understood("without TLS on a Unix socket", &listener.address.to_string()));
    }
    Ok((listener, find("tls").is_some()))
}

fn address(text: &str) -> Result<Address, Situation> {
    let Some(path) = text.strip_prefix(UNIX) else {
        return text.parse().map(Address::Tcp).map_err(|_| {
            not_understood(
                "an IP address with a port such as \"0.0.0.0:6380\" or \"[::]:6380\", or \"unix:/path\"",
                text,
            )
        });
    };
    if !Path::new(path).is_absolute() {
        return Err(not_understood("\"unix:\" and an absolute path", text));
    }
    check_length(path.len(), LONGEST_LISTENER_PATH)?;
    Ok(Address::Unix(path.into()))
}

/// Gives the one TCP address this port.
pub(super) fn set_port(listen: &mut Listen, raw: &Raw) -> Result<(), Situation> {
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
        (None, _) => Err(Situation::PortOfNone),
        _ => Err(Situation::PortOfSeveral),
    }
}

/// The listeners as a TOML list; each says whether it speaks TLS where a string would not say it.
pub(super) fn show(listen: &Listen, with_tls: bool) -> String {
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

/// A path that a Unix socket can have.
pub(super) fn socket_path(path: Option<PathBuf>) -> Result<Option<PathBuf>, Situation> {
    let length = path.as_ref().map_or(1, |path| path.as_os_str().len());
    check_length(length, LONGEST_SOCKET_PATH).map(|()| path)
}

fn check_length(length: usize, longest: usize) -> Result<(), Situation> {
    if length <= longest {
        return Ok(());
    }
    let (minimum, maximum) = ("1".into(), format!("{longest} bytes long"));
    Err(Situation::OutOfRange { minimum, maximum, found: length.to_string() })
}
