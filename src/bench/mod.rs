//! The load generator of `philotectl bench` and `benches/`, which measures what each delivery costs a server.
//!
//! [`scenarios`] decides which connections are opened and which of them publish. [`load`] publishes and counts
//! messages, and [`churn`] joins and leaves channels. [`swarm`] is the epoll loop that reads and writes the connections, through [`tls`] for wss://, and
//! [`wire`] is what it knows about frames. [`floor`] measures the least that any server can cost, [`local`] measures
//! a server on this machine, and [`report`] prints the figures.

mod churn;
mod error;
mod floor;
mod load;
mod local;
mod options;
mod progress;
mod report;
mod scenarios;
mod swarm;
mod tls;
mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use self::error::BenchError;
use self::local::Process;
pub use self::options::{Options, Scenario};
use self::progress::Progress;
pub use self::report::{Latency, Measured, Row};
use self::scenarios::Runner;
pub use self::tls::Tls;
pub use self::wire::{Dialect, Philote, Seat, TEXT, client_frame};
use crate::token::{Keys, NewMay, NewToken, issue, signing_secret};

/// Descriptors of this process that are not connections.
const SPARE_DESCRIPTORS: usize = 32;
/// How long a token is valid: longer than any run.
pub const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// The rights that the token of a connection needs.
#[derive(Clone, Copy, Debug)]
pub struct Rights<'a> {
    /// Its only channel.
    pub channel: &'a str,
    /// Whether it may read the channel.
    pub reads: bool,
    /// Whether it may write the channel.
    pub writes: bool,
    /// Whether it may join all channels whose names start with that of the channel.
    pub joins: bool,
    /// Its subject.
    pub subject: Option<&'a str>,
}

impl Rights<'_> {
    /// Returns the claim `may` for these rights.
    pub fn may(&self) -> NewMay {
        let read = if self.joins { vec![format!("{}*", self.channel)] } else { Vec::new() };
        NewMay { read, write: Vec::new() }
    }
}

/// The server to load.
#[derive(Clone, Debug)]
pub struct Target<D> {
    /// The protocol that it speaks.
    pub dialect: D,
    /// The address that it listens on.
    pub address: SocketAddr,
    /// How to connect over TLS; `None` without TLS.
    pub tls: Option<Tls>,
    /// Its process id, if it runs on this machine.
    pub pid: Option<u32>,
    /// How many connections it still accepts, if that is known.
    pub free: Option<usize>,
}

/// Runs the chosen scenarios, one after the other.
///
/// # Errors
/// The first failure: a [`BenchError`], or the error of `tokens`.
pub fn run<D: Dialect + Copy, E: From<BenchError>>(
    options: &Options,
    target: &Target<D>,
    tokens: impl FnMut(&Rights<'_>) -> Result<String, E>,
) -> Result<Measured, E> {
    let descriptors = raise_descriptors().saturating_sub(SPARE_DESCRIPTORS);
    let mut runner = Runner {
        options,
        target,
        server: target.pid.and_then(Process::new),
        tokens,
        most: target.free.unwrap_or(usize::MAX).min(descriptors),
        progress: Progress::new(),
        notes: Vec::new(),
    };
    let mut scenarios = Vec::new();
    for &scenario in options.chosen() {
        scenarios.extend(runner.run(scenario)?);
    }
    let notes = std::mem::take(&mut runner.notes);
    let size = options.size as usize;
    Ok(Measured { server: target.address.to_string(), size, scenarios, notes })
}

/// The address of the server of `ws://host:port` or `wss://host:port`, and how to connect over TLS, trusting the
/// authorities in a file, or those of the system.
///
/// # Errors
/// The URL is malformed, its host has no address, or the file contains no authorities.
pub fn locate(url: &str, authorities: Option<&Path>) -> Result<(SocketAddr, Option<Tls>), BenchError> {
    let wrong = || BenchError::Url(url.to_owned());
    let (secure, rest) = match (url.strip_prefix("ws://"), url.strip_prefix("wss://")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        _ => return Err(wrong()),
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let address =
        authority.to_socket_addrs().ok().and_then(|mut addresses| addresses.next()).ok_or_else(wrong)?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']']);
    let tls = secure.then(|| Tls::new(host, authorities)).transpose()?;
    Ok((address, tls))
}

/// The loopback address of a server that listens on these addresses.
///
/// # Errors
/// None of them can be reached over loopback.
pub fn on_loopback(listeners: &[String]) -> Result<SocketAddr, BenchError> {
    let addresses = listeners.iter().filter_map(|listener| listener.parse::<SocketAddr>().ok());
    let over_loopback = addresses.filter_map(|address| match address.ip() {
        IpAddr::V6(ip) if ip == Ipv6Addr::UNSPECIFIED => Some((Ipv4Addr::LOCALHOST, address.port()).into()),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Some((Ipv4Addr::LOCALHOST, address.port()).into()),
        ip => ip.is_loopback().then_some(address),
    });
    over_loopback.min().ok_or_else(|| BenchError::NoListener(listeners.to_vec()))
}

/// The key in the first line of a secret file.
///
/// # Errors
/// The file cannot be read, or its first line is not a secret.
pub fn keys(path: &Path) -> Result<Keys, BenchError> {
    let secret = signing_secret(path).map_err(|error| BenchError::SecretFile(path.into(), error))?;
    Ok(Keys::new([secret.as_bytes()]))
}

/// Signs a token with these rights.
///
/// # Errors
/// The keys cannot sign.
pub fn sign(rights: &Rights<'_>, keys: &Keys) -> Result<String, BenchError> {
    let channel = |wanted: bool| if wanted { vec![rights.channel.to_owned()] } else { Vec::new() };
    let expires = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + TOKEN_LIFE;
    let token = NewToken {
        read: channel(rights.reads),
        write: Some(channel(rights.writes)),
        may: rights.may(),
        subject: rights.subject.map(str::to_owned),
        expires: Some(expires.as_secs()),
        ..NewToken::default()
    };
    issue(&token, keys).map_err(|_| BenchError::CannotSign)
}

/// Raises the limit of open files to its hard limit, and returns it.
fn raise_descriptors() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    (if raised { maximum } else { current }).map_or(usize::MAX, |limit| limit as usize)
}
