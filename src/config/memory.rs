//! How much memory this process may use.

use std::path::Path;

/// Bytes: the least of the machine's memory and of what the control groups around this process allow.
pub(super) fn allowed() -> usize {
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = machine();
    group_limit(Path::new("/sys/fs/cgroup"), &group).map_or(machine, |limit| limit.min(machine))
}

/// sysinfo(2) and not /proc/meminfo, which systemd's `ProcSubset=pid` hides.
fn machine() -> usize {
    let info = rustix::system::sysinfo();
    usize::try_from(info.totalram.saturating_mul(info.mem_unit.into())).unwrap_or(usize::MAX)
}

/// The least `memory.max` from the group named in `/proc/self/cgroup` up to the root; `None` without control
/// groups of version 2, or without a limit.
fn group_limit(root: &Path, proc_self_cgroup: &str) -> Option<usize> {
    let group = proc_self_cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    root.join(group)
        .ancestors()
        .take_while(|directory| directory.starts_with(root))
        .filter_map(|directory| {
            std::fs::read_to_string(directory.join("memory.max")).ok()?.trim().parse().ok()
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_all_groups_around_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("system.slice/philote.service");
        std::fs::create_dir_all(&inner).unwrap();
        let own = "0::/system.slice/philote.service\n";
        assert_eq!(group_limit(root.path(), own), None);

        std::fs::write(inner.join("memory.max"), "max\n").unwrap();
        std::fs::write(root.path().join("system.slice/memory.max"), "1048576\n").unwrap();
        assert_eq!(group_limit(root.path(), own), Some(1048576));

        std::fs::write(inner.join("memory.max"), "65536\n").unwrap();
        assert_eq!(group_limit(root.path(), own), Some(65536));
        // In a container with a namespace of its own, and on a machine with version 1 only.
        assert_eq!(group_limit(root.path(), "0::/\n"), None);
        assert_eq!(group_limit(root.path(), "5:memory:/system.slice\n"), None);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(allowed() >= 16 << 20, "{}", allowed());
    }
}
