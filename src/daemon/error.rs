//! Why the daemon cannot run.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::admin::socket::BindError;
use crate::config::{Address, ConfigError, EXIT_CONFIG};
use crate::log::LogError;
use crate::server::BanFileError;
use crate::signals::SignalError;
use crate::systemd::SystemdError;

/// Why the daemon cannot run. `Display` is the error message for the administrator.
#[derive(Debug)]
pub(super) enum StartError {
    Config(ConfigError),
    Signals(SignalError),
    Log(LogError),
    Systemd(SystemdError),
    Bind { address: Address, source: io::Error },
    DevSocket(SocketAddr),
    Metrics { address: SocketAddr, source: io::Error },
    Admin(BindError),
    Refused(BanFileError),
    Cluster(String),
    Runtime(io::Error),
}

impl StartError {
    /// Returns 78 for an invalid setting, which a restart cannot repair, and 1 for everything else.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            StartError::Config(error) => error.exit_code(),
            StartError::Cluster(_) => EXIT_CONFIG,
            _ => 1,
        }
    }
}

/// Returns whether binding `[::]` failed because the system has no IPv6.
pub(super) fn means_no_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| codes.iter().any(|errno| errno.raw_os_error() == code))
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Config(error) => error.fmt(f),
            StartError::Signals(error) => error.fmt(f),
            StartError::Log(error) => error.fmt(f),
            StartError::Systemd(error) => error.fmt(f),
            StartError::Admin(error) => error.fmt(f),
            StartError::Refused(error) => error.fmt(f),
            StartError::Cluster(reason) => write!(f, "cluster: {reason}"),
            StartError::Bind { address: address @ Address::Unix(_), source } => {
                write!(f, "listen: cannot listen on {address}: {}", unix_reason(source))
            }
            StartError::Bind { address, source } if source.kind() == io::ErrorKind::AddrInUse => write!(
                f,
                "listen: {address} is in use: another program listens there; stop it, or choose another port, \
                 for example PORT=6381"
            ),
            StartError::Bind { address, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "listen: no permission to bind {address}: ports below 1024 need the capability CAP_NET_BIND_SERVICE"
                )
            }
            StartError::DevSocket(address) => {
                write!(f, "--dev: the socket passed by systemd, {address}, is reachable from other machines")
            }
            StartError::Metrics { address, source } => {
                write!(f, "metrics.listen: cannot listen on {address}: {source}")
            }
            StartError::Bind { address, source } => write!(f, "listen: cannot listen on {address}: {source}"),
            StartError::Runtime(error) => {
                write!(f, "the system refused a resource that the daemon needs: {error}")
            }
        }
    }
}

/// Returns why a Unix socket cannot be made, and what to do.
fn unix_reason(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "it is in use: another program listens there; stop it, or choose another path".to_owned()
        }
        io::ErrorKind::AlreadyExists => {
            "the path is a file of another kind; remove it, or choose another path".to_owned()
        }
        io::ErrorKind::NotFound => {
            "its directory does not exist; create it, or choose another path".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "no permission to create it; let this user write to its directory, or choose another path"
                .to_owned()
        }
        _ => source.to_string(),
    }
}

macro_rules! from {
    ($($variant:ident: $error:ty),*) => {
        $(impl From<$error> for StartError {
            fn from(error: $error) -> Self {
                StartError::$variant(error)
            }
        })*
    };
}

from!(
    Config: ConfigError,
    Signals: SignalError,
    Log: LogError,
    Systemd: SystemdError,
    Admin: BindError,
    Refused: BanFileError
);
