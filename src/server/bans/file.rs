//! The bans on the disk, so that they hold across restarts.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::{fmt, io};

use super::record::BanRecord;
use crate::config;
use crate::regular_file::{self, FileError, without_mark};

/// The largest file that is read, in bytes: room for [`MAX_BANS`](crate::server::bans::MAX_BANS) banned subjects of 255
/// bytes, each of which JSON may write as six, and for as many whose bans were lifted.
const LARGEST: u64 = 40 << 20;

/// The file: one JSON object of subjects and their [`BanRecord`]s.
#[derive(Debug, Default)]
pub struct BanFile(Option<PathBuf>);

/// Why the file cannot be read or written.
#[derive(Debug)]
pub enum BanFileError {
    /// There is no directory to keep it in.
    NoPlace,
    /// It is no regular file, or the system does not let it be read.
    Unreadable(PathBuf, FileError),
    /// Its content is not what was written.
    Damaged(PathBuf, serde_json::Error),
    /// The system does not let it be written.
    Unwritable(PathBuf, io::Error),
}

impl fmt::Display for BanFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BanFileError::NoPlace => f.write_str(
                "there is no directory to save the refused subjects in: set STATE_DIRECTORY or HOME",
            ),
            BanFileError::Unreadable(path, error) => {
                write!(f, "cannot read the refused subjects from {}: {error}", path.display())
            }
            BanFileError::Damaged(path, error) => write!(
                f,
                "{} is not a list of refused subjects ({error}): correct it, or remove it to lift all bans",
                path.display()
            ),
            BanFileError::Unwritable(path, error) => {
                write!(f, "cannot save the refused subjects in {}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for BanFileError {}

impl BanFile {
    /// The file at this path; without a path nobody can be banned.
    pub fn new(path: Option<PathBuf>) -> BanFile {
        BanFile(path)
    }

    /// Reads the bans; none if there is no file.
    ///
    /// # Errors
    /// The file exists and cannot be read. Banned subjects must not get in because of that.
    pub(crate) fn load(&self) -> Result<BTreeMap<Box<str>, BanRecord>, BanFileError> {
        let Some(path) = &self.0 else { return Ok(BTreeMap::new()) };
        match regular_file::read(path, LARGEST) {
            Ok(content) => serde_json::from_slice(without_mark(&content.bytes))
                .map_err(|error| BanFileError::Damaged(path.clone(), error)),
            Err(FileError::System(error)) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(BanFileError::Unreadable(path.clone(), error)),
        }
    }

    /// Replaces the file as a whole.
    pub(crate) fn save(&self, refused: &BTreeMap<Box<str>, BanRecord>) -> Result<(), BanFileError> {
        let path = self.0.as_ref().ok_or(BanFileError::NoPlace)?;
        let unwritable = |error| BanFileError::Unwritable(path.clone(), error);
        let text = serde_json::to_string_pretty(refused).map_err(|error| unwritable(error.into()))?;
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unwritable)?;
        }
        config::replace_file(path, &(text + "\n")).map_err(unwritable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_list_is_loaded_and_a_damaged_one_is_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("state/refused.json");
        let file = BanFile::new(Some(path.clone()));
        assert!(file.load().unwrap().is_empty());
        let record = |until| BanRecord { until, changed: u64::MAX, keep: 9 };
        let saved = [("alice \"\n".into(), record(7)), ("bob".into(), record(0))];
        file.save(&saved.clone().into()).unwrap();
        let loaded = file.load().unwrap();
        assert_eq!(loaded.into_iter().collect::<Vec<_>>(), saved);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        std::fs::write(&path, "{").unwrap();
        let error = file.load().unwrap_err().to_string();
        assert!(error.contains("refused.json is not a list of refused subjects"), "{error}");
        assert!(BanFile::default().save(&BTreeMap::new()).is_err());
    }
}
