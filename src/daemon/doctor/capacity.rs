//! Checks of limits and what is used of them: connections, descriptors, memory, slow readers and the log.

use super::{Examined, LATELY};
use crate::admin::api::{Finding, Findings};
use crate::config::available_memory;
use crate::daemon::descriptors::RAISE_DESCRIPTORS;
use crate::daemon::rates::{NEARLY_FULL, resident_bytes};
use crate::server::SPARE_DESCRIPTORS;

/// Bytes that the daemon and the kernel need for each open connection; philote(8) says so too.
const CONNECTION_BYTES: usize = 7 * 1024;

pub(super) fn connections(examined: &Examined<'_>, mut findings: Findings) -> Vec<Finding> {
    let (live, full) = (examined.live, examined.lately.full);
    let (connected, max) = (examined.server.connected(), live.max_connections);
    let remedy = match live.descriptor_limit {
        None => {
            let set = &examined.max_connections_source;
            format!("raise max_connections ({set}); philotectl connections shows who is connected")
        }
        Some(limit) => format!("raise the limit of {limit} open files ({RAISE_DESCRIPTORS})"),
    };
    let used = format!("{connected} of {max}");
    if connected >= max {
        findings.problem(format!("{used}: FULL, further clients are refused"), remedy);
    } else if full > 0 {
        findings.problem(format!("{used}; clients refused {LATELY} because it was full: {full}"), remedy);
    } else if connected * 100 / max.max(1) >= NEARLY_FULL {
        findings.warn(format!("{used}: nearly full"), remedy);
    }
    findings.or_ok(used)
}

pub(super) fn descriptors(examined: &Examined<'_>, mut findings: Findings) -> Vec<Finding> {
    let live = examined.live;
    let wanted = live.settings.max_connections;
    if let Some(limit) = live.descriptor_limit {
        findings.problem(
            format!(
                "the limit of {limit} open files allows {} connections, but max_connections is {wanted}",
                live.max_connections
            ),
            format!("allow {} or lower max_connections ({RAISE_DESCRIPTORS})", wanted + SPARE_DESCRIPTORS),
        );
    }
    findings.or_ok(format!("enough for max_connections = {wanted}"))
}

/// Compares all that the settings allow with the memory that the process may use: the kernel kills a process that takes
/// more.
pub(super) fn memory(examined: &Examined<'_>, mut findings: Findings) -> Vec<Finding> {
    let settings = &examined.live.settings;
    let available = available_memory();
    let queues = settings.limits.total_queue_bytes;
    let history = if settings.history.is_on() { settings.history.bytes } else { 0 };
    let open = settings.max_connections.saturating_mul(CONNECTION_BYTES);
    let all = queues.saturating_add(history).saturating_add(open);
    let sum = format!(
        "{} for queues, {} for history and {} for max_connections, of {} available",
        mib(queues),
        mib(history),
        mib(open),
        mib(available)
    );
    let remedy =
        "lower [limits] total_queue_bytes, [history] bytes or max_connections, or give it more memory";
    if all > available {
        findings.problem(format!("more is allowed than there is: {sum}"), remedy);
    } else if all > available / 4 * 3 {
        findings.warn(format!("more than three quarters may be used: {sum}"), remedy);
    }
    let refused = examined.server.hub.budget().refused_bytes();
    if refused > queues / 2 {
        findings.warn(
            format!("{} of {} for queues are in use", mib(refused), mib(queues)),
            "see which readers are slow: philotectl connections --sort queued",
        );
    }
    findings.or_ok(format!("{} in use; {sum}", mib(usize::try_from(resident_bytes()).unwrap_or(usize::MAX))))
}

pub(super) fn slow_readers(examined: &Examined<'_>, mut findings: Findings) -> Vec<Finding> {
    let lately = examined.lately;
    if lately.slow_consumers > 0 {
        findings.warn(
            format!("readers closed {LATELY} because they were too slow: {}", lately.slow_consumers),
            "see who: philotectl connections --reason slow_consumer; give them fewer channels, or raise queue_bytes",
        );
    }
    if lately.queue_memory > 0 {
        findings.problem(
            format!("readers closed {LATELY} because total_queue_bytes was used up: {}", lately.queue_memory),
            "see who: philotectl connections --reason queue_memory; raise total_queue_bytes if there is memory",
        );
    }
    findings.or_ok(format!("none closed {LATELY}"))
}

pub(super) fn log(examined: &Examined<'_>, mut findings: Findings) -> Vec<Finding> {
    let dropped = examined.lately.log_dropped;
    if dropped > 0 {
        findings.warn(
            format!("records dropped {LATELY} because the log is too slow: {dropped}"),
            "see that the journal runs and its disk is not full: systemctl status systemd-journald",
        );
    }
    findings.or_ok(format!("nothing dropped {LATELY}"))
}

fn mib(bytes: usize) -> String {
    if bytes >= 10 << 30 { format!("{} GiB", bytes >> 30) } else { format!("{} MiB", bytes >> 20) }
}
