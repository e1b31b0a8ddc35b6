//! Files that hold the secret: reading any of them, making and replacing the daemon's own.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::replace::{publish, replace_file};
use super::secret::{MOST_SECRETS, Secret, SecretError, SecretSource, parse};
use crate::regular_file::{self, FileError};

/// Room for [`MOST_SECRETS`] of any sensible length.
const LARGEST: u64 = 64 << 10;
/// 256 bits, as much as the hash of HS256 gives; 43 characters in base64url.
const SECRET_BYTES: usize = 32;

/// The text of a file, and its permission bits.
pub(super) fn read(path: &Path) -> Result<(String, u32), SecretError> {
    let content = regular_file::read(path, LARGEST).map_err(|error| match error {
        FileError::System(error) => SecretError::unreadable(path, &error),
        FileError::NotRegular(kind) => SecretError::NotAFile { path: path.to_owned(), kind },
        FileError::TooLarge(maximum) => SecretError::TooLarge { path: path.to_owned(), maximum },
    })?;
    let text = String::from_utf8(content.bytes).map_err(|_| SecretError::NotText(path.to_owned()))?;
    Ok((text, content.mode))
}

/// Makes the file with a new secret, unless another daemon that started at the same instant was first: both
/// then read the same. Returns whether this one made it.
pub(super) fn make(path: &Path) -> Result<bool, SecretError> {
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| SecretError::unwritable(path, &error))?;
    }
    let made = publish(path, &format!("{}\n", random_text()?), |new, path| std::fs::hard_link(new, path));
    match made {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(SecretError::unwritable(path, &error)),
    }
}

impl SecretSource {
    /// Replaces the daemon's own file by these lines, of which the first will sign. A reload then reads them.
    ///
    /// # Errors
    /// The secret comes from elsewhere, the text is no list of secrets, or the file cannot be written; the
    /// old one then stays whole.
    pub fn set(&self, text: &str) -> Result<PathBuf, SecretError> {
        self.replace(&parse(text)?)
    }

    /// Puts a new secret on top of the daemon's own file: it will sign, and those below go on verifying. A
    /// reload then reads them.
    ///
    /// # Errors
    /// The secret comes from elsewhere, the file holds as many as it may, or it cannot be read or written.
    pub fn rotate(&self) -> Result<PathBuf, SecretError> {
        let path = self.own_file().ok_or_else(|| SecretError::NotOwn(self.to_string()))?;
        let mut secrets = parse(&read(path)?.0)?;
        if secrets.len() == MOST_SECRETS {
            return Err(SecretError::Full);
        }
        secrets.insert(0, Secret::new(&random_text()?));
        self.replace(&secrets)
    }

    fn replace(&self, secrets: &[Secret]) -> Result<PathBuf, SecretError> {
        let path = self.own_file().ok_or_else(|| SecretError::NotOwn(self.to_string()))?;
        let lines: String = secrets.iter().map(|secret| format!("{}\n", secret.as_str())).collect();
        replace_file(path, &lines).map_err(|error| SecretError::unwritable(path, &error))?;
        Ok(path.to_owned())
    }
}

fn random_text() -> Result<String, SecretError> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| SecretError::NoRandom(error.to_string()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
