//! Writes files atomically, and removes the unfinished files of a daemon that was killed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The extension of an unfinished file.
const UNFINISHED: &str = "new";
/// Random hexadecimal digits before the extension.
const DIGITS: usize = 16;

/// Replaces a file atomically by one of mode 0600, and waits until it is on the disk.
///
/// # Errors
/// The file cannot be written. The old file then stays.
pub fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    write(path, text, |new, path| fs::rename(new, path))
}

/// Creates a file of mode 0600 atomically, and waits until it is on the disk.
///
/// # Errors
/// The file exists ([`io::ErrorKind::AlreadyExists`]), or cannot be written.
pub(super) fn write_new(path: &Path, text: &str) -> io::Result<()> {
    write(path, text, |new, path| fs::hard_link(new, path))
}

/// Writes an unfinished file beside `path` and syncs it before `rename` gives it its name, so that `path` never holds
/// half a secret.
fn write(path: &Path, text: &str, rename: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let (mut file, new) = create(path)?;
    let written =
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| rename(&new, path));
    // Fails after a rename, which removed the name already.
    let _ = fs::remove_file(&new);
    written?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Creates an unfinished file. It is locked while it is open, so that [`remove_unfinished`] does not remove it.
fn create(path: &Path) -> io::Result<(File, PathBuf)> {
    loop {
        let mut number = [0; DIGITS / 2];
        getrandom::fill(&mut number).map_err(io::Error::from)?;
        let new = path.with_extension(format!("{:0DIGITS$x}.{UNFINISHED}", u64::from_ne_bytes(number)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.lock()?;
        // Another daemon may have removed the file at its start, before it was locked here.
        let made = file.metadata()?;
        if fs::symlink_metadata(&new)
            .is_ok_and(|there| (there.dev(), there.ino()) == (made.dev(), made.ino()))
        {
            return Ok((file, new));
        }
    }
}

/// Removes the unfinished files that daemons left beside `path` when they were killed, and returns a log message for each.
/// It does not remove files that a running daemon is writing.
pub fn remove_unfinished(path: &Path) -> Vec<String> {
    let Some(directory) = path.parent() else { return Vec::new() };
    // There is nothing to remove without the directory.
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut messages = Vec::new();
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
                messages.push(format!("removed {left}, an unfinished file of a daemon that was killed"))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                messages.push(format!(
                    "cannot remove {left}, an unfinished file of a daemon that was killed: {error}; remove it by hand"
                ));
            }
            Ok(false) | Err(_) => {}
        }
    }
    messages
}

/// Returns whether [`create`] makes such a name for `path`.
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
    fn only_unfinished_files_of_killed_daemons_are_removed() {
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

        let messages = remove_unfinished(&path("secret"));
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert!(messages.iter().all(|line| line.starts_with("removed ")), "{messages:?}");
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
