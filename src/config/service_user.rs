//! The service's user, and the files that it may read.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The account that the packages create for the service.
pub(super) const SERVICE_USER: &str = "philote";

/// A user and its groups.
pub(super) struct User {
    pub(super) id: u32,
    pub(super) groups: Vec<u32>,
}

impl User {
    /// Returns the service's user, if root runs this process and the user exists.
    pub(super) fn of_service() -> Option<User> {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let user = || User::named(SERVICE_USER, &read("/etc/passwd"), &read("/etc/group"));
        rustix::process::geteuid().is_root().then(user).flatten()
    }

    fn named(name: &str, passwd: &str, group: &str) -> Option<User> {
        let line =
            passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|line| line[0] == name)?;
        let mut groups = vec![line.get(3)?.parse().ok()?];
        for line in group.lines().map(|line| line.split(':').collect::<Vec<_>>()) {
            if line.get(3).is_some_and(|members| members.split(',').any(|member| member == name)) {
                groups.extend(line.get(2).and_then(|id| id.parse::<u32>().ok()));
            }
        }
        Some(User { id: line.get(2)?.parse().ok()?, groups })
    }

    /// Returns whether the user may read this file, or enter this directory. A path that cannot be inspected counts as
    /// usable, because reading it reports the error.
    pub(super) fn may_use(&self, path: &Path, is_file: bool) -> bool {
        match std::fs::metadata(path) {
            Ok(metadata) => {
                self.may(metadata.uid(), metadata.gid(), metadata.mode(), if is_file { 0o4 } else { 0o1 })
            }
            Err(_) => true,
        }
    }

    /// Checks the first class of users that applies, as the kernel does, even if a later one would allow more.
    fn may(&self, owner: u32, group: u32, mode: u32, bit: u32) -> bool {
        let shift = if self.id == owner {
            6
        } else if self.groups.contains(&group) {
            3
        } else {
            0
        };
        (mode >> shift) & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nphilote:x:990:980::/:/usr/sbin/nologin\n";
    const GROUP: &str = "philote:x:980:\nkeys:x:70:someone,philote\nother:x:71:philote2\n";

    #[test]
    fn the_first_class_that_applies_decides() {
        let user = User::named("philote", PASSWD, GROUP).unwrap();
        assert_eq!((user.id, user.groups.as_slice()), (990, [980, 70].as_slice()));
        assert!(User::named("nobody", PASSWD, GROUP).is_none());
        let cases = [
            (990, 0, 0o400, true),
            (990, 0, 0o044, false),
            (0, 980, 0o640, true),
            (0, 70, 0o640, true),
            (0, 70, 0o604, false),
            (0, 71, 0o640, false),
            (0, 71, 0o644, true),
        ];
        for (owner, group, mode, readable) in cases {
            assert_eq!(user.may(owner, group, mode, 0o4), readable, "{owner} {group} {mode:o}");
        }
    }
}
