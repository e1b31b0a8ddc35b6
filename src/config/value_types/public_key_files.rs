//! Names of files that hold public keys: `PATH` or `PATH#KID`.

use std::path::Path;

use super::super::public_keys::KeyFile;
use super::raw::Raw;
use super::scalars::OptionalPath;
use super::{ProblemKind, ValueType, check_count, invalid, quoted, quoted_list};

/// Every token without a `kid` is tried against the keys of all files, so their number is bounded.
const MAX_FILES: usize = 32;

/// A list of PEM files, relative to this directory.
pub(in crate::config) struct PublicKeyFiles<'a>(pub(in crate::config) &'a Path);

impl ValueType for PublicKeyFiles<'_> {
    type Value = Vec<KeyFile>;

    fn read(&self, raw: &Raw) -> Result<Vec<KeyFile>, ProblemKind> {
        const EXPECTED: &str =
            "a list of files such as [\"/etc/philote/issuer.pem\"] or [\"issuer.pem#KID\"]";
        let mut files: Vec<KeyFile> = Vec::new();
        for item in raw.list(EXPECTED)? {
            let text = item.text(EXPECTED)?;
            let (path, kid) = match text.rsplit_once('#') {
                Some((path, kid)) if !kid.is_empty() => (path, Some(kid.to_owned())),
                Some(_) => return Err(invalid(EXPECTED, text)),
                None => (text, None),
            };
            let Some(path) = OptionalPath(self.0).read(&Raw::String(path.to_owned()))? else {
                return Err(invalid(EXPECTED, text));
            };
            if files.iter().any(|file| file.path == path) {
                return Err(ProblemKind::Repeated { found: text.to_owned() });
            }
            files.push(KeyFile { path, kid, keys: Vec::new() });
        }
        check_count(files.len(), 0..=MAX_FILES, "files").map(|()| files)
    }

    fn show(&self, files: &Vec<KeyFile>) -> Option<String> {
        let name = |file: &KeyFile| {
            let path = file.path.display();
            file.kid.as_ref().map_or_else(|| path.to_string(), |kid| format!("{path}#{kid}"))
        };
        Some(quoted_list(files.iter().map(name)))
    }
}

/// A JSON Web Key Set, relative to this directory.
pub(in crate::config) struct JwksFile<'a>(pub(in crate::config) &'a Path);

impl ValueType for JwksFile<'_> {
    type Value = Option<KeyFile>;

    fn read(&self, raw: &Raw) -> Result<Option<KeyFile>, ProblemKind> {
        let path = OptionalPath(self.0).read(raw)?;
        Ok(path.map(|path| KeyFile { path, kid: None, keys: Vec::new() }))
    }

    fn show(&self, file: &Option<KeyFile>) -> Option<String> {
        file.as_ref().map(|file| quoted(file.path.display()))
    }
}
