//! The limit of file descriptors. Each connection needs one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Settings;
use crate::server::SPARE_DESCRIPTORS;

/// Raises the soft limit to the hard limit, and returns the limit.
///
/// The soft limit is low for programs that use select(2), which this one does not.
pub(super) fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let limit = if raised { maximum } else { current };
    limit.map_or(usize::MAX, |limit| limit as usize)
}

/// How an administrator raises the limit.
pub(super) const RAISE_DESCRIPTORS: &str = "LimitNOFILE= in the unit, ulimit -n in a shell";

/// Logs a warning if the limit allows fewer connections than `max_connections`.
pub(super) fn warn(settings: &Settings, limit: usize) {
    let left = limit.saturating_sub(SPARE_DESCRIPTORS);
    if settings.max_connections > left {
        tracing::warn!(
            "max_connections is {}, but the limit of {limit} open files leaves {left} connections: raise the limit \
             ({RAISE_DESCRIPTORS})",
            settings.max_connections
        );
    }
}
