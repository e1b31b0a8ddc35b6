//! Files with secrets that other users of the machine can read.

use std::path::Path;

/// Permission bits that are too open, and the argument of chmod that removes them. An administrator may let a group read
/// a file, such as that of the service. Nobody else needs to read the generated file.
pub(super) const OTHERS: (u32, &str) = (0o007, "o-rwx");
pub(super) const GROUP_AND_OTHERS: (u32, &str) = (0o077, "go-rwx");

/// Returns a warning if other users can read a file with this mode although it holds `what`.
pub(super) fn warning(path: &Path, what: &str, mode: u32, (bits, chmod): (u32, &str)) -> Option<String> {
    let path = path.display();
    let open = mode & bits != 0;
    open.then(|| format!("other users can read or write {path}, which holds {what}: chmod {chmod} {path}"))
}
