//! The memory that this process may use.

use std::path::{Path, PathBuf};

/// Returns the machine's memory or the smallest limit of this process's control groups, whichever is less, in bytes.
pub fn available() -> usize {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let machine = machine();
    let limit = group_limit(Path::new("/"), &read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    limit.map_or(machine, |limit| limit.min(machine))
}

/// Uses sysinfo(2) because systemd's `ProcSubset=pid` hides /proc/meminfo.
fn machine() -> usize {
    let info = rustix::system::sysinfo();
    usize::try_from(info.totalram.saturating_mul(info.mem_unit.into())).unwrap_or(usize::MAX)
}

/// Returns the smallest limit of the memory control groups of this process, of version 1 and 2; `None` if there is none.
/// The paths of `mountinfo` are below `root`.
fn group_limit(root: &Path, proc_self_cgroup: &str, mountinfo: &str) -> Option<usize> {
    let limits = mountinfo.lines().filter_map(Mount::parse).filter_map(|mount| {
        let group = proc_self_cgroup.lines().find_map(|line| mount.group(line))?;
        let top = root.join(mount.point.trim_start_matches('/'));
        let directory = mount.directory_of(&top, group);
        // The limits of its parents apply to a group too, as far as they are visible.
        let around = directory.ancestors().take_while(|around| around.starts_with(&top));
        around.filter_map(|around| mount.limit_in(around)).min()
    });
    limits.min()
}

/// A mounted hierarchy of control groups, from a line of `/proc/self/mountinfo` (proc(5)).
struct Mount<'a> {
    /// The group that is mounted at `point`; in a container often the container's own.
    root: &'a str,
    point: &'a str,
    version_1: bool,
}

impl<'a> Mount<'a> {
    /// Returns `None` for a mount that is no hierarchy with memory limits.
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let mut filesystem = filesystem.split(' ');
        let (kind, controllers) = (filesystem.next()?, filesystem.nth(1)?);
        let version_1 = match kind {
            "cgroup2" => false,
            "cgroup" if controllers.split(',').any(|controller| controller == "memory") => true,
            _ => return None,
        };
        Some(Mount { root, point, version_1 })
    }

    /// Returns the group of the process if this line of `/proc/self/cgroup` is about this hierarchy (cgroups(7)).
    fn group<'b>(&self, line: &'b str) -> Option<&'b str> {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        let is_it = if self.version_1 {
            controllers.split(',').any(|controller| controller == "memory")
        } else {
            controllers.is_empty()
        };
        is_it.then_some(group)
    }

    /// Returns the directory of the group, or the top of the hierarchy if the group is outside of the mount.
    fn directory_of(&self, top: &Path, group: &str) -> PathBuf {
        let inside = Path::new(group).strip_prefix(self.root).ok();
        let inside = inside.filter(|path| path.components().all(|part| part.as_os_str() != ".."));
        inside.map_or(top.to_owned(), |inside| top.join(inside))
    }

    /// Returns the limit of one group, in bytes.
    fn limit_in(&self, directory: &Path) -> Option<usize> {
        let number = |file| std::fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok();
        if !self.version_1 {
            return number("memory.max").into_iter().chain(number("memory.high")).min();
        }
        // This file also has the limits of parents that are not mounted here.
        let stat = std::fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
        let around =
            stat.lines().find_map(|line| line.strip_prefix("hierarchical_memory_limit ")?.parse().ok());
        number("memory.limit_in_bytes").into_iter().chain(around).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    /// A directory with these files.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_smallest_limit_of_a_group_and_its_parents_counts() {
        let own = "0::/system.slice/philote.service\n";
        let limit = |files: &[(&str, &str)], own| group_limit(tree(files).path(), own, V2);
        assert_eq!(limit(&[], own), None);
        let unlimited = ("sys/fs/cgroup/system.slice/philote.service/memory.max", "max\n");
        let parent = ("sys/fs/cgroup/system.slice/memory.max", "1048576\n");
        assert_eq!(limit(&[unlimited, parent], own), Some(1048576));
        let least = ("sys/fs/cgroup/system.slice/philote.service/memory.max", "65536\n");
        assert_eq!(limit(&[least, parent], own), Some(65536));
        let high = ("sys/fs/cgroup/system.slice/memory.high", "4096\n");
        assert_eq!(
            limit(&[least, parent, high], own),
            Some(4096),
            "above memory.high the kernel slows the process down"
        );
        // In a container with a separate namespace, and on a machine without version 2.
        assert_eq!(limit(&[("sys/fs/cgroup/memory.max", "8192\n"), parent], "0::/\n"), Some(8192));
        assert_eq!(limit(&[parent], "5:memory:/system.slice\n"), None);
    }

    #[test]
    fn the_top_counts_for_a_group_outside_of_the_mount() {
        let files = [("sys/fs/cgroup/memory.max", "4096\n"), ("sys/fs/memory.max", "1\n")];
        // The container's group is mounted as the root and named as on the host, or it was moved.
        for (mounted, own) in [("/docker/abc", "/docker/abc"), ("/docker/abc", "/"), ("/", "/../other")] {
            let mounts = V2.replace(" / /sys", &format!(" {mounted} /sys"));
            let limit = group_limit(tree(&files).path(), &format!("0::{own}\n"), &mounts);
            assert_eq!(limit, Some(4096), "{mounted} {own}");
        }
    }

    #[test]
    fn version_1_limits_count_with_those_of_parents() {
        let mounts = "29 23 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      35 23 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      36 23 0:32 MOUNTED /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n";
        let own = "5:cpu,cpuacct:/elsewhere\n3:memory:/docker/abc\n0::/docker/abc\n";
        let whole = mounts.replace("MOUNTED", "/");
        let limit = |files: &[(&str, &str)], mounts: &str| group_limit(tree(files).path(), own, mounts);
        let none = "9223372036854771712\n";
        let inner = "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes";
        assert_eq!(limit(&[], &whole), None);
        assert_eq!(limit(&[(inner, "65536\n")], &whole), Some(65536));
        let parent = ("sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "4096\n");
        assert_eq!(limit(&[(inner, none), parent], &whole), Some(4096));
        // In a container only its own group is mounted, at the top.
        let bound = mounts.replace("MOUNTED", "/docker/abc");
        let top = "sys/fs/cgroup/memory/memory.limit_in_bytes";
        assert_eq!(limit(&[(top, "65536\n")], &bound), Some(65536));
        let stat = ("sys/fs/cgroup/memory/memory.stat", "cache 1\nhierarchical_memory_limit 4096\nrss 2\n");
        assert_eq!(limit(&[(top, none), stat], &bound), Some(4096));
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available() >= 16 << 20, "{}", available());
    }
}
