//! Instances: further daemons of one machine, each started by systemd as `philote@NAME.service`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The directory in which systemd creates a directory for each daemon.
const RUN: &str = "/run";
/// The beginning of such a directory's name; the instance's name follows.
const PREFIX: &str = "philote@";
/// The file name of the admin socket in it.
const SOCKET: &str = "admin.sock";
/// The most bytes of a name, so that the path of the socket is not too long for a socket.
pub const LONGEST: usize = 64;
/// The most instances that are listed, more than one administrator reads. Each is asked for its status at once.
pub const MOST: usize = 64;

/// The name of an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance(String);

impl Instance {
    /// Returns the path of its admin socket, which the unit sets.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        Path::new(RUN).join(format!("{PREFIX}{self}")).join(SOCKET)
    }

    /// Returns the instance whose admin socket this is.
    #[must_use]
    pub fn of_socket(path: &Path) -> Option<Instance> {
        let name = path.parent()?.file_name()?.to_str()?.strip_prefix(PREFIX)?;
        let instance: Instance = name.parse().ok()?;
        (instance.socket() == path).then_some(instance)
    }

    /// Returns the instances that run now, sorted by name and at most [`MOST`], and the number of those left out.
    #[must_use]
    pub fn running() -> (Vec<Instance>, usize) {
        Self::running_in(Path::new(RUN))
    }

    fn running_in(run: &Path) -> (Vec<Instance>, usize) {
        let entries = std::fs::read_dir(run).into_iter().flatten().flatten();
        let mut found: Vec<Instance> = entries
            .filter(|entry| entry.path().join(SOCKET).exists())
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix(PREFIX)?.parse().ok())
            .collect();
        found.sort_unstable();
        let left_out = found.len().saturating_sub(MOST);
        found.truncate(MOST);
        (found, left_out)
    }
}

impl FromStr for Instance {
    type Err = String;

    /// Accepts what systemd accepts in the name of a unit.
    fn from_str(text: &str) -> Result<Instance, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || ":-_.\\".contains(c);
        if text.is_empty() || !text.chars().all(fits) {
            return Err("give the NAME of philote@NAME.service: letters, digits and : - _ . \\".into());
        }
        if text.len() > LONGEST {
            return Err(format!("the name of an instance has at most {LONGEST} bytes"));
        }
        Ok(Instance(text.to_owned()))
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the name of the unit whose daemon has its admin socket at this path.
#[must_use]
pub fn unit(socket: &Path) -> String {
    Instance::of_socket(socket).map_or_else(|| "philote".to_owned(), |instance| format!("philote@{instance}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_systemd_accepts() {
        for name in ["chat", "Chat-2_b.c:d", r"my\x2dapp", &"x".repeat(LONGEST)] {
            let instance: Instance = name.parse().unwrap();
            assert_eq!(Instance::of_socket(&instance.socket()), Some(instance), "{name}");
        }
        for name in ["", "a/b", "../philote", "a b", "ä", "a\n", "%i", &"x".repeat(LONGEST + 1)] {
            assert!(name.parse::<Instance>().is_err(), "{name}");
        }
        let longest: Instance = "x".repeat(LONGEST).parse().unwrap();
        assert!(longest.socket().as_os_str().len() <= crate::admin::socket::LONGEST_PATH);
    }

    #[test]
    fn the_unit_is_known_by_the_path_of_its_socket() {
        for (path, name) in [
            ("/run/philote/admin.sock", "philote"),
            ("/run/philote@chat/admin.sock", "philote@chat"),
            ("/run/philote@chat/other.sock", "philote"),
            ("/tmp/philote@chat/admin.sock", "philote"),
            ("admin.sock", "philote"),
        ] {
            assert_eq!(unit(Path::new(path)), name, "{path}");
        }
    }

    #[test]
    fn running_instances_are_sorted_and_bounded() {
        let run = tempfile::tempdir().unwrap();
        let add = |name: &str| {
            let directory = run.path().join(name);
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join(SOCKET), "").unwrap();
        };
        std::fs::create_dir(run.path().join("philote@without-a-socket")).unwrap();
        for name in ["philote", "philote@", "philote@shop", "other@chat", "philote@chat"] {
            add(name);
        }
        let names = |found: &[Instance]| found.iter().map(Instance::to_string).collect::<Vec<_>>();
        let (found, left_out) = Instance::running_in(run.path());
        assert_eq!((names(&found), left_out), (vec!["chat".to_owned(), "shop".to_owned()], 0));
        for number in 0..MOST {
            add(&format!("philote@{number:02}"));
        }
        let (found, left_out) = Instance::running_in(run.path());
        assert_eq!((found.len(), names(&found)[0].as_str(), left_out), (MOST, "00", 2));
        assert_eq!(Instance::running_in(&run.path().join("missing")), (Vec::new(), 0));
    }
}
