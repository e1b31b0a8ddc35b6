//! Reads whole files that settings and options name. Only regular files of a bounded size are accepted, so reading never
//! blocks.
//!
//! Opening a named pipe waits for its writer, and opening a device may have an effect. A symbolic link to a regular file is
//! accepted, because Kubernetes mounts secrets that way.

use std::fmt;
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// The content of a file.
#[derive(Debug)]
pub struct Content {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// Why a file cannot be read. A message puts the path before the `Display` text.
#[derive(Debug)]
pub enum FileError {
    /// The error of the system.
    System(io::Error),
    /// The path is not a regular file; what it is instead.
    NotRegular(&'static str),
    /// The file is larger than this limit, in bytes.
    TooLarge(u64),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::System(error) => error.fmt(f),
            FileError::NotRegular(kind) => write!(f, "it is {kind}, not a regular file"),
            FileError::TooLarge(largest) => write!(f, "it is larger than {largest} bytes"),
        }
    }
}

impl std::error::Error for FileError {}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        FileError::System(error)
    }
}

/// Reads a regular file of at most `largest` bytes.
///
/// # Errors
/// The path is not a regular file, the file is larger, or it cannot be read.
pub fn read(path: &Path, largest: u64) -> Result<Content, FileError> {
    let regular = |metadata: &Metadata| match kind(metadata.file_type()) {
        Some(kind) => Err(FileError::NotRegular(kind)),
        None => Ok(()),
    };
    // Checked before opening, because opening a device may have an effect, and after, because the file may have been
    // replaced.
    regular(&std::fs::metadata(path)?)?;
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    let bytes = bounded(file, largest)?;
    Ok(Content { bytes, mode: metadata.mode() })
}

/// Reads a file that a command line names. It may also be a pipe that the program was started with: `/dev/stdin`, or
/// `/dev/fd/63`, with which a shell replaces `<(command)`.
///
/// # Errors
/// As for [`read`].
pub fn read_argument(path: &Path, largest: u64) -> Result<Vec<u8>, FileError> {
    let inherited = path == Path::new("/dev/stdin") || path.starts_with("/dev/fd");
    if inherited && std::fs::metadata(path)?.file_type().is_fifo() {
        return bounded(File::open(path)?, largest);
    }
    read(path, largest).map(|content| content.bytes)
}

/// Returns `bytes` without the byte order mark that some editors write at the beginning of UTF-8.
#[must_use]
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)
}

fn bounded(file: File, largest: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(largest.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest { Err(FileError::TooLarge(largest)) } else { Ok(bytes) }
}

/// Returns what a file is if it is not regular.
fn kind(of: FileType) -> Option<&'static str> {
    if of.is_file() {
        None
    } else if of.is_dir() {
        Some("a directory")
    } else if of.is_fifo() {
        Some("a pipe")
    } else if of.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, mkfifoat};

    #[test]
    fn only_regular_files_are_read_without_blocking() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        let why = |path: &Path| read(path, 8).unwrap_err().to_string();
        mkfifoat(CWD, path("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::os::unix::fs::symlink("pipe", path("link to a pipe")).unwrap();
        assert_eq!(why(&path("pipe")), "it is a pipe, not a regular file");
        assert_eq!(why(&path("link to a pipe")), "it is a pipe, not a regular file");
        assert_eq!(why(&path("socket")), "it is a socket, not a regular file");
        assert_eq!(why(scratch.path()), "it is a directory, not a regular file");
        for device in ["/dev/null", "/dev/zero", "/dev/tty"] {
            assert_eq!(why(Path::new(device)), "it is a device, not a regular file");
        }
        assert!(why(&path("missing")).starts_with("No such file"));
        assert!(matches!(read_argument(&path("pipe"), 8), Err(FileError::NotRegular("a pipe"))));

        std::fs::write(path("file"), "12345678").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read(&path(name), 8).unwrap().bytes, b"12345678");
            assert_eq!(read_argument(&path(name), 8).unwrap(), b"12345678");
        }
        std::os::unix::fs::symlink("loop", path("loop")).unwrap();
        assert!(matches!(read(&path("loop"), 8), Err(FileError::System(_))));
    }

    #[test]
    fn an_argument_may_be_a_pipe_that_the_program_was_started_with() {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        let (reader, mut writer) = io::pipe().unwrap();
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        writer.write_all(b"12345678").unwrap();
        drop(writer);
        assert_eq!(read_argument(Path::new(&path), 8).unwrap(), b"12345678");
        let (reader, mut writer) = io::pipe().unwrap();
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        assert_eq!(read(Path::new(&path), 8).unwrap_err().to_string(), "it is a pipe, not a regular file");
        writer.write_all(b"123456789").unwrap();
        assert!(
            matches!(read_argument(Path::new(&path), 8), Err(FileError::TooLarge(8))),
            "it reads only up to the limit"
        );
    }

    #[test]
    fn a_huge_file_is_read_only_up_to_the_limit() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 40).unwrap();
        assert_eq!(read(file.path(), 1000).unwrap_err().to_string(), "it is larger than 1000 bytes");
    }
}
