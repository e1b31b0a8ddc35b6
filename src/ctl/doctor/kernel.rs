//! Compares the limits of the kernel with `max_connections`. "Many connections" in philote(8) explains them.

use super::{Examined, numbers};
use crate::admin::api::{Finding, Findings};

/// Over how many seconds a restart spreads its closes at most; the clients of one second wait in the backlog together.
const RESTART_SECONDS: u64 = 5;
/// The longest backlog that makes sense: Linux counts it in 16 bits in places.
const LONGEST_BACKLOG: u64 = 65_535;

/// Names the file and the command that set a limit of the kernel.
fn sysctl(setting: &str, value: impl std::fmt::Display) -> String {
    format!("put {setting} = {value} into /etc/sysctl.d/philote.conf, then run: sudo sysctl --system")
}

/// After a restart all clients come back within seconds. Those that find the backlog full try again only after a second
/// or more.
pub(super) fn backlog(examined: &Examined, mut findings: Findings) -> Vec<Finding> {
    let wanted = (examined.max_connections / RESTART_SECONDS).min(LONGEST_BACKLOG);
    let [somaxconn] = numbers(&examined.root, "proc/sys/net/core/somaxconn")[..] else {
        return findings.or_ok("unknown");
    };
    if somaxconn < wanted {
        findings.warn(
            format!(
                "net.core.somaxconn is {somaxconn}, too few for the clients that come back at once after a restart \
                 with max_connections = {}",
                examined.max_connections
            ),
            sysctl("net.core.somaxconn", wanted.next_power_of_two().min(LONGEST_BACKLOG)),
        );
    }
    findings.or_ok(format!("net.core.somaxconn is {somaxconn}"))
}

/// Above its limit on the memory of TCP the kernel drops what arrives. A connection needs a page for what it sends.
pub(super) fn tcp_memory(examined: &Examined, mut findings: Findings) -> Vec<Finding> {
    let [_, _, most] = numbers(&examined.root, "proc/sys/net/ipv4/tcp_mem")[..] else {
        return findings.or_ok("unknown");
    };
    let wanted = examined.max_connections;
    if most < wanted {
        findings.warn(
            format!(
                "net.ipv4.tcp_mem allows {most} pages, less than one for each of max_connections = {}",
                examined.max_connections
            ),
            sysctl("net.ipv4.tcp_mem", format!("{wanted} {} {}", wanted * 2, wanted * 4)),
        );
    }
    findings.or_ok(format!("net.ipv4.tcp_mem allows {most} pages"))
}

/// A firewall that tracks connections drops new ones when its table is full.
pub(super) fn conntrack(examined: &Examined, mut findings: Findings) -> Vec<Finding> {
    const SETTING: &str = "net.netfilter.nf_conntrack_max";
    let [most] = numbers(&examined.root, "proc/sys/net/netfilter/nf_conntrack_max")[..] else {
        return findings.or_ok("no firewall tracks connections");
    };
    let tracked = numbers(&examined.root, "proc/sys/net/netfilter/nf_conntrack_count");
    let tracked = tracked.first().copied().unwrap_or(0);
    let wanted = examined.max_connections.saturating_mul(2).max(most.saturating_mul(2));
    if tracked >= most {
        findings.problem(
            format!("the firewall tracks {tracked} of {most} connections and drops new ones"),
            sysctl(SETTING, wanted),
        );
    } else if most <= examined.max_connections {
        findings.warn(
            format!(
                "{SETTING} is {most}, not more than max_connections = {}: the firewall would drop clients",
                examined.max_connections
            ),
            sysctl(SETTING, wanted),
        );
    } else if tracked >= most / 10 * 9 {
        findings
            .warn(format!("the firewall tracks {tracked} of {most} connections"), sysctl(SETTING, wanted));
    }
    findings.or_ok(format!("{tracked} of {most} connections"))
}

/// The limit of the whole system; the daemon checks its own.
pub(super) fn open_files(examined: &Examined, mut findings: Findings) -> Vec<Finding> {
    let [most] = numbers(&examined.root, "proc/sys/fs/file-max")[..] else {
        return findings.or_ok("unknown");
    };
    let open = numbers(&examined.root, "proc/sys/fs/file-nr").first().copied().unwrap_or(0);
    if most < examined.max_connections {
        findings.warn(
            format!("fs.file-max is {most}, less than max_connections = {}", examined.max_connections),
            sysctl("fs.file-max", examined.max_connections.saturating_mul(2)),
        );
    } else if open >= most / 10 * 9 {
        findings.warn(
            format!("{open} of the {most} files are open that the whole system may open"),
            sysctl("fs.file-max", most.saturating_mul(2)),
        );
    }
    findings.or_ok(format!("{open} open in the whole system"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::Verdict::{self, Ok, Problem, Warning};

    /// Runs a check with this limit on a machine with these files below /proc/sys.
    fn verdict(check: super::super::Check, max_connections: u64, files: &[(&str, &str)]) -> Vec<Verdict> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join("proc/sys").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let examined = Examined {
            socket: None,
            version: String::new(),
            max_connections,
            observes_only: false,
            root: root.path().into(),
        };
        let findings = check(&examined, Findings::of("x"));
        let remedies = findings.iter().all(|one| (one.verdict == Ok) == one.remedy.is_none());
        assert!(remedies, "{findings:?}");
        findings.iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn each_limit_of_the_kernel_is_compared_with_max_connections() {
        let backlog_of = |max, text| verdict(backlog, max, &[("net/core/somaxconn", text)]);
        assert_eq!(backlog_of(20_000, "4096\n"), [Ok], "the packaged setting on a default kernel");
        assert_eq!(backlog_of(20_000, "128\n"), [Warning]);
        assert_eq!(backlog_of(1_000_000, "65535\n"), [Ok], "there is no longer one");
        let memory_of = |max, text| verdict(tcp_memory, max, &[("net/ipv4/tcp_mem", text)]);
        assert_eq!(memory_of(20_000, "11355\t15140\t22710\n"), [Ok], "a machine with 1 GiB");
        assert_eq!(memory_of(100_000, "11355\t15140\t22710\n"), [Warning]);
        let files_of =
            |max, text| verdict(open_files, max, &[("fs/file-max", text), ("fs/file-nr", "900\t0\t1000\n")]);
        assert_eq!(files_of(255, "9223372036854775807\n"), [Ok]);
        assert_eq!(files_of(255, "200\n"), [Warning]);
        assert_eq!(files_of(255, "1000\n"), [Warning], "used up by others");
        for check in [backlog, tcp_memory, conntrack, open_files] {
            assert_eq!(verdict(check, 20_000, &[]), [Ok], "the kernel does not tell");
        }
    }

    #[test]
    fn a_full_table_of_the_firewall_is_a_problem_and_a_small_one_a_warning() {
        let of = |max, most, tracked| {
            let files =
                [("net/netfilter/nf_conntrack_max", most), ("net/netfilter/nf_conntrack_count", tracked)];
            verdict(conntrack, max, &files)
        };
        assert_eq!(of(20_000, "65536\n", "1000\n"), [Ok]);
        assert_eq!(of(20_000, "65536\n", "60000\n"), [Warning]);
        assert_eq!(of(20_000, "65536\n", "65536\n"), [Problem]);
        assert_eq!(of(100_000, "65536\n", "1000\n"), [Warning]);
    }
}
