//! Reads the secret with which a command-line program signs tokens, from a file with one secret per line.

use std::fmt;
use std::path::Path;

use crate::regular_file::{FileError, read_argument};

/// Bytes; room for all the secrets of a daemon, of any sensible length.
const LARGEST: u64 = 64 << 10;

/// Returns the secret that signs, which is exactly the first line. The file may be a pipe that the program was started
/// with.
///
/// # Errors
/// The file cannot be read, or the daemon would refuse this secret.
pub fn signing_secret(path: &Path) -> Result<String, SecretFileError> {
    let bytes = read_argument(path, LARGEST).map_err(SecretFileError::File)?;
    let text = String::from_utf8(bytes).map_err(|_| SecretFileError::NotText)?;
    let line = text.split('\n').next().unwrap_or_default();
    if line.starts_with('\u{feff}') {
        Err(SecretFileError::ByteOrderMark)
    } else if line.contains('\r') {
        Err(SecretFileError::CarriageReturn)
    } else if line.is_empty() {
        Err(SecretFileError::Empty)
    } else {
        Ok(line.to_owned())
    }
}

/// Why a file has no usable secret. A message puts the path before the `Display` text.
#[derive(Debug)]
pub enum SecretFileError {
    /// The file cannot be read.
    File(FileError),
    /// The file is not UTF-8.
    NotText,
    /// The first line is empty.
    Empty,
    /// The first line has a carriage return, as editors of other systems write it.
    CarriageReturn,
    /// An invisible byte order mark would be part of the secret.
    ByteOrderMark,
}

impl fmt::Display for SecretFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SecretFileError::File(error) => return error.fmt(f),
            SecretFileError::NotText => "it is not UTF-8 text",
            SecretFileError::Empty => "its first line is empty, but must be the secret",
            SecretFileError::CarriageReturn => {
                "its first line has a carriage return: save it with Unix line endings"
            }
            SecretFileError::ByteOrderMark => {
                "it begins with an invisible byte order mark: save it as UTF-8 without one"
            }
        })
    }
}

impl std::error::Error for SecretFileError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_secret_file_signs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &[u8]| {
            std::fs::write(file.path(), text).unwrap();
            signing_secret(file.path()).map_err(|error| error.to_string())
        };
        assert_eq!(read(b" blanks count \nolder\n").as_deref(), Ok(" blanks count "));
        assert_eq!(read(b"no newline").as_deref(), Ok("no newline"));
        for (text, why) in [
            (&b""[..], "its first line is empty"),
            (b"\nx", "its first line is empty"),
            (b"secret\r\n", "carriage return"),
            ("\u{feff}secret\n".as_bytes(), "byte order mark"),
            (b"\xff\xfes\0", "not UTF-8"),
            (&[b'x'; 70_000], "larger than 65536 bytes"),
        ] {
            assert!(read(text).unwrap_err().contains(why), "{why}");
        }
    }
}
