//! Why the daemon can't run.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::admin::socket::BindError;
use crate::config::{Address, ConfigError};
use crate::log::LogError;
use crate::server::BanFileError;
use crate::signals::SignalError;
use crate::systemd::SystemdError;

/// Why the daemon can't run. `Display` is the sentence for its administrator.
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
    Runtime(io::Error),
}

impl StartError {
    /// 78 for a wrong setting, which no restart mends; 1 for all else.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            StartError::Config(error) => error.exit_code(),
            _ => 1,
        }
    }
}

/// Whether binding `[::]` failed because the system has no IPv6.
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
            StartError::Bind { address, source } if source.kind() == io::ErrorKind::AddrInUse => write!(
                f,
                "listen: {address} is in use already: another daemon runs there; stop it, or choose another port, \
                 for example PORT=6381"
            ),
            StartError::Bind { address, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "listen: {address} may not be bound: ports under 1024 need the capability CAP_NET_BIND_SERVICE"
                )
            }
            StartError::DevSocket(address) => {
                write!(f, "--dev: the socket passed by systemd, {address}, is reachable from other machines")
            }
            StartError::Metrics { address, source } => {
                write!(f, "metrics.listen: can't listen on {address}: {source}")
            }
            StartError::Bind { address, source } => write!(f, "listen: can't listen on {address}: {source}"),
            StartError::Runtime(error) => write!(f, "the system refuses what the daemon needs: {error}"),
        }
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
