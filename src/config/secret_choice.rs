//! Which of the places that may hold the secret counts.
//!
//! The command line wins over the environment, and that over the file. Where one of them gives both, `secret`
//! wins over `secret_file`. With neither, it is systemd's credential, and without that the daemon's own file; for
//! development it is one that everybody knows.

use std::path::{Path, PathBuf};

use super::dev::DEV_SECRET;
use super::draft::Draft;
use super::environment::Environment;
use super::error::Situation;
use super::origin::Origin;
use super::secret::{self, Secret, SecretError, SecretSource, Secrets, parse};
use super::secret_file;

const SECRET: &str = "auth.secret";
const SECRET_FILE: &str = "auth.secret_file";

/// Reads the secret into the settings; makes nothing.
pub(super) fn choose(draft: &mut Draft, environment: &Environment) {
    // Where the secret, or the whole file, could not be read, to look further would find the wrong one.
    let is_secret = |key: &String| key == SECRET || key == SECRET_FILE;
    if draft.problems.iter().any(|problem| problem.key.as_ref().is_none_or(is_secret)) {
        return;
    }
    drop_the_weaker(draft);
    let (key, origin) = match (&draft.secret, &draft.secret_file) {
        (None, Some(_)) => (SECRET_FILE, draft.origins.get(SECRET_FILE).cloned()),
        _ => (SECRET, draft.origins.get(SECRET).cloned()),
    };
    match read(draft, environment) {
        Ok(secrets) => {
            draft.warnings.extend(secret::warnings(&secrets));
            draft.settings.auth.secrets = secrets;
        }
        Err(error) => draft.wrong(key, origin, Situation::Secret(error)),
    }
}

/// Leaves at most one of `secret` and `secret_file`.
fn drop_the_weaker(draft: &mut Draft) {
    if draft.secret.is_none() || draft.secret_file.is_none() {
        return;
    }
    let rank = |key| draft.origins.get(key).map_or(0, layer);
    let (secret, file) = (rank(SECRET), rank(SECRET_FILE));
    if secret == file {
        draft.warnings.push(format!("{SECRET_FILE} is not used: {SECRET} is set beside it"));
    }
    if file > secret {
        draft.secret = None;
        draft.origins.remove(SECRET);
    } else {
        draft.secret_file = None;
        draft.origins.remove(SECRET_FILE);
    }
}

fn layer(origin: &Origin) -> u8 {
    match origin {
        Origin::Default => 0,
        Origin::File { .. } => 1,
        Origin::Environment(_) => 2,
        Origin::CommandLine(_) => 3,
    }
}

fn read(draft: &mut Draft, environment: &Environment) -> Result<Secrets, SecretError> {
    let set = draft.secret.is_some() || draft.secret_file.is_some();
    if draft.settings.dev && !set {
        return Ok(Secrets::new(parse(DEV_SECRET)?, SecretSource::Dev));
    }
    let credential = environment
        .directory("CREDENTIALS_DIRECTORY")
        .map(|directory| directory.join("secret"))
        .filter(|path| path.exists());
    if let Some(unused) = credential.as_ref().filter(|_| set) {
        draft.warnings.push(format!("{} is not used: the secret is set elsewhere", unused.display()));
    }
    if let Some(text) = draft.secret.take() {
        let origin = draft.origins.get(SECRET).cloned().unwrap_or(Origin::Default);
        if let Origin::CommandLine(_) = origin {
            draft
                .warnings
                .push(format!("{SECRET} on the command line is seen by every user: use {SECRET_FILE}"));
        }
        if let Origin::File { path, .. } = &origin {
            let mode =
                std::fs::metadata(path).map_or(0, |metadata| std::os::unix::fs::MetadataExt::mode(&metadata));
            warn_of_readers(draft, path, mode, OTHERS);
        }
        return Ok(Secrets::new(keys(draft, &text)?, SecretSource::Setting(origin)));
    }
    if let Some(path) = draft.secret_file.clone() {
        let (text, mode) = secret_file::read(&path)?;
        warn_of_readers(draft, &path, mode, OTHERS);
        return Ok(Secrets::new(keys(draft, &text)?, SecretSource::File(path)));
    }
    if let Some(path) = credential {
        let (text, _) = secret_file::read(&path)?;
        return Ok(Secrets::new(keys(draft, &text)?, SecretSource::Credential(path)));
    }
    own(draft, environment.state_directory().ok_or(SecretError::NoPlace)?.join("secret"))
}

/// The daemon's own file, or that it is still to be made.
fn own(draft: &mut Draft, path: PathBuf) -> Result<Secrets, SecretError> {
    if matches!(path.try_exists(), Ok(false)) {
        return Ok(Secrets::new(Vec::new(), SecretSource::Missing(path)));
    }
    let (text, mode) = secret_file::read(&path)?;
    warn_of_readers(draft, &path, mode, GROUP_AND_OTHERS);
    Ok(Secrets::new(keys(draft, &text)?, SecretSource::Own(path)))
}

fn keys(draft: &Draft, text: &str) -> Result<Vec<Secret>, SecretError> {
    match parse(text) {
        Err(SecretError::Empty) if draft.settings.auth.allow_empty_secret => Ok(vec![Secret::new("")]),
        parsed => parsed,
    }
}

/// Permission bits that nobody should have, and the chmod that takes them away. An administrator's file may
/// well be readable to a group, the service's; the daemon's own has no such reader.
const OTHERS: (u32, &str) = (0o007, "o-rwx");
const GROUP_AND_OTHERS: (u32, &str) = (0o077, "go-rwx");

fn warn_of_readers(draft: &mut Draft, path: &Path, mode: u32, (bits, chmod): (u32, &str)) {
    if mode & bits != 0 {
        let path = path.display();
        draft
            .warnings
            .push(format!("{path} holds the secret, and others can read or write it: chmod {chmod} {path}"));
    }
}
