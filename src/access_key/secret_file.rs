//! The secret that a client of its own signs with, from a file that holds one a line.

use std::fmt;
use std::path::Path;

use crate::regular_file::{FileError, read_argument};

/// The largest file that is read, in bytes: room for all secrets that a daemon takes, of any sensible length.
const LARGEST: u64 = 64 << 10;

/// The secret that signs: the first line, exactly its characters, which the daemon must have as well. The file may be a
/// pipe that the program was started with.
///
/// # Errors
/// The file cannot be read, or the daemon would refuse a secret like this.
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

/// Why a file gives no secret to sign with. `Display` follows the name of the file.
#[derive(Debug)]
pub enum SecretFileError {
    /// It cannot be read.
    File(FileError),
    /// It is not UTF-8.
    NotText,
    /// There is nothing in its first line.
    Empty,
    /// Its first line was written by another system's editor.
    CarriageReturn,
    /// A mark that nobody sees would be part of the secret.
    ByteOrderMark,
}

impl fmt::Display for SecretFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SecretFileError::File(error) => return error.fmt(f),
            SecretFileError::NotText => "it is not UTF-8 text",
            SecretFileError::Empty => "there is no secret in its first line",
            SecretFileError::CarriageReturn => {
                "its first line has a carriage return: save it with Unix line ends"
            }
            SecretFileError::ByteOrderMark => {
                "it begins with a byte order mark, which nobody sees: save it as UTF-8 without one"
            }
        })
    }
}

impl std::error::Error for SecretFileError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_s_file_signs_with_its_first_line_as_it_stands() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &[u8]| {
            std::fs::write(file.path(), text).unwrap();
            signing_secret(file.path()).map_err(|error| error.to_string())
        };
        assert_eq!(read(b" blanks count \nolder\n").as_deref(), Ok(" blanks count "));
        assert_eq!(read(b"no newline").as_deref(), Ok("no newline"));
        for (text, why) in [
            (&b""[..], "no secret in its first line"),
            (b"\nx", "no secret in its first line"),
            (b"secret\r\n", "carriage return"),
            ("\u{feff}secret\n".as_bytes(), "byte order mark"),
            (b"\xff\xfes\0", "not UTF-8"),
            (&[b'x'; 70_000], "larger than 65536 bytes"),
        ] {
            assert!(read(text).unwrap_err().contains(why), "{why}");
        }
    }
}
