//! The descriptor limit: each connection costs one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Settings;
use crate::server::SPARE_DESCRIPTORS;

/// Raises the soft limit to the hard one and returns what is in force.
///
/// The soft limit is low for the sake of programs that use select(2); this one does not.
pub(super) fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let limit = if raised { maximum } else { current };
    limit.map_or(usize::MAX, |limit| limit as usize)
}

/// How an administrator raises it.
pub(super) const RAISE_DESCRIPTORS: &str = "LimitNOFILE= in the unit, ulimit -n in a shell";

/// Says if the limit leaves less than `max_connections`.
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
