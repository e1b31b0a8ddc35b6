//! Replacing a file of the daemon's own so that it is whole at every instant, and removing what a killed daemon left of it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What the name of a file ends in until it is whole and gets its own.
const UNFINISHED: &str = "new";
/// Hexadecimal digits before that, chosen at random.
const DIGITS: usize = 16;

/// Replaces a file of the daemon's own by one of mode 0600, whole and on the disk.
///
/// # Errors
/// What the system says; the old file then stays as it was.
pub fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    publish(path, text, |new, path| fs::rename(new, path))
}

/// Writes a file of mode 0600 beside `path`, whole and on the disk, before `place` gives it its name: at no
/// instant does `path` hold half a secret.
pub(super) fn publish(
    path: &Path,
    text: &str,
    place: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let (mut file, new) = create(path)?;
    let written =
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| place(&new, path));
    // After a rename it is gone already.
    let _ = fs::remove_file(&new);
    written?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Makes an unfinished file, locked for as long as it is open: [`remove_unfinished`] leaves it alone.
fn create(path: &Path) -> io::Result<(File, PathBuf)> {
    loop {
        let mut number = [0; DIGITS / 2];
        getrandom::fill(&mut number).map_err(io::Error::from)?;
        let new = path.with_extension(format!("{:0DIGITS$x}.{UNFINISHED}", u64::from_ne_bytes(number)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.lock()?;
        // Another daemon that starts may have removed it before it was locked.
        let made = file.metadata()?;
        if fs::symlink_metadata(&new)
            .is_ok_and(|there| (there.dev(), there.ino()) == (made.dev(), made.ino()))
        {
            return Ok((file, new));
        }
    }
}

/// Removes what daemons that were killed in the middle of [`replace_file`] have left of the file `path`, and returns a
/// sentence on each. What a live daemon is writing stays.
pub fn remove_unfinished(path: &Path) -> Vec<String> {
    let Some(directory) = path.parent() else { return Vec::new() };
    // Without the directory there is nothing in it.
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut told = Vec::new();
    for entry in entries.flatten() {
        let left = entry.path();
        if !is_unfinished(&left, path) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let removed = OpenOptions::new().write(true).open(&left).and_then(|file| match file.try_lock() {
            Ok(()) => fs::remove_file(&left).map(|()| true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        });
        let left = left.display();
        match removed {
            Ok(true) => {
                told.push(format!("removed {left}, which a daemon left that was killed while it wrote"))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                told.push(format!(
                    "can't remove {left}, which a killed daemon left: {error}; remove it by hand"
                ));
            }
            Ok(false) | Err(_) => {}
        }
    }
    told
}

/// Whether this is a name that [`create`] gives for `path`.
fn is_unfinished(left: &Path, path: &Path) -> bool {
    let number = left.file_stem().map(Path::new).and_then(Path::extension).and_then(OsStr::to_str);
    number.is_some_and(|number| {
        let hexadecimal = |digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        number.len() == DIGITS
            && number.bytes().all(hexadecimal)
            && left == path.with_extension(format!("{number}.{UNFINISHED}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(directory).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_daemon_left_is_removed_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        let others = [
            "notes.0123456789abcdef.new",
            "refused.0123456789abcdef.new",
            "secret",
            "secret.0123456789ABCDEF.new",
            "secret.0123456789abcde.new",
            "secret.0123456789abcdef",
            "secret.0123456789abcdef.new.old",
            "secret.0123456789abcdef0.new",
            "secret.new",
        ];
        for name in others {
            fs::write(path(name), "mine").unwrap();
        }
        fs::create_dir(path("secret.00000000000000dd.new")).unwrap();
        std::os::unix::fs::symlink(path("secret"), path("secret.00000000000000ee.new")).unwrap();
        for name in ["secret.0123456789abcdef.new", "secret.00000000000000ff.new"] {
            fs::write(path(name), "half a secr").unwrap();
        }
        let (being_written, live) = create(&path("secret")).unwrap();

        let told = remove_unfinished(&path("secret"));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|line| line.starts_with("removed ")), "{told:?}");
        let mut expected: Vec<String> = others.map(String::from).to_vec();
        let live_name = live.file_name().unwrap().to_str().unwrap().to_owned();
        expected.extend([
            "secret.00000000000000dd.new".into(),
            "secret.00000000000000ee.new".into(),
            live_name,
        ]);
        expected.sort();
        assert_eq!(names(scratch.path()), expected);

        // Its writer was killed.
        drop(being_written);
        assert_eq!(remove_unfinished(&path("secret")).len(), 1);
        assert_eq!(remove_unfinished(&path("refused.json")).len(), 1);
        assert!(!live.exists() && !path("refused.0123456789abcdef.new").exists());
        assert!(remove_unfinished(&path("no/such/secret")).is_empty());
    }
}
