//! Files that hold secrets: reads them, and writes the one that the daemon generates.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::super::atomic_file::{replace_file, write_new};
use super::{MAX_SECRETS, Secret, SecretError, SecretSource, parse};
use crate::regular_file::{self, FileError};

/// Bytes; room for [`MAX_SECRETS`] of any sensible length.
const LARGEST: u64 = 64 << 10;
/// 256 bits, the size of the hash of HS256; 43 characters in base64url.
const SECRET_BYTES: usize = 32;

/// Returns the text of a file.
pub(in crate::config) fn read_secret_file(path: &Path) -> Result<String, SecretError> {
    let content = regular_file::read(path, LARGEST).map_err(|error| match error {
        FileError::System(error) => SecretError::unreadable(path, &error),
        FileError::NotRegular(kind) => SecretError::NotAFile { path: path.to_owned(), kind },
        FileError::TooLarge(maximum) => SecretError::TooLarge { path: path.to_owned(), maximum },
    })?;
    String::from_utf8(content.bytes).map_err(|_| SecretError::NotText(path.to_owned()))
}

/// Generates a secret and writes it to a new file. Returns false if the file exists by now, because another daemon that
/// started at the same time has written it.
pub(in crate::config) fn make_secret_file(path: &Path) -> Result<bool, SecretError> {
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| SecretError::unwritable(path, &error))?;
    }
    let made = write_new(path, &format!("{}\n", random_text()?));
    match made {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(SecretError::unwritable(path, &error)),
    }
}

impl SecretSource {
    /// Returns the text of the generated file, if there is one and it can be read.
    pub fn generated_text(&self) -> Option<String> {
        read_secret_file(self.generated_file()?).ok()
    }

    /// Replaces the generated file by these lines. The first of them signs after a reload.
    ///
    /// # Errors
    /// The secret was not generated, the text has invalid lines, or the file cannot be written. The old file then stays.
    pub fn set(&self, text: &str) -> Result<PathBuf, SecretError> {
        self.replace(&parse(text)?)
    }

    /// Inserts a new secret as the first line of the generated file. After a reload it signs, and the others still
    /// verify.
    ///
    /// # Errors
    /// The secret was not generated, the file is full, or it cannot be read or written.
    pub fn rotate(&self) -> Result<PathBuf, SecretError> {
        let path = self.generated_file().ok_or_else(|| SecretError::NotGenerated(self.to_string()))?;
        let mut secrets = parse(&read_secret_file(path)?)?;
        if secrets.len() == MAX_SECRETS {
            return Err(SecretError::Full);
        }
        secrets.insert(0, Secret::new(&random_text()?));
        self.replace(&secrets)
    }

    fn replace(&self, secrets: &[Secret]) -> Result<PathBuf, SecretError> {
        let path = self.generated_file().ok_or_else(|| SecretError::NotGenerated(self.to_string()))?;
        let lines: String = secrets.iter().map(|secret| format!("{}\n", secret.as_str())).collect();
        replace_file(path, &lines).map_err(|error| SecretError::not_replaced(path, &error))?;
        Ok(path.to_owned())
    }
}

fn random_text() -> Result<String, SecretError> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| SecretError::NoRandom(error.to_string()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
